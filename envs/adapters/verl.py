"""What verl needs beside its own loops: rows of a dataset, a score, an episode that can't crash.

Written for verl 0.9.1; nothing here imports it. `envs.adapters.verl_loop` plays whole episodes,
`envs.adapters.verl_tool` adds a crop tool to verl's own loop.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from envs.adapters.content import crop_reply
from rewards import score
from videoseek_env.action import read_json, tag_blocks
from videoseek_env.env import DEFAULT_CACHE_BYTES
from videoseek_env.errors import TaskError, VideoDecodeError
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import ClipCache, VideoReader, open_video

_logger = logging.getLogger(__name__)


def rows(tasks: Iterable[VideoTask]) -> Iterator[dict[str, Any]]:
    """The rows of verl's dataset, JSON-serialisable; the loop adds frames when it plays them."""
    for index, task in enumerate(tasks):
        clues = [[clue.start_seconds, clue.end_seconds] for clue in task.clues]
        truth = {"answer": task.answer, "clue": [{"timestamp": clue} for clue in clues]}
        yield {
            "data_source": task.kind.value,
            "prompt": [{"role": "user", "content": task.question}],
            "agent_name": "videoseek",
            "reward_model": {"style": "rule", "ground_truth": truth},
            # As text: the columns of a dataset have one form for all rows.
            "extra_info": {"index": index, "task": json.dumps(task.to_dict())},
        }


def task_of(fields: Mapping[str, Any]) -> VideoTask:
    """The task in a row's `extra_info`, or in the `create_kwargs` of the crop tool.

    Raises:
        TaskError: If there is none, or it can't be read.
    """
    if "task" not in fields:
        raise TaskError(
            f"expected a field 'task', got {sorted(fields)}; make the data with "
            "envs.adapters.verl.rows, or tool_rows for the tool"
        )
    return VideoTask.from_dict(json.loads(fields["task"]))


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Mapping[str, Any],
    extra_info: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Score the text that verl calls a solution, as its own loops write it.

    For `custom_reward_function.path=pkg://envs.adapters.verl`. The agent loop here needs none: it
    scores the episode, whereas a text that holds the chat's headings can feign turns.

    Args:
        data_source: The kind of the task.
        solution_str: The response without special tokens: the agent's turns, with what tools said
            between them. Crops are calls of the tool in Hermes form.
        ground_truth: As in `rows`.
        extra_info: Not read.

    Returns:
        `score`, and its parts `acc`, `format`, `bonus`.

    Raises:
        TaskError: If the kind is unknown, or the ground truth has another form.
    """
    calls = [read_json(block) for block in tag_blocks(solution_str, "tool_call")]
    crops = [
        reply_of(call.get("arguments") if isinstance(call, Mapping) else None) for call in calls
    ]
    last = solution_str.rpartition("\nassistant\n")[2]
    return score.compute_score(data_source, [*crops, last], ground_truth)


def reply_of(arguments: Any) -> str:
    """The reply that a call of the crop tool stands for, whatever a model passes to it."""
    wanted = arguments if isinstance(arguments, Mapping) else {}
    return crop_reply(wanted.get("start"), wanted.get("end"), wanted.get("detail"))


@cache
def shared_cache(max_bytes: int = DEFAULT_CACHE_BYTES) -> ClipCache:
    """One for all episodes of a worker process: verl makes a new agent loop for each."""
    return ClipCache(max_bytes)


class GuardedEpisode:
    """A session with its video; one that can't be decoded ends this episode and nothing else.

    Replies may come from several threads; they are carried out one after the other.
    """

    def __init__(self, task: VideoTask, config: SessionConfig, clips: ClipCache) -> None:
        self._task, self._config, self._clips = task, config, clips
        self._lock = threading.RLock()
        self._has_started = False
        self._reader: VideoReader | None = None
        self._session: VideoSession | None = None

    @property
    def trajectory(self) -> Trajectory:
        """What has happened so far."""
        if self._session is None:
            return Trajectory(self._task, (), EndReason.VIDEO_FAILED, 0.0)
        return self._session.trajectory

    def start(self) -> Observation | None:
        """The first observation; None if the episode ended with it."""
        return self._guarded(self._start)

    def reply(self, text: str) -> Observation | None:
        """The next observation; None if the episode has ended. Starts one that has not begun."""
        with self._lock:
            if not self._has_started:
                self.start()
            session = self._session
            if session is None or session.end_reason is not None:
                return None
            return self._guarded(lambda: session.reply(text))

    def end(self, reason: EndReason = EndReason.ABANDONED) -> None:
        """End the episode if it runs, and free the video."""
        if self._session is not None:
            self._session.abandon(reason)
        if self._reader is not None:
            self._reader.close()

    def _start(self) -> Observation:
        self._has_started = True
        self._reader = open_video(self._task.video, frame_fps=self._task.frame_fps)
        self._session = VideoSession(self._task, self._reader, self._config, cache=self._clips)
        return self._session.start()

    def _guarded(self, step: Callable[[], Observation | None]) -> Observation | None:
        try:
            observation = step()
        except VideoDecodeError as error:
            _logger.warning("task %s: %s", self._task.id, error)
            return None
        return observation if self.trajectory.end_reason is None else None
