"""What an episode cost: tool calls, visual tokens, length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rewards.reward import Reward
from videoseek_env.budget import approximate_text_tokens
from videoseek_env.trajectory import Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEfficiency:
    """max(0, 1 - penalty * max(0, k - free)), k the turns before the last one; in [0, 1].

    Source: the factor 1 - lambda (k - 1) of arXiv 2601.23224. Differs from the paper: never below
    0.
    """

    penalty: float = 0.05
    """Lambda: what each further call costs."""
    free_calls: int = 1
    """Calls that cost nothing."""

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
        calls = max(0, len(trajectory.turns) - 1)
        value = max(0.0, 1 - self.penalty * max(0, calls - self.free_calls))
        return Reward(value, {"calls": float(calls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEfficiency:
    """max(0, 1 - visual tokens / budget), in [0, 1].

    Raises:
        ValueError: Unless the budget is above zero.
    """

    budget_tokens: int
    """Visual tokens at which nothing is left."""

    def __post_init__(self) -> None:
        if self.budget_tokens <= 0:
            raise ValueError(f"budget_tokens must be above zero, got {self.budget_tokens}")

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
        tokens = trajectory.visual_tokens
        return Reward(max(0.0, 1 - tokens / self.budget_tokens), {"visual_tokens": float(tokens)})


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlongPenalty:
    """min(-(length - (limit - buffer)) / buffer, 0): a slope towards the limit; at most 0.

    Length counts the tokens of all replies. Source: arXiv 2601.23224, after DAPO (arXiv
    2503.14476).

    Raises:
        ValueError: Unless 0 < buffer <= limit.
    """

    limit_tokens: int
    """Length at which the penalty is 1."""
    buffer_tokens: int
    """How far before the limit it begins."""
    count_tokens: Callable[[str], int] = approximate_text_tokens
    """Counts the tokens of a reply."""

    def __post_init__(self) -> None:
        if not 0 < self.buffer_tokens <= self.limit_tokens:
            raise ValueError(f"expected 0 < buffer_tokens <= limit_tokens, got {self}")

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
        length = sum(self.count_tokens(reply) for reply in trajectory.replies)
        excess = length - (self.limit_tokens - self.buffer_tokens)
        return Reward(min(-excess / self.buffer_tokens, 0.0), {"reply_tokens": float(length)})
