"""Readers and caches used by several threads and across forks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.synthetic_video import read_barcodes
from videoseek_env.segment import Segment
from videoseek_env.video import Backend, ClipCache, ClipRef, open_video

VideoFactory = Callable[[str], Path]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")


def succeeds_in_child(work: Callable[[], bool], *, within_seconds: float = 60) -> bool:
    """Whether `work` returns true in a forked child, and in time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 on: forking with threads
        pid = os.fork()
    if pid == 0:
        passed = False
        try:
            passed = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0 if passed else 1)
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    print(f"the child hung for {within_seconds} s", file=sys.stderr)
    return False


def _run_threads(work: Callable[[int], None], count: int) -> None:
    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4", "vp9.webm", "av1.mp4"])
def test_threads_may_share_a_reader(video: VideoFactory, name: str) -> None:
    reader = open_video(video(name), threads=2)
    wrong: list[list[int]] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(15):
            indices = rng.integers(0, 60, 4).tolist()
            if read_barcodes(reader.read(indices)) != indices:
                wrong.append(indices)
            if rng.random() < 0.2:
                reader.close()

    _run_threads(work, 4)
    assert wrong == []


@needs_fork
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_a_child_may_go_on_with_its_parents_reader(video: VideoFactory, backend: Backend) -> None:
    reader = open_video(video("h264.mp4"), backend, threads=2)
    reader.read(range(60))

    def work() -> bool:
        right = read_barcodes(reader.read([30, 4])) == [30, 4]
        reader.close()
        return right and read_barcodes(reader.read([5])) == [5]

    assert succeeds_in_child(work)
    assert read_barcodes(reader.read([31, 5])) == [31, 5]


@needs_fork
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_a_fork_while_threads_read_does_not_deadlock(video: VideoFactory, backend: Backend) -> None:
    reader = open_video(video("h264.mp4"), backend, threads=1)
    stop = threading.Event()

    def read_on() -> None:
        while not stop.is_set():
            reader.read(range(0, 60, 7))
            open_video(video("vfr.mp4"))

    readers = [threading.Thread(target=read_on) for _ in range(3)]
    for each in readers:
        each.start()
    try:
        for _ in range(5):
            assert succeeds_in_child(lambda: read_barcodes(reader.read([9, 2])) == [9, 2])
    finally:
        stop.set()
        for each in readers:
            each.join()


@needs_fork
def test_a_fork_while_threads_load_leaves_the_childs_cache_usable(video: VideoFactory) -> None:
    reader, cache = open_video(video("h264.mp4"), threads=1), ClipCache(1 << 20)
    stop = threading.Event()

    def ref(index: int) -> ClipRef:
        times = (float(reader.timestamps[index]),)
        return ClipRef(
            reader.path, (index,), times, 32, 32, Segment(0.0, 2.4), "coarse", visual_tokens=1
        )

    def load_on() -> None:
        index = 0
        while not stop.is_set():
            cache.load(ref(index % 60), reader)
            index += 1

    loader = threading.Thread(target=load_on)
    loader.start()
    try:
        for index in range(5):
            assert succeeds_in_child(
                lambda index=index: len(cache.load(ref(index), reader).frames) == 1  # type: ignore[misc]
            )
    finally:
        stop.set()
        loader.join()


@needs_fork
def test_a_child_keeps_what_its_parent_cached(video: VideoFactory) -> None:
    reader, cache = open_video(video("h264.mp4")), ClipCache(1 << 20)
    ref = ClipRef(reader.path, (3,), (0.12,), 32, 32, Segment(0.0, 2.4), "fine", visual_tokens=1)
    cache.load(ref, reader)

    def work() -> bool:
        cache.load(ref, reader)
        stats = cache.stats
        return (stats.hits, stats.misses, stats.clips) == (1, 0, 1)

    assert succeeds_in_child(work)


@needs_fork
@pytest.mark.parametrize("in_child", ["pass", "reader.read([5])"])
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_a_child_that_ends_in_the_ordinary_way_does_not_crash(
    video: VideoFactory, backend: Backend, in_child: str
) -> None:
    program = f"""
import os, sys
from videoseek_env.video import open_video
reader = open_video({str(video("h264.mp4"))!r}, {backend!r})
reader.read([3, 50])
pid = os.fork()
if pid == 0:
    {in_child}
    sys.exit(0)
sys.exit(os.waitpid(pid, 0)[1])
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert ended.returncode == 0
