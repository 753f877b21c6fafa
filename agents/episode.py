"""One finished episode: who played, what happened, what it was worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards.reward import Reward
from videoseek_env.errors import TrajectoryError
from videoseek_env.trajectory import Trajectory, read_records


@dataclass(frozen=True, slots=True)
class Episode:
    """A trajectory with its policy, seed, reward and cost."""

    policy: str
    """The policy's name."""
    seed: int
    """What the policy's randomness was seeded with."""
    trajectory: Trajectory
    reward: Reward
    seconds: float
    """Wall-clock time, decoding included."""
    error: str | None = None
    """What the policy or the decoder raised; None in a sound episode."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The rules that it was played by, JSON-serialisable."""

    def to_dict(self) -> dict[str, Any]:
        """The episode as JSON-serialisable fields; `from_dict` reads them back."""
        return {
            "policy": self.policy,
            "seed": self.seed,
            "reward": {"value": self.reward.value, "parts": dict(self.reward.parts)},
            "seconds": self.seconds,
            "error": self.error,
            "settings": dict(self.settings),
            "trajectory": self.trajectory.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Episode:
        """Read an episode from the fields that `to_dict` writes.

        Raises:
            TrajectoryError: If a field is missing or of the wrong type.
        """
        try:
            reward = fields["reward"]
            return cls(
                policy=str(fields["policy"]),
                seed=int(fields["seed"]),
                trajectory=Trajectory.from_dict(fields["trajectory"]),
                reward=Reward(float(reward["value"]), dict(reward["parts"])),
                seconds=float(fields["seconds"]),
                error=fields["error"],
                settings=dict(fields.get("settings") or {}),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, TrajectoryError):
                raise
            raise TrajectoryError(
                f"not a saved episode: {type(error).__name__}: {error}"
            ) from error


def read_episodes(path: str | Path) -> Iterator[Episode]:
    """Stream the episodes of a JSON Lines file; errors as in `read_records`."""
    return read_records(path, Episode.from_dict)
