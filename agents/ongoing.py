"""An episode under way: a session, who plays it, and what went wrong."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from agents.policy import Policy, PrivilegedPolicy
from agents.time_limit import ends_within
from videoseek_env.errors import VideoDecodeError, VideoSeekError
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import Backend, ClipCache, VideoReader, open_video

_logger = logging.getLogger(__name__)


class Session(Protocol):
    """What an episode needs of a session; `VideoSession` is one."""

    @property
    def trajectory(self) -> Trajectory:
        """What has happened so far."""

    @property
    def end_reason(self) -> EndReason | None:
        """Why it ended; None while it runs."""

    def start(self) -> Observation:
        """The first observation."""

    def reply(self, text: str, /) -> Observation | None:
        """Carry out a reply; None at the end."""

    def abandon(self, reason: EndReason = ..., /) -> None:
        """End it from outside."""


class MakeSession(Protocol):
    """Makes the session of an episode; the class `VideoSession` does."""

    def __call__(
        self, task: VideoTask, reader: VideoReader, config: SessionConfig, /, *, cache: ClipCache
    ) -> Session:
        """A session that has not started."""


class OngoingEpisode:
    """Plays one episode turn by turn; what the policy or the decoder raises ends it alone.

    So does a hang: what takes too long is left behind, and whatever it may still do is not seen.
    """

    def __init__(
        self,
        policy: Policy,
        task: VideoTask,
        *,
        seed: int,
        place: int = 0,
        number: int = 0,
        timeout_seconds: float | None = None,
    ) -> None:
        """Prepare an episode.

        Args:
            policy: Plays it, and no other.
            task: The question.
            seed: Of the policy.
            place: The task's among the tasks.
            number: The episode's among those of its task.
            timeout_seconds: How long `begin`, `act` and `reply` may take; None waits for ever.
        """
        self.policy, self.task, self.seed = policy, task, seed
        self.place, self.number = place, number
        self._play = _Play(policy, task, seed)
        self._timeout_seconds = timeout_seconds
        self._cache: ClipCache | None = None

    @property
    def observation(self) -> Observation | None:
        """What the policy is to reply to; None once the episode is over."""
        return self._play.observation

    @property
    def error(self) -> str | None:
        """What the policy or the decoder raised, or what took too long."""
        return self._play.error

    @property
    def seconds(self) -> float:
        """From the beginning to the end, waiting for others included."""
        return self._play.seconds

    @property
    def trajectory(self) -> Trajectory:
        """What has happened so far."""
        return self._play.trajectory

    def begin(
        self,
        config: SessionConfig,
        *,
        cache: ClipCache,
        backend: Backend = "auto",
        make_session: MakeSession = VideoSession,
    ) -> None:
        """Open the video and show the first observation."""
        play, self._cache = self._play, cache
        self._limited(
            lambda: play.begin(config, cache, backend, make_session), "the video's first frames"
        )

    def act(self) -> None:
        """Ask the policy, and carry out its reply."""
        self._limited(self._play.act, "a reply of the policy and the frames it asked for")

    def reply(self, text: object) -> None:
        """Carry out what the policy returned."""
        play = self._play
        self._limited(lambda: play.reply(text), "the frames that a reply asked for")

    def fail(self, error: Exception) -> None:
        """End it as `POLICY_FAILED`, by what the policy raised."""
        self._play.fail(error)

    def abandon(self, error: str) -> None:
        """End it as `ABANDONED`, begun or not."""
        _logger.warning("task %s: %s", self.task.id, error)
        # Another play in place of one that a thread may come back to.
        self._play = self._play.abandoned(error)

    def _limited(self, call: Callable[[], None], what: str) -> None:
        """Do something, or end the episode as `ABANDONED`."""
        if not ends_within(self._timeout_seconds, call):
            self.abandon(f"{what} took longer than {self._timeout_seconds:g} s")
            if self._cache is not None:
                self._cache.forget_pending()  # or all who want these frames later hang as well


class _Play:
    """What a thread works on."""

    def __init__(self, policy: Policy, task: VideoTask, seed: int) -> None:
        self.policy, self.task, self.seed = policy, task, seed
        self.observation: Observation | None = None
        self.error: str | None = None
        self.seconds = 0.0
        self._trajectory = Trajectory(task, (), EndReason.VIDEO_FAILED, 0.0)
        self._is_abandoned = False
        self._session: Session | None = None
        self._reader: VideoReader | None = None
        self._began = time.perf_counter()

    @property
    def trajectory(self) -> Trajectory:
        return self._trajectory if self._session is None else self._session.trajectory

    def abandoned(self, error: str) -> _Play:
        """This play as it stands, over, while a thread still works on the original."""
        self._is_abandoned = True
        copy = _Play(self.policy, self.task, self.seed)
        copy._trajectory = replace(self.trajectory, end_reason=EndReason.ABANDONED)
        copy.error, copy.seconds = error, time.perf_counter() - self._began
        return copy

    def begin(
        self, config: SessionConfig, cache: ClipCache, backend: Backend, make_session: MakeSession
    ) -> None:
        with self._video_errors():
            self._reader = open_video(self.task.video, backend, frame_fps=self.task.frame_fps)
            self._session = make_session(self.task, self._reader, config, cache=cache)
            self._show(self._session.start())
        if self.observation is not None:
            with self._policy_errors():
                self.policy.reset(seed=self.seed)
                if isinstance(self.policy, PrivilegedPolicy):
                    self.policy.reveal(self.task)

    def act(self) -> None:
        reply = None
        with self._policy_errors():
            if self.observation is not None:
                reply = self.policy.act(self.observation)
        if self._is_abandoned:
            self._end()
        elif self.observation is not None:
            self.reply(reply)

    def reply(self, text: object) -> None:
        with self._policy_errors():
            if not isinstance(text, str):
                raise TypeError(f"a policy returns text, got {type(text).__name__}")
        if self._session is not None and self.observation is not None and isinstance(text, str):
            with self._video_errors():
                self._show(self._session.reply(text))

    def fail(self, error: Exception) -> None:
        self.error = f"{type(error).__name__}: {error}"
        # Ours say what is wrong; where another came from is worth a traceback.
        trace = None if isinstance(error, VideoSeekError) else error
        _logger.warning("task %s: the policy failed: %s", self.task.id, self.error, exc_info=trace)
        if self._session is not None:
            self._session.abandon(EndReason.POLICY_FAILED)
        self._end()

    @contextmanager
    def _policy_errors(self) -> Iterator[None]:
        """Let an exception end this episode alone."""
        # Whatever a policy raises is its own affair: one bad rollout must not end a training run.
        try:
            yield
        except Exception as error:
            self.fail(error)

    @contextmanager
    def _video_errors(self) -> Iterator[None]:
        try:
            yield
        except VideoDecodeError as error:
            _logger.warning("task %s: %s", self.task.id, error)
            self.error = str(error)
            self._end()

    def _show(self, observation: Observation | None) -> None:
        self.observation = observation
        if self._is_abandoned or self._session is None or self._session.end_reason is not None:
            self._end()

    def _end(self) -> None:
        self.observation = None
        self.seconds = time.perf_counter() - self._began
        if self._reader is not None:
            self._reader.close()
            self._reader = None
