"""How long the needle videos take to plan, to make and to load, and how large they are.

Run with `python benchmarks/generation.py`, or for other sets such as
`python benchmarks/generation.py --videos 1 --minutes 60`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from videoseek_env.datasets.needle import load_needle, plan_tasks
from videoseek_env.datasets.needle_config import NeedleConfig

_T = TypeVar("_T")


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=None, help="length of each video")
    parser.add_argument("--side", type=int, default=None, help="pixels, for square videos")
    parser.add_argument("--budget", default="laptop")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    fields: dict[str, Any] = {"budget": arguments.budget}
    if arguments.videos:
        fields["videos"] = arguments.videos
    if arguments.minutes:
        fields["duration_seconds"] = (60 * arguments.minutes,) * 2
    if arguments.side:
        fields |= {"width": arguments.side, "height": arguments.side}
    config = NeedleConfig(**fields)
    tasks = _timed("plan", lambda: plan_tasks(config))
    seconds = sum({task.video: task.duration_seconds or 0.0 for task in tasks}.values())
    print(f"{len(tasks)} tasks about {config.videos} videos, {seconds / 60:.1f} minutes in all")
    for workers in arguments.workers:
        with tempfile.TemporaryDirectory() as folder:
            _measure(config, Path(folder), workers)


def _measure(config: NeedleConfig, folder: Path, workers: int) -> None:
    def load() -> object:
        return load_needle(config, root=folder, workers=workers, progress=False)

    _timed(f"make with {workers} workers", load)
    _timed("load again", load)
    size = sum(path.stat().st_size for path in folder.glob("*.mp4"))
    print(f"{'size':24} {size / 1e6:8.2f} MB")


def _timed(name: str, work: Callable[[], _T]) -> _T:
    start = time.perf_counter()
    result = work()
    print(f"{name:24} {time.perf_counter() - start:8.3f} s")
    return result


if __name__ == "__main__":
    main()
