"""Rewards: trajectories scored per second, one by one and in batches, and properties checked.

Run with `python benchmarks/rewards.py`; `--quick` does a tenth of the work.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from rewards import RewardFunction, TrajectoryGuidedReward, compute_score, score_batch
from rewards.testing import check_reward, example_task, play
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.task import TaskKind
from videoseek_env.trajectory import Trajectory

REWARDS: dict[str, RewardFunction] = {
    "published": TrajectoryGuidedReward(),
    "hardened": TrajectoryGuidedReward.hardened(),
}


def sample(count: int, turns: int) -> list[Trajectory]:
    """Trajectories of random crops and an answer, over all kinds of task."""
    rng = np.random.default_rng(0)
    kinds = list(TaskKind)
    found = []
    for number in range(count):
        starts = rng.uniform(0, 80, turns - 1).round(2)
        crops = [crop_reply(float(start), float(start) + 10) for start in starts]
        task = example_task(kinds[number % len(kinds)])
        found.append(play(task, [*crops, answer_reply("B")]))
    return found


def per_second(action: Callable[[], object], count: int) -> float:
    """How many of `count` things `action` does in a second, the best of five runs."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - started)
    return count / best


def scoring(count: int) -> None:
    """Trajectories per second."""
    print(f"{'trajectories per second':<28}{'single':>12}{'batch':>12}")
    for turns in (1, 3, 6):
        trajectories = sample(count, turns)
        for name, reward in REWARDS.items():
            single = per_second(partial(one_by_one, reward, trajectories), count)
            batch = per_second(partial(score_batch, reward, trajectories), count)
            print(f"{f'{name}, {turns} turns':<28}{single:>12,.0f}{batch:>12,.0f}")
        texts = [one for one in trajectories if one.task.kind is not TaskKind.OPEN_ENDED]
        single = per_second(partial(one_by_one, score_texts, texts), len(texts))
        print(f"{f'compute_score, {turns} turns':<28}{single:>12,.0f}")


def one_by_one(score: Callable[[Trajectory], object], trajectories: list[Trajectory]) -> None:
    """Score each trajectory by itself."""
    for trajectory in trajectories:
        score(trajectory)


def score_texts(trajectory: Trajectory) -> dict[str, float]:
    """The published preset as other trainers call it."""
    task = trajectory.task
    clues = [{"timestamp": [clue.start_seconds, clue.end_seconds]} for clue in task.clues]
    return compute_score(
        task.kind.value, trajectory.replies, {"answer": task.answer, "clue": clues}
    )


def checking(max_examples: int) -> None:
    """Examples per second over all properties, counterexamples and their shrinking included."""
    columns = ("seconds", "examples", "per second", "broken")
    print(f"\n{'check of all properties':<28}{''.join(f'{name:>12}' for name in columns)}")
    for name, reward in REWARDS.items():
        started = time.perf_counter()
        report = check_reward(reward, low=0, high=3, max_examples=max_examples, keep_going=True)
        seconds = time.perf_counter() - started
        examples = sum(report.examples.values())
        print(
            f"{name:<28}{seconds:>12.1f}{examples:>12}{examples / seconds:>12,.0f}"
            f"{len(report.broken):>12}"
        )


def main() -> None:
    """Run every part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    scale = 10 if parser.parse_args().quick else 1
    print(f"Python {platform.python_version()}, {platform.machine()}\n")
    scoring(5000 // scale)
    checking(100 // scale)


if __name__ == "__main__":
    main()
