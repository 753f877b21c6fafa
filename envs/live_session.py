"""The episode of live video: an ordinary one, in which time passes and a turn may be a wait."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import cast

from envs.live_action import Wait, parse_live_reply
from envs.live_prompts import LivePrompts
from envs.live_sampling import plan_update
from envs.live_source import LiveReader
from envs.live_trajectory import LiveTrajectory
from videoseek_env.action import Action, Fault
from videoseek_env.errors import ConfigError
from videoseek_env.prompts import DEFAULT_PROMPTS
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason
from videoseek_env.video import ClipCache
from videoseek_env.video.clip import ClipRef

MAX_LIVE_TURNS = 64
"""Replies, and clips, of an episode unless its rules say otherwise: waiting takes turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConfig:
    """What time means in an episode.

    Raises:
        ConfigError: If a number is outside its range.
    """

    question_seconds: float = 0.0
    """When the question is asked, in seconds after the video's start."""
    thinking_seconds: float = 1.0
    """What writing a reply takes in simulated time."""
    seconds_per_token: float = 0.0
    """What each token of a reply adds to that."""
    min_wait_seconds: float = 1.0
    """Shorter waits are as long as this."""
    max_wait_seconds: float = 60.0
    """Longer waits are cut to this."""
    update_fps: float = 0.5
    """Frames per second of video that an update shows, though four at least where there are."""
    grace_seconds: float = 30.0
    """After the video's end, answers count for so long."""

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if not all(math.isfinite(value) and value >= 0 for value in values.values()):
            raise ConfigError(f"times must be finite and at least 0, got {values}")
        if not (self.update_fps > 0 and 0 < self.min_wait_seconds <= self.max_wait_seconds):
            raise ConfigError(
                f"expected update_fps > 0 and 0 < min_wait_seconds <= max_wait_seconds, got {self}"
            )


def live_rules(config: SessionConfig | None = None) -> SessionConfig:
    """The rules of an ordinary episode with prompts that explain waiting.

    Raises:
        ConfigError: If the prompts are others and no `LivePrompts`.
    """
    config = config or SessionConfig(max_turns=MAX_LIVE_TURNS, max_clips=MAX_LIVE_TURNS)
    if isinstance(config.prompts, LivePrompts):
        return config
    if config.prompts != DEFAULT_PROMPTS:
        raise ConfigError("prompts must be LivePrompts, since they have to explain <wait>")
    return replace(config, prompts=LivePrompts())


class LiveSession(VideoSession):
    """One episode of live video. A turn, a clip, a limit and an ending are those of `VideoSession`.

    A wait is a turn, and its update a clip. It ends with the video at the latest, and goes beyond
    only once the agent has been told of that end. An answer that comes later than the grace period
    after the end does not count: that episode ends as `TURNS_EXHAUSTED`, as it does when a wait
    passes that moment.
    """

    def __init__(
        self,
        task: VideoTask,
        reader: LiveReader,
        config: SessionConfig | None = None,
        *,
        live: LiveConfig | None = None,
        cache: ClipCache,
    ) -> None:
        """Prepare an episode without decoding anything; see `VideoSession`.

        Args:
            task: The question.
            reader: Its video, as far as it has arrived.
            config: The rules.
            live: What time means.
            cache: Where decoded clips are looked up and kept.

        Raises:
            ConfigError: If the prompts do not explain waiting.
        """
        super().__init__(task, reader, live_rules(config), cache=cache)
        self.live = live or LiveConfig()
        self.waited_seconds = 0.0
        self._live_reader = reader
        self._prompts = cast("LivePrompts", self.config.prompts)
        self._first_seconds = reader.info.start_seconds
        self._asked_seconds = self._seen_seconds = reader.now_seconds
        self._reply_seconds: list[float] = []
        self._is_end_told = False
        """Whether an observation said that the video has ended."""

    @property
    def now_seconds(self) -> float:
        """Stream time."""
        return self._live_reader.now_seconds

    @property
    def duration_seconds(self) -> float:
        """End of what has arrived, in seconds."""
        return min(self.now_seconds, self._live_reader.info.end_seconds)

    @property
    def deadline_seconds(self) -> float | None:
        """Until when an answer counts; None while the video runs."""
        end = self._live_reader.ended_seconds
        return None if end is None else end + self.live.grace_seconds

    @property
    def trajectory(self) -> LiveTrajectory:
        """What has happened so far."""
        return LiveTrajectory.of(
            replace(super().trajectory, start_seconds=self._first_seconds),
            asked_seconds=self._asked_seconds,
            reply_seconds=tuple(self._reply_seconds),
        )

    def start(self) -> Observation:
        """The first observation: the question, and an overview of what has arrived.

        Raises:
            EpisodeError: If the episode has started.
            VideoDecodeError: If the video fails.
        """
        before = self._first_seconds + self.live.question_seconds - self.now_seconds
        if before > 0 and not self._started:
            with self._video_failures():
                self._live_reader.wait(before)
            self._asked_seconds = self.now_seconds
        return super().start()

    def reply(self, text: str) -> Observation | None:
        """Carry out a reply, after the time that it took to write; see `VideoSession.reply`."""
        self._require_running()
        tokens = self.config.count_text_tokens(text[: self.max_reply_chars])
        with self._video_failures():
            self._live_reader.catch_up(
                self.live.thinking_seconds + self.live.seconds_per_token * tokens
            )
        self._reply_seconds.append(self.now_seconds)
        return super().reply(text)

    def _parse(self, reply: str) -> Action:
        return parse_live_reply(
            reply, now_seconds=self.duration_seconds, start_seconds=self.start_seconds
        )

    def _carry_out(self, action: Action) -> Observation | None:
        if isinstance(action, Wait):
            return self._wait(action.seconds)
        return super()._carry_out(action)

    def _wait(self, seconds: float) -> Observation | None:
        before = self.now_seconds
        shortest, longest = self.live.min_wait_seconds, self.live.max_wait_seconds
        with self._video_failures():
            self._live_reader.wait(min(max(seconds, shortest), longest), past_end=self._is_end_told)
        self.waited_seconds += self.now_seconds - before
        if self._is_late:
            self.end_reason = EndReason.TURNS_EXHAUSTED
            return None
        update = plan_update(
            self._live_reader,
            since_seconds=self._seen_seconds,
            budget=self.budget,
            fps=self.live.update_fps,
        )
        return self._observe(self._prompts.update_text(update), update)

    @property
    def _is_late(self) -> bool:
        return self.deadline_seconds is not None and self.now_seconds > self.deadline_seconds

    def _ending(self, action: Action) -> EndReason | None:
        if self._is_late:
            return EndReason.TURNS_EXHAUSTED
        if not isinstance(action, Wait):
            return super()._ending(action)
        if len(self._turns) >= self.config.max_turns:
            return EndReason.TURNS_EXHAUSTED
        return EndReason.CLIPS_EXHAUSTED if self._clips >= self.config.max_clips else None

    def _observe(
        self,
        text: str,
        ref: ClipRef | None,
        *,
        error: Fault | None = None,
        overflow: EndReason = EndReason.CONTEXT_EXHAUSTED,
    ) -> Observation | None:
        text += self._prompts.now_text(self.now_seconds, self.deadline_seconds)
        observation = super()._observe(text, ref, error=error, overflow=overflow)
        self._is_end_told = self.deadline_seconds is not None
        if observation is not None and ref is not None and ref.strategy == "overview":
            self._seen_seconds = ref.timestamps_seconds[-1]
        return observation
