"""Episodes over a replayed video, for tests of live video."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from envs.live_session import LiveConfig, LiveSession
from envs.live_source import LiveReader, ReplayFeed, SimulatedClock
from envs.live_trajectory import LiveTrajectory
from tests.sample_trajectories import answer_reply, crop_reply, make_task, make_trajectory
from tests.synthetic_video import read_barcodes
from videoseek_env.session import Observation, SessionConfig
from videoseek_env.video import ClipCache, open_video


def replay(path: Path) -> LiveReader:
    return LiveReader(ReplayFeed(open_video(path), SimulatedClock()))


def make_session(path: Path, live: LiveConfig | None = None, **rules: Any) -> LiveSession:
    """An episode over a video of a minute, whose clue is at 10 s to 20 s. Thinking takes 1 s."""
    task = dataclasses.replace(make_task(), video=str(path))
    defaults: dict[str, Any] = {"budget": "laptop", "max_turns": 64, "max_clips": 64}
    config = SessionConfig(**defaults | rules)
    return LiveSession(task, replay(path), config, live=live, cache=ClipCache(2**24))


def answered_at(seconds: float, answer: str = "B") -> LiveTrajectory:
    """A crop of the clue at 10 s to 20 s and an answer, at once."""
    trajectory = make_trajectory([crop_reply(10, 20), answer_reply(answer)])
    return LiveTrajectory.of(trajectory, asked_seconds=0.0, reply_seconds=(seconds, seconds))


def expect(observation: Observation | None) -> Observation:
    assert observation is not None
    return observation


def indices_of(observation: Observation | None) -> list[int]:
    """What the frames say which they are; it is what their times say."""
    assert observation is not None and observation.clip is not None
    shown = read_barcodes(observation.clip.frames)
    np.testing.assert_allclose(observation.clip.timestamps_seconds * 10, shown)
    return shown
