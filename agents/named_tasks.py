"""The tasks of a command: those of a folder, or needle tasks that fit who plays."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from videoseek_env.budget import get_budget
from videoseek_env.datasets import load_tasks
from videoseek_env.datasets.needle import load_needle
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask

FROM_NOTHING: Final = "needle-tiny"
"""The budget of models that learned by `agents.learning.from_nothing`."""


def are_from_nothing(rules: SessionConfig) -> bool:
    """Whether these are the rules of such a model."""
    return get_budget(rules.budget).name == FROM_NOTHING


def tasks_for(
    rules: SessionConfig, *, annotations: Path | None, videos: int, seed: int, split: str
) -> list[VideoTask]:
    """Load tasks.

    Args:
        rules: Of the episodes. Models that were made from nothing get questions of the kinds that
            they know.
        annotations: A folder of one's own; None takes needle tasks.
        videos: Needle videos to make, unless they are there.
        seed: Of the needle videos.
        split: Of the needle videos: training and evaluation have others.

    Raises:
        DatasetError: If they can't be loaded.
    """
    if annotations is not None:
        # The file in a folder stands for it.
        root = annotations.parent if annotations.name == "annotations.jsonl" else annotations
        return load_tasks("folder", root=root)
    if are_from_nothing(rules):
        from agents.learning.from_nothing.settings import needle_config

        return load_needle(needle_config(split, videos, seed=seed))
    return load_tasks("needle", videos=videos, seed=seed, split=split, budget=rules.budget)
