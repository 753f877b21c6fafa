"""The main job in minutes: a small model that was shown how to seek trains on by GRPO."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import torch
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from agents.evaluate import check_processes
from agents.improve import SETTINGS, Improvement, improve
from agents.learning.collecting import CollectorConfig
from agents.learning.from_nothing.settings import NEEDLE_SESSION, needle_config
from agents.learning.from_nothing.train import FromNothingConfig, train_from_nothing
from agents.learning.grpo_config import GRPOConfig
from agents.learning.optimiser import OptimiserConfig
from agents.settings_file import read_settings
from videoseek_env.datasets.needle import load_needle
from videoseek_env.errors import ConfigError
from videoseek_env.task import VideoTask

if TYPE_CHECKING:
    from agents.cli import Demo, Reproduce

SHIPPED: Final = Path(__file__).parent / "checkpoints" / "needle-sft"
"""What `train_from_nothing` makes with its defaults and seed 2."""

GRPO_SETTINGS: Final = GRPOConfig(
    steps=40,
    collector=CollectorConfig(questions=16, group_size=8, workers=2, batch_size=128),
    tolerance=0.05,
    optimiser=OptimiserConfig(
        learning_rate=1e-4, schedule="cosine", betas=(0.9, 0.98), train_vision=False
    ),
)
"""A quarter of an hour on one core.

Gradients of so few episodes are mostly noise, and at twice the learning rate rewards fell. So
groups whose crops alone differ by a little are dropped, the rate falls to zero, and the vision
tower is left as it is: rewards teach what to do, hardly what to see.
"""


_THREADS: Final = 2
"""At most. A second one takes a third of the time off where cores are idle; more were not tried."""


def train_tasks(videos: int = 100) -> list[VideoTask]:
    """Questions to learn by rewards from, about videos that no demonstration was about.

    Of all kinds: from those that need the tool alone a model learns to call it for the others too.
    """
    return load_needle(needle_config("grpo", videos))


def test_tasks(videos: int, split: str = "test") -> list[VideoTask]:
    """Held-out questions: other videos."""
    return load_needle(needle_config(split, videos))


def run_demo(config: Demo) -> int:
    """Let the shipped model play, train it on by GRPO, and compare.

    Returns:
        0.
    """
    console = _prepared("videoseek demo")
    collector = replace(GRPO_SETTINGS.collector, questions=config.questions)
    settings = replace(GRPO_SETTINGS, steps=config.steps, collector=collector, seed=config.seed)
    plan = _plan(SHIPPED, config.out, settings, config.train_videos, config.test_videos)
    if not config.resume:
        _clear(config.out)
    improve(plan, console)
    return 0


def run_reproduce(config: Reproduce) -> int:
    """Make everything from random weights: demonstrations, GRPO, comparison. It goes on if stopped.

    Returns:
        0.
    """
    console = _prepared("videoseek reproduce")
    settings = replace(GRPO_SETTINGS, steps=config.steps, seed=config.seed)
    console.rule("From nothing")
    start = train_from_nothing(
        FromNothingConfig(seed=config.seed),
        config.out / "sft",
        report=lambda line: console.print(line, highlight=False),
    )
    improve(_plan(start, config.out, settings, 100, config.test_videos), console)
    return 0


def _prepared(command: str) -> Console:
    """The terminal; the Makefile asks for one thread, which is less than an idle machine gives."""
    check_processes(command)
    torch.set_num_threads(quickest_threads())
    disable_progress_bar()  # ours are enough
    return Console()


def quickest_threads(most: int = _THREADS, rounds: int = 5) -> int:
    """How many threads multiply matrices of a small model quickest, here and now.

    Threads of torch spin while they wait for each other, so on cores that others use, two are
    several times as slow as one.
    """
    states, weights = torch.ones(1024, 192), torch.ones(192, 768)

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        for _ in range(20):
            torch.relu(states @ weights)
        return time.perf_counter() - began

    before = torch.get_num_threads()
    try:
        taken = [[seconds(threads) for threads in range(1, most + 1)] for _ in range(rounds)]
    finally:
        torch.set_num_threads(before)
    medians = [median(column) for column in zip(*taken, strict=True)]
    return 1 + medians.index(min(medians))


def _plan(
    start: Path, out: Path, settings: GRPOConfig, train_videos: int, test_videos: int
) -> Improvement:
    return Improvement(
        start=start,
        out=out,
        train=train_tasks(train_videos),
        test=test_tasks(test_videos),
        rules=NEEDLE_SESSION,
        config=settings,
    )


def _clear(folder: Path) -> None:
    """Take a former demo away; what is none stays."""
    parts = [folder / name for name in ("grpo", SETTINGS, "episodes.jsonl", "report.html")]
    is_taken = any(part.exists() for part in parts)
    if is_taken and read_settings(folder / SETTINGS).get("start") != SHIPPED.name:
        raise ConfigError(f"{folder} holds something else than a demo; choose another --out")
    for part in parts:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
