"""How far the making of a set has come, told on a terminal or in the log."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator

Progress = bool | Callable[[int, int], None]
"""True shows a bar on a terminal, False is silent, a function gets (videos done, videos in all)."""

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def shown(progress: Progress, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of finished videos."""
    if callable(progress):
        yield lambda done: progress(done, total)
    elif progress and sys.stderr.isatty() and importlib.util.find_spec("rich"):
        with _bar(total) as advance:
            yield advance
    elif progress:
        yield lambda done: _tell(done, total)
    else:
        yield lambda done: None


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    rich_console = importlib.import_module("rich.console")
    rich_progress = importlib.import_module("rich.progress")
    bar = rich_progress.Progress(console=rich_console.Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("Making videos", total=total)
        yield lambda done: bar.update(task, completed=done)


def _tell(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\rMaking videos: {done} of {total}", end=end, file=sys.stderr, flush=True)
    else:
        _log.info("made %d of %d videos", done, total)
