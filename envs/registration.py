"""Factories behind the Gymnasium ids: default tasks and the default reward are composed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.datasets import load_tasks
from videoseek_env.env import Score, VideoSeekEnv
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory
from videoseek_env.video import Backend, ClipCache


def make_video_seek(
    tasks: str | Sequence[VideoTask] = "needle",
    *,
    reward: Callable[[Trajectory], Score] | None = None,
    config: SessionConfig | None = None,
    backend: Backend = "auto",
    cache: ClipCache | None = None,
    render_mode: str | None = None,
    **rules: Any,
) -> VideoSeekEnv:
    """What `gymnasium.make("VideoSeek-v0", ...)` calls.

    Args:
        tasks: Tasks, or the name of a dataset that loads without arguments. Needle tasks are made
            for the budget: their digits hide from its overview.
        reward: Scores a finished trajectory; by default the trajectory-guided reward.
        config: The rules of an episode, or give them one by one:
        **rules: Any field of `SessionConfig`, such as `budget="qwen3-vl"` or `max_turns=12`.
        backend: The video decoder.
        cache: Decoded clips, to be shared among environments.
        render_mode: None, "human", "rgb_array" or "ansi".

    Raises:
        TypeError: If a rule is unknown, or given beside `config`.
    """
    known = {field.name for field in fields(SessionConfig)}
    if unknown := rules.keys() - known:
        raise TypeError(
            f"unknown arguments {sorted(unknown)}; the rules of an episode are {sorted(known)}"
        )
    if config is not None and rules:
        raise TypeError(f"give either config or its fields, got config and {sorted(rules)}")
    config = config or SessionConfig(**rules)
    return VideoSeekEnv(
        _load(tasks, config) if isinstance(tasks, str) else tasks,
        TrajectoryGuidedReward() if reward is None else reward,
        config=config,
        backend=backend,
        cache=cache,
        render_mode=render_mode,
    )


def _load(name: str, config: SessionConfig) -> list[VideoTask]:
    return load_tasks(name, budget=config.budget) if name == "needle" else load_tasks(name)
