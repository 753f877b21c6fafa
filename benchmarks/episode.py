"""The episode's own cost: a step without its decode, a reward, hostile replies, and memory.

Run with `python benchmarks/episode.py`; `--quick` does a tenth of the work.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from rewards import TrajectoryGuidedReward
from tests.hostile_replies import random_hostile_replies
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from tests.synthetic_video import write_video
from videoseek_env.datasets import load_tasks
from videoseek_env.env import VideoSeekEnv
from videoseek_env.session import SessionConfig
from videoseek_env.video import ClipCache

BUDGETS = ("tiny", "laptop", "qwen3-vl")


def milliseconds(action: Callable[[], object], repeats: int) -> float:
    """The median time of a call."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def step_latency(repeats: int) -> None:
    """A step whose clip is in the cache; a step that decodes, for comparison."""
    tasks = load_tasks("needle")[:1]
    replies = {
        "crop": crop_reply(30, 40),
        "error": "<grounding>{}</grounding>",
        "answer": answer_reply("A"),
    }
    heading = f"{'env.step, median ms':<28}{'crop, cached':>14}{'error':>10}{'answer':>10}"
    print(f"{heading}{'crop, decoded':>16}")
    for budget in BUDGETS:
        config = SessionConfig(budget=budget)
        env = VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=config)
        row = []
        for reply in replies.values():
            times = []
            for _ in range(repeats + 1):
                env.reset(options={"task_id": tasks[0].id})
                started = time.perf_counter()
                env.step(reply)
                times.append(1000 * (time.perf_counter() - started))
            row.append(statistics.median(times[1:]))
        cold = []
        for number in range(max(5, repeats // 20)):
            env = VideoSeekEnv(
                tasks, TrajectoryGuidedReward(), config=config, cache=ClipCache(2**28)
            )
            env.reset(options={"task_id": tasks[0].id})
            started = time.perf_counter()
            env.step(crop_reply(30 + number, 40 + number))
            cold.append(1000 * (time.perf_counter() - started))
        cached, error, answer = row
        print(
            f"{budget:<28}{cached:>14.3f}{error:>10.3f}{answer:>10.3f}"
            f"{statistics.median(cold):>16.1f}"
        )


def reward_latency(repeats: int) -> None:
    """The trajectory-guided reward of a trajectory of six turns."""
    env = VideoSeekEnv(load_tasks("needle")[:1], TrajectoryGuidedReward())
    env.reset(seed=0)
    for turn in range(5):
        env.step(crop_reply(10 + turn, 20 + turn))
    *_, info = env.step(answer_reply("A"))
    trajectory, reward = info["trajectory"], TrajectoryGuidedReward()
    median = milliseconds(lambda: reward(trajectory), repeats)
    print(f"\nreward of a six-turn trajectory: {median:.3f} ms")


def hostile_replies(count: int) -> None:
    """Feed hostile replies; no exception may escape, and every ending has a name."""
    rng = np.random.default_rng(0)
    config = SessionConfig(budget="tiny", max_clips=5)
    env = VideoSeekEnv(load_tasks("needle")[:1], TrajectoryGuidedReward(), config=config)
    endings: Counter[str] = Counter()
    env.reset(seed=0)
    started = time.perf_counter()
    for reply in random_hostile_replies(count, rng):
        *_, terminated, truncated, info = env.step(reply)
        if terminated or truncated:
            endings[info["end_reason"]] += 1
            env.reset()
    seconds = time.perf_counter() - started
    print(f"\n{count} hostile replies in {seconds:.1f} s, no exception; endings: {dict(endings)}")


def memory(episodes: int) -> None:
    """Resident memory over episodes, each on a file of its own."""
    reward = TrajectoryGuidedReward()
    with tempfile.TemporaryDirectory() as folder:
        tasks = []
        for number in range(episodes):
            path = Path(folder) / f"{number}.mp4"
            write_video(path, 100, fps=10, gop_frames=25, height=180, width=320)
            tasks.append(dataclasses.replace(make_task(), id=str(number), video=str(path)))
        env = VideoSeekEnv(tasks, reward, cache=ClipCache(64 * 2**20))
        print(
            f"\nresident MiB over {episodes} episodes on different files (cache of 64 MiB):",
            end=" ",
        )
        for number, task in enumerate(tasks):
            env.reset(options={"task_id": task.id})
            env.step(crop_reply(2, 6))
            env.step(answer_reply("B"))
            if number % max(1, episodes // 6) == episodes // 6 - 1:
                print(f"{resident_mib():.0f}", end=" ", flush=True)
        env.close()
    print()


def resident_mib() -> float:
    """Memory of this process, from the kernel's own count."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    """Run every part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    scale = 10 if parser.parse_args().quick else 1
    print(f"Python {platform.python_version()}, {platform.machine()}\n")
    step_latency(500 // scale)
    reward_latency(5000 // scale)
    hostile_replies(100_000 // scale)
    memory(300 // scale)


if __name__ == "__main__":
    main()
