"""An episode under way: a session, who plays it, and what went wrong."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from agents.policy import Policy, PrivilegedPolicy
from videoseek_env.errors import VideoDecodeError
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import Backend, ClipCache, VideoReader, open_video

_logger = logging.getLogger(__name__)


class OngoingEpisode:
    """Plays one episode turn by turn; what the policy or the decoder raises ends it alone."""

    def __init__(
        self, policy: Policy, task: VideoTask, *, seed: int, place: int = 0, number: int = 0
    ) -> None:
        self.policy, self.task, self.seed = policy, task, seed
        self.place, self.number = place, number
        """The task's place among the tasks, and the episode's number among those of its task."""
        self.observation: Observation | None = None
        """What the policy is to reply to; None once the episode is over."""
        self.error: str | None = None
        """What the policy or the decoder raised."""
        self.seconds = 0.0
        """From the beginning to the end, waiting for others included."""
        self._session: VideoSession | None = None
        self._reader: VideoReader | None = None
        self._began = time.perf_counter()

    @property
    def trajectory(self) -> Trajectory:
        """What has happened so far."""
        if self._session is None:
            return Trajectory(self.task, (), EndReason.VIDEO_FAILED, 0.0)
        return self._session.trajectory

    def begin(self, config: SessionConfig, *, cache: ClipCache, backend: Backend = "auto") -> None:
        """Open the video and show the first observation."""
        self._began = time.perf_counter()
        with self._failures():
            self._reader = open_video(self.task.video, backend, frame_fps=self.task.frame_fps)
            self._session = VideoSession(self.task, self._reader, config, cache=cache)
            self._show(self._session.start())
        if self.observation is not None:
            with self._policy_errors():
                self.policy.reset(seed=self.seed)
                if isinstance(self.policy, PrivilegedPolicy):
                    self.policy.reveal(self.task)

    def act(self) -> None:
        """Ask the policy, and carry out its reply."""
        reply = None
        with self._policy_errors():
            if self.observation is not None:
                reply = self.policy.act(self.observation)
        if self.observation is not None:
            self.reply(reply)

    def reply(self, text: object) -> None:
        """Carry out what the policy returned."""
        with self._policy_errors():
            if not isinstance(text, str):
                raise TypeError(f"a policy returns text, got {type(text).__name__}")
        if self._session is not None and self.observation is not None and isinstance(text, str):
            with self._failures():
                self._show(self._session.reply(text))

    @contextmanager
    def _policy_errors(self) -> Iterator[None]:
        """Let an exception end this episode alone."""
        # Whatever a policy raises is its own affair: one bad rollout must not end a training run.
        try:
            yield
        except Exception as error:
            _logger.warning("task %s: the policy failed", self.task.id, exc_info=True)
            self.error = f"{type(error).__name__}: {error}"
            if self._session is not None:
                self._session.abandon(EndReason.POLICY_FAILED)
            self._end()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except VideoDecodeError as error:
            _logger.warning("task %s: %s", self.task.id, error)
            self.error = str(error)
            self._end()

    def _show(self, observation: Observation | None) -> None:
        self.observation = observation
        if self._session is None or self._session.end_reason is not None:
            self._end()

    def _end(self) -> None:
        self.observation = None
        self.seconds = time.perf_counter() - self._began
        if self._reader is not None:
            self._reader.close()
            self._reader = None
