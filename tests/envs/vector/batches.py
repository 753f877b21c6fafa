"""Batches of replies for vector environments, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from envs.vector import VideoSeekVectorEnv
from rewards import TrajectoryGuidedReward
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.env import VideoSeekEnv
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache

Make = Callable[..., VideoSeekVectorEnv]
"""Makes one that is closed after the test: `make(num_envs, **arguments)`."""

TINY = SessionConfig(budget="tiny", max_turns=3)
MODES = list(AutoresetMode)
NOTHING = "no action at all"
REPLIES = [
    crop_reply(1, 5),
    crop_reply(10, 40, "coarse"),
    "<grounding>{}</grounding>",
    answer_reply("B"),
    "<think>é🎬</think><answer>A</answer>",
    NOTHING,
]


def make_sync(
    tasks: list[VideoTask], cache: ClipCache, num_envs: int = 3, **arguments: Any
) -> SyncVectorEnv[Any, Any]:
    def make_one() -> VideoSeekEnv:
        return VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=TINY, cache=cache)

    return SyncVectorEnv([make_one] * num_envs, **arguments)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal in types, shapes and values, all the way down."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert set(ours) == set(theirs)
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, tuple | list):
        assert len(ours) == len(theirs)
        for left, right in zip(ours, theirs, strict=True):
            assert_same(left, right)
    elif isinstance(ours, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if ours.dtype == object:
            assert_same(ours.tolist(), theirs.tolist())
        else:
            np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs


def mask_of(*indices: int, num_envs: int = 3) -> np.ndarray[Any, Any]:
    mask = np.zeros(num_envs, np.bool_)
    mask[list(indices)] = True
    return mask


def play(
    vector: VectorEnv[Any, Any, Any], steps: Sequence[tuple[str, ...]], seed: int
) -> list[Any]:
    """All that a vector environment returns; where nothing resets by itself, a mask does."""
    seen: list[Any] = [vector.reset(seed=seed)]
    for replies in steps:
        seen.append(vector.step(replies))
        ended = seen[-1][2] | seen[-1][3]
        if vector.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            seen.append(vector.reset(seed=seed + 7, options={"reset_mask": ended}))
    return seen
