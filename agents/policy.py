"""Whoever acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from videoseek_env.session import Observation
    from videoseek_env.task import VideoTask


class Policy(Protocol):
    """Plays episodes, one at a time."""

    def reset(self, *, seed: int | None = None) -> None:
        """Begin an episode. All randomness of the episode comes from `seed`."""

    def act(self, observation: Observation) -> str:
        """Write the reply to an observation."""


@runtime_checkable
class PrivilegedPolicy(Policy, Protocol):
    """A policy that may look at the answer and the clues: an oracle, a demonstrator."""

    def reveal(self, task: VideoTask) -> None:
        """Learn the task, after `reset` and before the first observation."""


@runtime_checkable
class JointPolicy(Policy, Protocol):
    """A policy that replies in many episodes at once for less, such as a batched model."""

    def act_together(
        self, policies: Sequence[Self], observations: Sequence[Observation]
    ) -> list[str]:
        """One reply for each policy's episode.

        If it raises, no policy has changed, and some of them may be asked.
        """

    def release(self) -> None:
        """Let go of what only a further reply would need: the episode is over."""
