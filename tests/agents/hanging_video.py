"""A video that hangs for real: one of its frames is a pipe that nobody writes to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


@contextmanager
def hanging_frames(folder: Path, *, count: int = 40, hangs: int = 39) -> Iterator[Path]:
    """A folder of frames; whoever reads frame `hangs` waits until the end of the context."""
    folder.mkdir()
    for index in range(count):
        path = folder / f"{index:04d}.png"
        if index == hangs:
            os.mkfifo(path)
        else:
            Image.fromarray(np.full((64, 64, 3), index, np.uint8)).save(path)
    try:
        yield folder
    finally:
        _release(folder / f"{hangs:04d}.png")


def _release(pipe: Path) -> None:
    """Let those who wait read nothing, and those who come find a file that is no picture."""
    held = pipe.with_suffix(".held")
    pipe.rename(held)
    pipe.write_bytes(b"")
    # Open for both, so that this side waits for nobody.
    os.close(os.open(held, os.O_RDWR))
    held.unlink()
