"""Eight environments at once: ours on threads against Gymnasium's processes and its plain loop.

    python benchmarks/vector.py            192 episodes in each of three rounds
    python benchmarks/vector.py --quick    32 episodes, one round: caches don't fill up

An episode is an overview, two crops of whole seconds near a clue, hardly two of them alike, and an
answer. All sides play the same episodes of needle videos, each in a process of its own that starts
with empty caches, in turns within one run. The table has medians, and medians of the rounds'
ratios: on a busy machine, trust the ratios, and the processor time, which is that of all processes.
Memory is the largest proportional set size (PSS) of
all processes of a side, taken while the caller holds a batch of crops; it grows until the caches
are full. Needs Linux: it reads /proc/<pid>/smaps_rollup.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

sys.path.insert(0, str(Path(__file__).parents[1]))

from envs.vector import VideoSeekVectorEnv
from rewards import TrajectoryGuidedReward
from videoseek_env.action import write_answer, write_crop
from videoseek_env.datasets import load_tasks
from videoseek_env.env import DEFAULT_CACHE_BYTES, VideoSeekEnv
from videoseek_env.segment import Segment
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache

ENVIRONMENTS = 8
CROPS = 2
TASKS_PER_VIDEO = 6
WANTED = "wanted against AsyncVectorEnv with 256 MiB each: at least 1.5x and at most 0.25x"

SHARING = {
    "group": "all play the same task, another one each round (four videos)",
    "few": "each draws its task (four videos)",
    "none": "each has a video of its own (eight videos)",
}
SIDES = {
    "ours": "ours, one cache of 256 MiB",
    "async": "AsyncVectorEnv, 256 MiB each",
    "small": "AsyncVectorEnv, 32 MiB each",
    "sync": "SyncVectorEnv, 256 MiB each",
}


@dataclass(frozen=True, slots=True)
class Played:
    """What one side did in one round."""

    episodes_per_second: float
    processor_seconds: float
    """Per episode, of all processes."""
    mebibytes: float
    reward: float
    """Sum over all episodes; the same for all sides, or they did not play the same."""


def main() -> None:
    """Print a table for each way of sharing videos."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="32 episodes, one round")
    parser.add_argument("--rounds", type=int, default=None, help="repetitions of each table")
    parser.add_argument("--play", nargs=3, metavar=("SIDE", "SHARING", "BATCHES"), help="one side")
    arguments = parser.parse_args()
    if arguments.play:
        side, sharing, batches = arguments.play
        print(json.dumps(asdict(play(side, sharing, int(batches)))))
        return
    batches = 4 if arguments.quick else 24
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    tasks_by_video()  # make the videos before the clock runs
    print(f"{ENVIRONMENTS} environments, {batches * ENVIRONMENTS} episodes, {rounds} rounds")
    for sharing, meaning in SHARING.items():
        print(f"\n{meaning}{'' if sharing == 'none' else '; ' + WANTED}")
        print(f"{'':30}{'episodes/s':>11}{'ours is':>9}{'CPU ms':>9}{'MiB':>8}{'ours is':>9}")
        compare(sharing, batches, rounds)


def compare(sharing: str, batches: int, rounds: int) -> None:
    """Let every side play in turns, and print a row for each."""
    played: dict[str, list[Played]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, results in played.items():
            results.append(play_apart(side, sharing, batches))
        if len({round(results[-1].reward, 6) for results in played.values()}) > 1:
            raise RuntimeError(f"the sides played different episodes: {played}")
    for side, results in played.items():
        pairs = list(zip(played["ours"], results, strict=True))
        faster = statistics.median(
            ours.episodes_per_second / peer.episodes_per_second for ours, peer in pairs
        )
        smaller = statistics.median(ours.mebibytes / peer.mebibytes for ours, peer in pairs)
        speed = statistics.median(result.episodes_per_second for result in results)
        milliseconds = statistics.median(1000 * result.processor_seconds for result in results)
        mebibytes = statistics.median(result.mebibytes for result in results)
        print(
            f"{SIDES[side]:30}{speed:11.1f}{faster:8.2f}x{milliseconds:9.0f}{mebibytes:8.0f}"
            f"{smaller:8.2f}x",
            flush=True,
        )


def play_apart(side: str, sharing: str, batches: int) -> Played:
    """Let a side play in a new process."""
    command = [sys.executable, __file__, "--play", side, sharing, str(batches)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Played(**json.loads(finished.stdout))


def play(side: str, sharing: str, batches: int) -> Played:
    """Play in this process, and in those that the vector environment starts."""
    videos = tasks_by_video()
    if sharing == "none":
        own_tasks = videos
    else:
        own_tasks = [[task for tasks in videos[:4] for task in tasks]] * ENVIRONMENTS
    processor_before = processor_seconds()
    vector = make_side(side, own_tasks)
    seconds, reward, mebibytes = 0.0, 0.0, 0.0
    for number in range(batches):
        draws = 1 if sharing == "group" else ENVIRONMENTS
        seeds = [number * ENVIRONMENTS + index % draws for index in range(ENVIRONMENTS)]
        chosen = [
            tasks[np_random(seed)[0].integers(len(tasks))]  # as the environment draws
            for tasks, seed in zip(own_tasks, seeds, strict=True)
        ]
        rng = np.random.default_rng(number)
        ids = [task.id for task in chosen]
        # peers have no option for each environment, but each has its own tasks
        options = {"task_ids": ids} if side == "ours" else None
        started = time.perf_counter()
        _, infos = vector.reset(seed=seeds, options=options)
        for _ in range(CROPS):
            observations, *_ = vector.step([crop(task, rng) for task in chosen])
        seconds += time.perf_counter() - started
        mebibytes = max(mebibytes, proportional_mebibytes())
        del observations
        started = time.perf_counter()
        _, rewards, terminations, *_ = vector.step([write_answer("So.", t.answer) for t in chosen])
        seconds += time.perf_counter() - started
        if infos["task_id"].tolist() != ids or not terminations.all():
            raise RuntimeError(f"{side} did not play {ids}")
        reward += float(rewards.sum())
    vector.close()
    episodes = batches * ENVIRONMENTS
    per_episode = (processor_seconds() - processor_before) / episodes
    return Played(episodes / seconds, per_episode, mebibytes, reward)


def crop(task: VideoTask, rng: np.random.Generator) -> str:
    """Four to eight whole seconds that begin within two seconds of a clue's start."""
    clue = task.clues[rng.integers(len(task.clues))] if task.clues else Segment(50.0, 60.0)
    start = max(0.0, float(round(clue.start_seconds) + rng.integers(-2, 3)))
    return write_crop("Closer.", Segment(start, start + float(rng.integers(4, 9))), "fine")


def make_side(side: str, own_tasks: list[list[VideoTask]]) -> Any:
    """A vector environment whose environment `i` plays `own_tasks[i]`."""
    mode = AutoresetMode.DISABLED
    if side == "ours":
        tasks = {task.id: task for tasks in own_tasks for task in tasks}
        return VideoSeekVectorEnv(
            ENVIRONMENTS, list(tasks.values()), TrajectoryGuidedReward(), autoreset_mode=mode
        )
    cache_bytes = DEFAULT_CACHE_BYTES // (ENVIRONMENTS if side == "small" else 1)

    def make(tasks: list[VideoTask]) -> VideoSeekEnv:
        return VideoSeekEnv(tasks, TrajectoryGuidedReward(), cache=ClipCache(cache_bytes))

    makers: list[Callable[[], VideoSeekEnv]] = [partial(make, tasks) for tasks in own_tasks]
    if side == "sync":
        return SyncVectorEnv(makers, autoreset_mode=mode)
    return AsyncVectorEnv(makers, shared_memory=False, autoreset_mode=mode)


def tasks_by_video() -> list[list[VideoTask]]:
    """Needle tasks of eight videos, made the first time."""
    tasks = load_tasks("needle", videos=ENVIRONMENTS, tasks_per_video=TASKS_PER_VIDEO)
    return [tasks[at : at + TASKS_PER_VIDEO] for at in range(0, len(tasks), TASKS_PER_VIDEO)]


def processor_seconds() -> float:
    """Processor time of this process, and of children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def proportional_mebibytes() -> float:
    """Memory of this process and its children; pages that several share count once in all."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in processes]
    lines = [line.split() for rollup in rollups for line in rollup.splitlines()]
    return sum(int(fields[1]) for fields in lines if fields[0] == "Pss:") / 1024


if __name__ == "__main__":
    main()
