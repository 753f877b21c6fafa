"""The Gymnasium face of an episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from videoseek_env.action import Malformed
from videoseek_env.budget import get_budget
from videoseek_env.errors import EpisodeError, TaskError
from videoseek_env.render import Window, render_ansi, render_rgb
from videoseek_env.session import CHARS_PER_TOKEN, Observation, SessionConfig, VideoSession
from videoseek_env.spaces import ClipSpace, UnicodeText
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import Backend, ClipCache, VideoReader, open_video
from videoseek_env.video.file_identity import FileIdentity, file_identity

DEFAULT_CACHE_BYTES = 256 * 2**20


class ObservationDict(TypedDict):
    """What `reset` and `step` return; the arrays are the caller's own."""

    text: str
    frames: npt.NDArray[np.uint8]
    timestamps: npt.NDArray[np.float64]


class Score(Protocol):
    """What a reward function returns; `rewards.Reward` is one."""

    @property
    def value(self) -> float:
        """The episode's reward."""

    @property
    def parts(self) -> Mapping[str, float]:
        """Its named components."""


def observation_dict(observation: Observation, *, max_text_chars: int) -> ObservationDict:
    """An observation as environments hand it out.

    The arrays are the caller's own: those of the session are shared through the cache.
    """
    text, clip = observation.text[:max_text_chars], observation.clip
    if clip is None:
        return {
            "text": text,
            "frames": np.zeros((0, 0, 0, 3), np.uint8),
            "timestamps": np.zeros(0),
        }
    return {
        "text": text,
        "frames": clip.frames.copy(),
        "timestamps": clip.timestamps_seconds.copy(),
    }


class VideoSeekEnv(gymnasium.Env[ObservationDict, str]):
    """Answer a question about a long video by looking where it matters.

    Observation: a dictionary of `text` (str), `frames` (uint8 [N, H, W, 3], RGB) and `timestamps`
        (float64 [N], seconds of the whole video). The first one is the overview and the question;
        later ones are crops. After a malformed reply, and at the end, N = 0.
    Action: the reply, a string: `<think>..</think>` and then
        `<grounding>{"temporal_segment": [t0, t1], "sampling_strategy": "fine"}</grounding>` or
        `<answer>..</answer>`. Any string is survivable; one over the budget's limit is cut, which
        ends the episode.
    Reward: 0 until the last step, which pays `reward(trajectory).value`.
    Termination: the agent's reply ended the episode: an answer, no action, or a reply too long.
    Truncation: turns, clips or context ran out, or the host stopped the episode.
    Info: `task_id`, `kind`, `turns`, `malformed_replies`, `context_tokens`, `visual_tokens`,
        `system_prompt` (reset only), and from the last step `end_reason`, `reward_parts` and
        `trajectory`. A prompt over the context limit has its `end_reason` at reset already.
    Reset: `seed` draws the task; `options={"task_id": ...}` pins it, so that all members of a group
        can share one.

    Source: arXiv 2601.23224.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as Gymnasium declares it
        "render_modes": ["human", "rgb_array", "ansi"],
        "render_fps": 1,
    }

    def __init__(
        self,
        tasks: Sequence[VideoTask],
        reward: Callable[[Trajectory], Score],
        *,
        config: SessionConfig | None = None,
        backend: Backend = "auto",
        cache: ClipCache | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Prepare an environment without opening a video.

        Args:
            tasks: What `reset` draws from; ids are unique.
            reward: Scores a finished trajectory.
            config: The rules of an episode.
            backend: The video decoder.
            cache: Decoded clips; share one among environments to decode once for all of them. The
                default is a cache of its own, of 256 MiB.
            render_mode: None, "human", "rgb_array" or "ansi".

        Raises:
            TaskError: If there are no tasks, or two share an id.
            ValueError: If the render mode is unknown.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode must be None or one of {self.metadata['render_modes']}, "
                f"got {render_mode!r}"
            )
        self.render_mode = render_mode
        self.tasks = {task.id: task for task in tasks}
        self._task_list = list(tasks)
        if not self.tasks or len(self.tasks) < len(tasks):
            raise TaskError(
                f"expected at least one task, each with its own id; got {len(tasks)} tasks with "
                f"{len(self.tasks)} ids"
            )
        self.config = config or SessionConfig()
        self._reward = reward
        self._backend = backend
        self._cache = ClipCache(DEFAULT_CACHE_BYTES) if cache is None else cache
        self._reader: VideoReader | None = None
        self._reader_key: tuple[str, float | None, FileIdentity | None] = ("", None, None)
        self._session: VideoSession | None = None
        self._observation = Observation("")
        self._is_over = True
        self._window: Window | None = None
        budget = get_budget(self.config.budget)
        side, frames = budget.max_side_px, budget.max_clip_frames
        # No prompt within the context limit is longer, unless the tokenizer packs more than four
        # characters into a token on average; leave room for that.
        self._max_text_chars = 4 * CHARS_PER_TOKEN * budget.context_tokens
        members: dict[str, spaces.Space[Any]] = {
            "text": UnicodeText(self._max_text_chars),
            "frames": ClipSpace((frames, side, side, 3), np.uint8),
            "timestamps": ClipSpace((frames,), np.float64),
        }
        self.observation_space = cast("spaces.Space[ObservationDict]", spaces.Dict(members))
        self.action_space = UnicodeText(CHARS_PER_TOKEN * budget.max_reply_tokens)

    @property
    def session(self) -> VideoSession:
        """The episode behind this environment.

        Raises:
            EpisodeError: Before the first reset.
        """
        if self._session is None:
            raise EpisodeError("no episode yet; call reset() first")
        return self._session

    @property
    def observation(self) -> Observation:
        """The observation on view, with its clip as the session gave it."""
        return self._observation

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObservationDict, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seeds the draw of tasks, of this reset and of later ones.
            options: `{"task_id": ...}` pins the task.

        Raises:
            TaskError: If there is no such task, or an option is unknown.
            VideoDecodeError: If the video can't be decoded.
        """
        super().reset(seed=seed)
        task = self._choose_task(options or {})
        self._session, self._observation, self._is_over = None, Observation(""), True
        session = self._begin(task)
        self._observation = session.start()
        self._session = session
        self._is_over = False
        info = self._info() | {"system_prompt": self.config.prompts.system_text()}
        if session.end_reason is not None:
            info["end_reason"] = session.end_reason.value
        self._show()
        return self._observation_dict(), info

    def step(self, action: str) -> tuple[ObservationDict, float, bool, bool, dict[str, Any]]:
        """Carry out a reply.

        Raises:
            EpisodeError: If the episode is over, or none was started.
            TypeError: If the action is not a string.
            VideoDecodeError: If the frames can't be decoded; the next step then ends the episode.
        """
        session = self.session
        if self._is_over:
            raise EpisodeError("the episode is over; call reset() first")
        if not isinstance(action, str):
            raise TypeError(f"an action is a string, got {type(action).__name__}")
        # A prompt over the context limit ended the episode at reset, which can't say so.
        observation = None if session.end_reason else session.reply(action)
        if observation is not None:
            self._observation = observation
            self._show()
            return self._observation_dict(), 0.0, False, False, self._info()
        return self._finish(session)

    def render(self) -> npt.NDArray[np.uint8] | str | None:
        """The episode so far: text, an RGB array [H, W, 3], or None with "human"."""
        if self.render_mode == "ansi":
            return render_ansi(
                self.session.trajectory,
                self._observation.clip,
                observation_text=self._observation.text,
            )
        if self.render_mode == "rgb_array":
            return self._render_rgb()
        if self.render_mode == "human":
            self._show()
        return None

    def close(self) -> None:
        """Free the decoder and the window. An episode on the way is abandoned."""
        self._is_over = True
        if self._session is not None:
            self._session.abandon()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._window is not None:
            self._window.close()
            self._window = None

    def _choose_task(self, options: dict[str, Any]) -> VideoTask:
        if unknown := options.keys() - {"task_id"}:
            raise TaskError(f"unknown reset options {sorted(unknown)}; expected only 'task_id'")
        if "task_id" not in options:
            return self._task_list[self.np_random.integers(len(self._task_list))]
        task_id = options["task_id"]
        if task_id not in self.tasks:
            some = ", ".join(list(self.tasks)[:5])
            raise TaskError(f"no task {task_id!r} among {len(self.tasks)}, such as: {some}")
        return self.tasks[task_id]

    def _begin(self, task: VideoTask) -> VideoSession:
        return VideoSession(task, self._open(task), self.config, cache=self._cache)

    def _open(self, task: VideoTask) -> VideoReader:
        """The task's video, kept open as long as episodes stay with it."""
        key = task.video, task.frame_fps, _identity(task.video)
        if self._reader is None or self._reader_key != key:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            self._reader = open_video(task.video, self._backend, frame_fps=task.frame_fps)
            self._reader_key = key
        return self._reader

    def _finish(
        self, session: VideoSession
    ) -> tuple[ObservationDict, float, bool, bool, dict[str, Any]]:
        trajectory, reason = session.trajectory, session.end_reason
        by_reply = reason is not None and (reason is EndReason.ANSWERED or reason.is_void)
        score = self._reward(trajectory)
        self._is_over = True
        self._observation = Observation(f"The episode is over: {session.end_reason}.")
        info = self._info() | {
            "end_reason": str(session.end_reason),
            "reward_parts": dict(score.parts),
            "trajectory": trajectory,
        }
        self._show()
        return self._observation_dict(), float(score.value), by_reply, not by_reply, info

    def _info(self) -> dict[str, Any]:
        trajectory = self.session.trajectory
        return {
            "task_id": trajectory.task.id,
            "kind": trajectory.task.kind.value,
            "turns": len(trajectory.turns),
            "malformed_replies": sum(
                isinstance(turn.action, Malformed) for turn in trajectory.turns
            ),
            "context_tokens": trajectory.context_tokens,
            "visual_tokens": self.session.visual_tokens,
        }

    def _observation_dict(self) -> ObservationDict:
        return observation_dict(self._observation, max_text_chars=self._max_text_chars)

    def _render_rgb(self) -> npt.NDArray[np.uint8]:
        return render_rgb(
            self.session.trajectory,
            self._observation.clip,
            observation_text=self._observation.text,
        )

    def _show(self) -> None:
        if self.render_mode != "human":
            return
        if self._window is None:
            self._window = Window("VideoSeek")
        self._window.show(self._render_rgb())


def _identity(video: str) -> FileIdentity | None:
    """Which file it is now; None if there is none, which opening it will say."""
    try:
        return file_identity(Path(video))
    except (OSError, ValueError):
        return None
