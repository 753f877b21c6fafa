"""Credit for each turn: potential-based shaping of how much of the clues has been shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rewards.grounding import clue_intervals, coverage, shown_intervals
from rewards.intervals import Interval
from videoseek_env.trajectory import Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageShaping:
    """F_t = weight * (gamma * Phi(s_{t+1}) - Phi(s_t)), Phi(s) the coverage of the clues so far.

    Phi is 0 before the first crop and after the last turn, so the discounted sum of F over an
    episode is 0: shaping moves credit to the turns that found something, and no policy gains or
    loses by it.

    Source: Ng, Harada and Russell, "Policy invariance under reward transformations", ICML 1999.

    Raises:
        ValueError: Unless 0 < gamma <= 1.
    """

    gamma: float = 1.0
    """Discount of one turn; the learner's own."""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must lie in (0, 1], got {self.gamma}")

    def __call__(self, trajectory: Trajectory, /) -> list[float]:
        """One number a turn; add them to the turns' rewards."""
        return shaping(potentials(trajectory), gamma=self.gamma, weight=self.weight)


def potentials(trajectory: Trajectory) -> list[float]:
    """Coverage before each turn, in [0, 1]: what the clips shown up to then reveal of the clues."""
    truth = clue_intervals(trajectory.task)
    shown: list[Interval] = []
    values = []
    for turn in trajectory.turns:
        shown += shown_intervals([turn.clip] if turn.clip is not None else [])
        values.append(coverage(shown, truth))
    return values


def shaping(potentials: Sequence[float], *, gamma: float, weight: float = 1.0) -> list[float]:
    """Shaping rewards from the potentials before each turn; after the last turn the potential is 0.

    >>> shaping([0.0, 0.5, 1.0], gamma=1.0)
    [0.5, 0.5, -1.0]
    """
    return [weight * (gamma * after - before) for before, after in pairwise([*potentials, 0.0])]
