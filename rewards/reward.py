"""What every reward is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from videoseek_env.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Reward:
    """A score, and what it is made of."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named components, for logs and reports; they need not add up to the value."""


class RewardFunction(Protocol):
    """A pure, deterministic function of a trajectory."""

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
