"""Live video: it arrives while the agent waits, looks back and answers, and late answers pay less.

The episode is an ordinary `VideoSession` over a `LiveReader`, which shows what has arrived and no
more. New are a third action, `<wait>5</wait>`, and time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from envs.live_action import Wait, parse_live_reply, write_wait
from envs.live_prompts import LivePrompts
from envs.live_reward import TimelyReward
from envs.live_session import MAX_LIVE_TURNS, LiveConfig, LiveSession, live_rules
from envs.live_source import Clock, Feed, LiveReader, ReplayFeed, SimulatedClock, WallClock
from envs.live_stream import StreamConfig, StreamFeed
from envs.live_trajectory import LiveTrajectory
from envs.registration import make_video_seek
from videoseek_env.env import Score, VideoSeekEnv
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory
from videoseek_env.video import Backend, ClipCache

__all__ = [
    "Clock",
    "Feed",
    "LiveConfig",
    "LivePrompts",
    "LiveReader",
    "LiveSession",
    "LiveTrajectory",
    "LiveVideoSeekEnv",
    "ReplayFeed",
    "SimulatedClock",
    "StreamConfig",
    "StreamFeed",
    "TimelyReward",
    "Wait",
    "WallClock",
    "make_video_seek_live",
    "parse_live_reply",
    "write_wait",
]


class LiveVideoSeekEnv(VideoSeekEnv):
    """Answer a question about a video while it arrives: wait, look back, and answer in time.

    Observation: as `VideoSeekEnv`. The first one is an overview of what has arrived; after a wait
        come small frames of what is new. The text says what time it is.
    Action: as `VideoSeekEnv`, or `<think>..</think><wait>5</wait>` to let seconds pass. A grounding
        is clamped to now.
    Reward: 0 until the last step, which pays `reward(trajectory).value` of a `LiveTrajectory`; see
        `TimelyReward`.
    Termination, truncation: as `VideoSeekEnv`. No answer within the grace period after the video's
        end is truncation, as `turns_exhausted`.
    Info: as `VideoSeekEnv`, and `now_seconds` (stream time), `waited_seconds` (by waits alone), and
        from the last step `delay_seconds` (it would tell when the clue came).
    Reset: as `VideoSeekEnv`. In simulated time, the same seed and replies give the same episode.
    """

    def __init__(
        self,
        tasks: Sequence[VideoTask],
        reward: Callable[[Trajectory], Score] | None = None,
        *,
        live: LiveConfig | None = None,
        open_feed: Callable[[VideoTask], Feed] | None = None,
        config: SessionConfig | None = None,
        backend: Backend = "auto",
        cache: ClipCache | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Prepare an environment without opening a video; see `VideoSeekEnv`.

        Args:
            tasks: What `reset` draws from; ids are unique.
            reward: Scores a finished `LiveTrajectory`; by default `TimelyReward()`.
            live: What time means.
            open_feed: Opens a task's video at the start of each episode, such as
                `lambda task: StreamFeed(task.video)`; by default its file is replayed in simulated
                time.
            config: The rules of an episode; by default 64 turns and clips.
            backend: The video decoder of the default feed.
            cache: Decoded clips.
            render_mode: None, "human", "rgb_array" or "ansi".

        Raises:
            ConfigError: If the prompts do not explain waiting.
        """
        super().__init__(
            tasks,
            TimelyReward() if reward is None else reward,
            config=live_rules(config),
            backend=backend,
            cache=cache,
            render_mode=render_mode,
        )
        self.live = live or LiveConfig()
        self._open_feed = open_feed or self._replay
        self._feed: Feed | None = None

    @property
    def session(self) -> LiveSession:
        """The episode behind this environment; see `VideoSeekEnv.session`."""
        return cast("LiveSession", super().session)

    def close(self) -> None:
        """Stop receiving, and free the decoder and the window."""
        super().close()
        self._close_feed()

    def _begin(self, task: VideoTask) -> LiveSession:
        self._close_feed()
        self._feed = self._open_feed(task)
        reader = LiveReader(self._feed)
        return LiveSession(task, reader, self.config, live=self.live, cache=self._cache)

    def _replay(self, task: VideoTask) -> Feed:
        return ReplayFeed(self._open(task), SimulatedClock())

    def _close_feed(self) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def _info(self) -> dict[str, Any]:
        session, info = self.session, super()._info()
        trajectory = session.trajectory
        info["malformed_replies"] -= sum(isinstance(turn.action, Wait) for turn in trajectory.turns)
        info |= {"now_seconds": session.now_seconds, "waited_seconds": session.waited_seconds}
        if session.end_reason is not None:
            info["delay_seconds"] = trajectory.delay_seconds
        return info


def make_video_seek_live(
    tasks: str | Sequence[VideoTask] = "needle",
    *,
    reward: Callable[[Trajectory], Score] | None = None,
    live: LiveConfig | None = None,
    open_feed: Callable[[VideoTask], Feed] | None = None,
    config: SessionConfig | None = None,
    backend: Backend = "auto",
    cache: ClipCache | None = None,
    render_mode: str | None = None,
    **rules: Any,
) -> LiveVideoSeekEnv:
    """What `gymnasium.make("VideoSeekLive-v0", ...)` calls; see `LiveVideoSeekEnv`.

    Args:
        tasks: Tasks, or the name of a dataset that loads without arguments.
        reward: Scores a finished `LiveTrajectory`; by default `TimelyReward()`.
        live: What time means.
        open_feed: Opens a task's video at the start of each episode.
        config: The rules of an episode, or give them one by one:
        **rules: Any field of `SessionConfig`; by default 64 turns and clips.
        backend: The video decoder of the default feed.
        cache: Decoded clips, to be shared among environments.
        render_mode: None, "human", "rgb_array" or "ansi".

    Raises:
        TypeError: If a rule is unknown, or given beside `config`.
    """
    if config is None:
        rules = {"max_turns": MAX_LIVE_TURNS, "max_clips": MAX_LIVE_TURNS} | rules
    ordinary = make_video_seek(tasks, config=config, **rules)
    return LiveVideoSeekEnv(
        list(ordinary.tasks.values()),
        reward,
        live=live,
        open_feed=open_feed,
        config=ordinary.config,
        backend=backend,
        cache=cache,
        render_mode=render_mode,
    )
