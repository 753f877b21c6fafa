"""Many trajectories at once, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rewards.reward import RewardFunction
from videoseek_env.trajectory import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class RewardBatch:
    """The rewards of N trajectories."""

    values: npt.NDArray[np.float64]
    """Scores, [N]."""
    parts: Mapping[str, npt.NDArray[np.float64]]
    """Named components, each [N]; NaN where a trajectory has no such part."""


def score_batch(reward: RewardFunction, trajectories: Iterable[Trajectory]) -> RewardBatch:
    """Score trajectories, equal to calling `reward` on each."""
    rewards = [reward(trajectory) for trajectory in trajectories]
    names = dict.fromkeys(name for one in rewards for name in one.parts)
    return RewardBatch(
        values=np.array([one.value for one in rewards], np.float64),
        parts={
            name: np.array([one.parts.get(name, np.nan) for one in rewards], np.float64)
            for name in names
        },
    )
