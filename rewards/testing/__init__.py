"""A kit to test rewards: strategies for trajectories, properties that a reward should keep."""

from rewards.testing.check import RewardCheck, RewardPropertyError, check_reward
from rewards.testing.episodes import BlankVideo, play
from rewards.testing.exploits import (
    EXPLOITS,
    Comparison,
    Exploit,
    ExploitScore,
    exploit_table,
)
from rewards.testing.properties import PROPERTIES, Property
from rewards.testing.scripts import Look, Script, example_task, gold_script
from rewards.testing.strategies import replies, scripts, tasks, trajectories

__all__ = [
    "EXPLOITS",
    "PROPERTIES",
    "BlankVideo",
    "Comparison",
    "Exploit",
    "ExploitScore",
    "Look",
    "Property",
    "RewardCheck",
    "RewardPropertyError",
    "Script",
    "check_reward",
    "example_task",
    "exploit_table",
    "gold_script",
    "play",
    "replies",
    "scripts",
    "tasks",
    "trajectories",
]
