"""What TRL's `GRPOTrainer(environment_factory=...)` trains on: an episode played with tools.

What to know of TRL 1.16:

- Frames are images, never a video: a pair of frames costs twice what the session counts. An image
  processor whose smallest size is above the budget's enlarges them, and they cost more still.
- `max_completion_length`, 512 by default, counts everything after the first prompt, images too. The
  result of a tool that would pass it is taken back, and the rollout ends there, with a reward.
- The loss leaves out what tools said; tokens are appended and never made anew.
- A call that lacks an argument, or has one too many, is TRL's to answer: it costs no turn here.
- What the model thinks stands before its call and is not part of the reply, whose form is
  therefore right whenever it can be carried out.
- After the answer the model writes once more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from envs.adapters.content import Block, content_blocks, crop_reply, for_tools
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.action import write_answer
from videoseek_env.env import DEFAULT_CACHE_BYTES, Score
from videoseek_env.errors import EpisodeError, MissingExtraError, TaskError, VideoDecodeError
from videoseek_env.session import SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import Backend, ClipCache, VideoReader, open_video

if TYPE_CHECKING:
    from datasets import Dataset  # type: ignore[import-untyped]

_logger = logging.getLogger(__name__)


class VideoSeekTRLEnvironment:
    """An episode as TRL drives it: `reset`, the tools `crop` and `answer`, `get_reward`.

    TRL makes a tool of every other public method, so there is none. `environment_factory` makes
    instances; TRL keeps them and resets them from batch to batch.
    """

    def __init__(
        self,
        tasks: Mapping[str, VideoTask],
        config: SessionConfig,
        reward: Callable[[Trajectory], Score],
        *,
        cache: ClipCache,
        backend: Backend = "auto",
        max_images: int | None = None,
    ) -> None:
        """Prepare without opening a video; see `environment_factory`."""
        self.session: VideoSession | None = None
        """The episode, for reward functions of one's own; None if its video can't be opened."""
        self._tasks, self._config, self._reward = tasks, config, reward
        self._cache, self._backend, self._max_images = cache, backend, max_images
        self._task: VideoTask | None = None
        self._reader: VideoReader | None = None

    def reset(self, task_id: str | None = None, **row: Any) -> list[Block]:
        """Start the episode that a row of `train_dataset` names; TRL appends it to the prompt.

        A video that can't be decoded is logged and told to the model, and has no reward: it must
        not end a training run.

        Args:
            task_id: The task; members of a group have the same one.
            **row: The row's other columns, which are ignored.

        Returns:
            The system prompt, the overview's frames, each behind its time, and the question.

        Raises:
            TaskError: If there is no such task.
        """
        task = None if task_id is None else self._tasks.get(task_id)
        if task is None:
            some = ", ".join(list(self._tasks)[:5])
            raise TaskError(
                f"no task {task_id!r} among {len(self._tasks)}, such as: {some}. Rows need a "
                "task_id: train on train_dataset(tasks), with the tasks of the factory"
            )
        self._close()
        self._task, self.session = task, None
        try:
            self._reader = open_video(task.video, self._backend, frame_fps=task.frame_fps)
            self.session = VideoSession(task, self._reader, self._config, cache=self._cache)
            observation = self.session.start()
        except VideoDecodeError as error:
            _logger.warning("task %s: %s", task.id, error)
            return [{"type": "text", "text": "The video can't be shown."}]
        system: Block = {"type": "text", "text": f"{observation.system}\n\n"}
        return [system, *content_blocks(observation, self._max_images)]

    def crop(
        self, start: float, end: float, detail: Literal["coarse", "medium", "fine"]
    ) -> list[Block]:
        """Looks closer at a stretch of the video, and returns new frames of it.

        Args:
            start: Where the stretch starts, in seconds of the whole video.
            end: Where it ends, at least one second later.
            detail: How sharp and dense the frames are, and how much of the context they take.
        """
        return self._reply(crop_reply(start, end, detail))

    def answer(self, text: str) -> list[Block]:
        """Gives the final answer, which ends the episode.

        Args:
            text: The answer alone: the letter of the right option, or as the question asks for it.
        """
        return self._reply(write_answer("", str(text)))

    def get_reward(self) -> float | None:
        """Score the episode, which ends here: without an answer, if the model gave none.

        Returns:
            The reward; None if the video could not be decoded, which TRL leaves out of the group.

        Raises:
            EpisodeError: Before the first reset.
        """
        reason, session = self._end_reason(), self.session
        self._close()
        if session is None or reason is EndReason.VIDEO_FAILED:
            return None
        session.abandon()
        return float(self._reward(session.trajectory).value)

    def _reply(self, text: str) -> list[Block]:
        if self._end_reason() is None and self.session is not None:
            observation = self.session.reply(text)
            if observation is not None:
                return content_blocks(observation, self._max_images)
        return [{"type": "text", "text": f"The episode is over: {self._end_reason()}."}]

    def _end_reason(self) -> EndReason | None:
        if self._task is None:
            raise EpisodeError("no episode yet; call reset(task_id=...) first")
        return EndReason.VIDEO_FAILED if self.session is None else self.session.end_reason

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def environment_factory(
    tasks: Sequence[VideoTask],
    *,
    config: SessionConfig | None = None,
    reward: Callable[[Trajectory], Score] | None = None,
    backend: Backend = "auto",
    cache: ClipCache | None = None,
    max_images: int | None = None,
) -> Callable[[], VideoSeekTRLEnvironment]:
    """What `GRPOTrainer(environment_factory=...)` takes; all its environments share one cache.

    Args:
        tasks: What the rows of the dataset name; ids are unique.
        config: The rules of an episode. The default system prompt gives way to one for tools.
        reward: Scores a finished trajectory; by default the trajectory-guided reward.
        backend: The video decoder.
        cache: Decoded clips; by default a new one of 256 MiB.
        max_images: Frames of one observation at most; more are thinned out evenly.

    Raises:
        TaskError: If there are no tasks, or two share an id.
    """
    by_id = {task.id: task for task in tasks}
    if not by_id or len(by_id) < len(tasks):
        raise TaskError(
            f"expected at least one task, each with its own id; got {len(tasks)} tasks with "
            f"{len(by_id)} ids"
        )
    return partial(
        VideoSeekTRLEnvironment,
        by_id,
        for_tools(config),
        TrajectoryGuidedReward() if reward is None else reward,
        cache=ClipCache(DEFAULT_CACHE_BYTES) if cache is None else cache,
        backend=backend,
        max_images=max_images,
    )


def train_dataset(tasks: Sequence[VideoTask]) -> Dataset:
    """The rows that name the tasks; `reset` adds the question and the frames to their prompt.

    Raises:
        MissingExtraError: If `datasets`, which comes with TRL, is not installed.
    """
    try:
        from datasets import Dataset
    except ModuleNotFoundError as error:
        raise MissingExtraError("datasets", "trl", "making a dataset") from error

    prompt = [{"role": "user", "content": ""}]
    return Dataset.from_list([{"prompt": prompt, "task_id": task.id} for task in tasks])
