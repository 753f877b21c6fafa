"""The tour: tasks are made, baselines play them, and a report shows what they looked at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from agents.evaluate import play_all, present
from agents.named_policy import BASELINES, NamedPolicy
from agents.rollout import RolloutConfig
from videoseek_env.datasets import load_tasks
from videoseek_env.session import SessionConfig

if TYPE_CHECKING:
    from agents.cli import Demo


def run_demo(config: Demo) -> int:
    """Make tasks, play them, print a table, write episodes and a report.

    Returns:
        0, or 1 if every episode of a policy failed.
    """
    console = Console()
    started = time.perf_counter()
    tasks = load_tasks(
        "needle",
        videos=config.videos,
        tasks_per_video=config.tasks_per_video,
        seed=config.seed,
        budget=config.budget,
    )
    folder = Path(tasks[0].video).parent
    console.print(f"{len(tasks)} questions about {config.videos} videos under {folder}")
    session = SessionConfig(budget=config.budget, overview=config.overview, force_answer=True)
    path = config.out / "episodes.jsonl"
    path.unlink(missing_ok=True)
    episodes = play_all(
        tasks,
        [NamedPolicy(name, make, session) for name, make in BASELINES.items()],
        RolloutConfig(seed=config.seed, workers=config.workers),
        path=path,
        console=console,
    )
    title = "Seeking clues in needle videos"
    return present(episodes, config.out, title=title, started=started, console=console)
