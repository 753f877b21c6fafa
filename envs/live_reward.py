"""Late answers pay less."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from envs.live_trajectory import LiveTrajectory, without_waits
from rewards.reward import Reward, RewardFunction
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.errors import ConfigError, TrajectoryError
from videoseek_env.trajectory import Trajectory


def timeliness(delay_seconds: float, *, patience_seconds: float) -> float:
    """What is left of a reward after a delay: exp(-delay / patience), in [0, 1].

    Source: discounting in continuous time, as of semi-Markov decision processes (Bradtke and Duff,
    Reinforcement Learning Methods for Continuous-Time Markov Decision Problems, 1994).

    Args:
        delay_seconds: At least 0.
        patience_seconds: After so long, 37 % are left; above 0.

    >>> timeliness(0.0, patience_seconds=60.0), round(timeliness(60.0, patience_seconds=60.0), 2)
    (1.0, 0.37)
    """
    return math.exp(-delay_seconds / patience_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelyReward:
    """A reward that fades while an answer is due: min(b, b * exp(-d / patience)).

    b is the base reward of the episode without its waits, d the seconds from when the question
    could be answered for the first time to the answer. The same reply is never worth more later; a
    negative b does not fade. Before the answer can be known d is 0, so guessing early gains nothing
    over guessing when it can be; and waiting d seconds to be sure beats guessing among n options as
    long as d < patience * ln(n), where b is the accuracy.

    Range: the base reward's, with 0 in it.

    Parts: those of the base, and `base`, `timeliness`, `delay_seconds`.

    Raises:
        ConfigError: If the patience is not above zero.
    """

    base: RewardFunction = field(default_factory=TrajectoryGuidedReward)
    patience_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.patience_seconds > 0:
            raise ConfigError(f"patience_seconds must be above 0, got {self.patience_seconds}")

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a live trajectory.

        Raises:
            TrajectoryError: If it has no times.
        """
        if not isinstance(trajectory, LiveTrajectory):
            raise TrajectoryError(
                "a delay needs the times of a LiveTrajectory, got a "
                f"{type(trajectory).__name__}; read saved ones with LiveTrajectory.from_dict"
            )
        base, delay = self.base(without_waits(trajectory)), trajectory.delay_seconds
        share = timeliness(delay, patience_seconds=self.patience_seconds)
        parts = {"base": base.value, "timeliness": share, "delay_seconds": delay}
        return Reward(min(base.value, base.value * share), {**base.parts, **parts})
