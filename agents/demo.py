"""The tour: tasks are made, baselines play them, and a report shows what they looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from agents.baselines import OraclePolicy, RandomPolicy
from agents.episode import Episode
from agents.policy import Policy
from agents.report import Estimate, PolicySummary, summarise, write_report
from agents.rollout import RolloutConfig, rollout
from agents.seeker import PixelSeeker
from videoseek_env.datasets import load_tasks
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import append_jsonl
from videoseek_env.video import ClipCache

if TYPE_CHECKING:
    from agents.cli import Demo

_REPORTED_TASKS = 30
"""Tasks whose trajectories the report shows one by one; its figures count all."""

POLICIES: dict[str, Callable[[], Policy]] = {
    "random": RandomPolicy,
    "single turn": lambda: PixelSeeker(may_crop=False),
    "seeker": PixelSeeker,
    "oracle": OraclePolicy,
}
"""The baselines, from what costs nothing to what is told everything."""


def run_demo(config: Demo) -> int:
    """Make tasks, play them, print a table, write episodes and a report.

    Returns:
        0, or 1 if every episode of a policy failed.
    """
    console = Console()
    plan = RolloutConfig(seed=config.seed, workers=config.workers)
    started = time.perf_counter()
    tasks = load_tasks(
        "needle",
        videos=config.videos,
        tasks_per_video=config.tasks_per_video,
        seed=config.seed,
        budget=config.budget,
    )
    console.print(f"{len(tasks)} questions about {config.videos} videos under {_folder(tasks)}")
    episodes = play_all(tasks, config, plan, console)
    rows = summarise(episodes)
    console.print(summary_table(rows))
    report = write_report(
        config.out / "report.html",
        episodes,
        title="Seeking clues in needle videos",
        max_trajectories=_REPORTED_TASKS * len(POLICIES),
    )
    console.print(f"Episodes: {config.out / 'episodes.jsonl'}", soft_wrap=True)
    console.print(f"Report:   {report.resolve().as_uri()}", soft_wrap=True)
    console.print(f"Done in {time.perf_counter() - started:.0f} s.")
    failed = [row for row in rows if row.failures]
    for row in failed:
        console.print(
            f"{row.policy}: {row.failures} of {row.episodes} episodes failed; see episodes"
        )
    return int(any(row.failures == row.episodes for row in failed))


def play_all(
    tasks: list[VideoTask], config: Demo, plan: RolloutConfig, console: Console
) -> list[Episode]:
    """Let every baseline play every task; a new episodes.jsonl grows as they end."""
    path = config.out / "episodes.jsonl"
    path.unlink(missing_ok=True)
    session = SessionConfig(budget=config.budget, overview=config.overview, force_answer=True)
    cache = ClipCache(2**29)
    episodes: list[Episode] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for name, make_policy in POLICIES.items():
            bar = progress.add_task(name, total=len(tasks))
            for episode in rollout(
                make_policy, tasks, plan, session=session, cache=cache, name=name
            ):
                append_jsonl(path, [episode.to_dict()])
                episodes.append(episode)
                progress.advance(bar)
    return episodes


def summary_table(rows: list[PolicySummary]) -> Table:
    """One line per policy, narrow enough for a terminal of 80 columns."""
    table = Table(
        title=f"{rows[0].episodes} episodes each; accuracy with its 95 % interval; s per episode",
        box=None,
        padding=(0, 2, 0, 0),
    )
    parts = [name for name in ("format", "bonus", "iou") if name in rows[0].parts]
    table.add_column("policy", no_wrap=True)
    for heading in ("accuracy", "reward", *parts, "turns", "tokens", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.policy,
            _percent(row.accuracy),
            f"{row.reward.mean:.2f}",
            *(f"{row.parts[name].mean:.2f}" for name in parts),
            f"{row.turns.mean:.1f}",
            f"{row.visual_tokens.mean:.0f}",
            f"{row.seconds.mean:.2f}",
        )
    return table


def _percent(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.0%}"
    return f"{estimate.mean:.0%} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def _folder(tasks: list[VideoTask]) -> Path:
    return Path(tasks[0].video).parent
