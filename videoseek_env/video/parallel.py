"""Split the work of one read over threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(work: Callable[[range], None], parts: list[range], threads: int) -> None:
    """Run `work` on all parts, on this thread and `threads - 1` more; an error stops the rest.

    Whoever is free takes the next part, so a slow core holds up nobody.
    """
    waiting = deque(parts)

    def drain() -> None:
        while waiting:
            try:
                part = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                work(part)
            except BaseException:
                waiting.clear()
                raise

    helpers = min(threads, len(parts)) - 1
    if helpers < 1:
        drain()
        return
    with ThreadPoolExecutor(helpers, thread_name_prefix="videoseek-decode") as pool:
        others = [pool.submit(drain) for _ in range(helpers)]
        drain()
        for other in others:
            other.result()
