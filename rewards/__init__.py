"""Rewards: pure functions of a finished trajectory."""

from rewards.accuracy import Accuracy, accuracy
from rewards.batch import RewardBatch, score_batch
from rewards.compose import Clipped, Gate, WeightedSum
from rewards.credit import CoverageShaping
from rewards.efficiency import OverlongPenalty, TokenEfficiency, TurnEfficiency
from rewards.format import Format, FormatCheck, check_format
from rewards.grounding import Grounding
from rewards.judge import Judge
from rewards.reward import Reward, RewardFunction
from rewards.score import compute_score
from rewards.text_match import Matcher, Numeric, exact, token_f1
from rewards.trajectory_guided import TrajectoryGuidedReward

__all__ = [
    "Accuracy",
    "Clipped",
    "CoverageShaping",
    "Format",
    "FormatCheck",
    "Gate",
    "Grounding",
    "Judge",
    "Matcher",
    "Numeric",
    "OverlongPenalty",
    "Reward",
    "RewardBatch",
    "RewardFunction",
    "TokenEfficiency",
    "TrajectoryGuidedReward",
    "TurnEfficiency",
    "WeightedSum",
    "accuracy",
    "check_format",
    "compute_score",
    "exact",
    "score_batch",
    "token_f1",
]
