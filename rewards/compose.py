"""Rewards made of rewards: a weighted sum, a gate, a clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rewards.reward import Reward, RewardFunction
from videoseek_env.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """The sum of weight * value over named terms.

    Parts: each term's unweighted value under its name, and each of its parts as "name/part".

    Raises:
        ValueError: If there are no terms.

    >>> from rewards import Accuracy, Format
    >>> reward = WeightedSum({"acc": (1.0, Accuracy()), "format": (0.2, Format())})
    """

    terms: Mapping[str, tuple[float, RewardFunction]]
    """Weight and reward by name."""

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("a weighted sum needs at least one term")
        object.__setattr__(self, "terms", MappingProxyType(dict(self.terms)))

    def __reduce__(self) -> tuple[object, ...]:
        return WeightedSum, (dict(self.terms),)

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
        value, parts = 0.0, {}
        for name, (weight, reward) in self.terms.items():
            term = reward(trajectory)
            value += weight * term.value
            parts[name] = term.value
            parts |= {f"{name}/{part}": amount for part, amount in term.parts.items()}
        return Reward(value, parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Pays `reward` only where `condition` reaches a threshold, else `otherwise`.

    Parts: those of `reward` where the gate is open, and "gate", 1 if it is.
    """

    condition: RewardFunction
    reward: RewardFunction
    threshold: float = 1.0
    """Least value of the condition that opens the gate."""
    otherwise: float = 0.0

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
        if not self.condition(trajectory).value >= self.threshold:  # NaN reaches none
            return Reward(self.otherwise, {"gate": 0.0})
        paid = self.reward(trajectory)
        return Reward(paid.value, {**paid.parts, "gate": 1.0})


@dataclass(frozen=True, slots=True)
class Clipped:
    """A reward cut to [low, high]; NaN stays NaN, for learners to refuse.

    Raises:
        ValueError: Unless low <= high.
    """

    reward: RewardFunction
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"expected low <= high, got [{self.low}, {self.high}]")

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
        whole = self.reward(trajectory)
        return Reward(min(max(whole.value, self.low), self.high), whole.parts)
