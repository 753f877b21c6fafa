"""Rewards: pure functions of a finished trajectory."""

from rewards.accuracy import accuracy
from rewards.format import FormatCheck, check_format
from rewards.reward import Reward, RewardFunction
from rewards.trajectory_guided import TrajectoryGuidedReward

__all__ = [
    "FormatCheck",
    "Reward",
    "RewardFunction",
    "TrajectoryGuidedReward",
    "accuracy",
    "check_format",
]
