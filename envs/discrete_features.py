"""Fixed-shape numbers for what a text agent reads and sees: contact sheets, times, word codes."""

from __future__ import annotations

import hashlib
import math
import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from videoseek_env.budget import FrameSize
from videoseek_env.segment import Segment

CODE_BITS = 32
"""Numbers of a word's code."""
NO_TIME = -1.0
"""The time of a cell that holds no frame."""

_WORD = re.compile(r"\w+|[^\w\s]")
_KEPT_TEXTS = 4096


class SheetGrid(NamedTuple):
    """Cells of a contact sheet: frames fill it row by row."""

    rows: int
    columns: int


def sheet_grid(frames: int) -> SheetGrid:
    """The most nearly square grid with room for so many frames, never higher than wide.

    >>> sheet_grid(12), sheet_grid(20)
    (SheetGrid(rows=3, columns=4), SheetGrid(rows=4, columns=5))
    """
    columns = math.ceil(math.sqrt(frames))
    return SheetGrid(math.ceil(frames / columns), columns)


def sheet_shape(frames: int, size: FrameSize) -> tuple[int, int, int]:
    """The shape of a contact sheet: channels, height, width.

    >>> sheet_shape(12, FrameSize(32, 32))
    (3, 96, 128)
    """
    rows, columns = sheet_grid(frames)
    return 3, rows * size.height, columns * size.width


def contact_sheet(
    frames: npt.NDArray[np.uint8], size: FrameSize, *, cells: int
) -> npt.NDArray[np.uint8]:
    """Frames side by side in one image, the rest of the cells black.

    Args:
        frames: RGB, uint8 [N, H, W, 3], at most `cells` of them.
        size: Pixels of each cell; frames are resized to it.
        cells: Frames that the sheet has room for; the grid may hold a few more.

    Returns:
        RGB, uint8 [3, rows * height, columns * width]; see `sheet_grid`.
    """
    rows, columns = sheet_grid(cells)
    tiles = np.zeros((rows * columns, *size, 3), np.uint8)
    tiles[: len(frames)] = resize_by_area(frames, size)
    grid = tiles.reshape(rows, columns, *size, 3)
    return np.ascontiguousarray(grid.transpose(4, 0, 2, 1, 3)).reshape(sheet_shape(cells, size))


def split_sheet(sheet: npt.NDArray[np.uint8], size: FrameSize) -> npt.NDArray[np.uint8]:
    """The cells of a contact sheet, row by row: uint8 [rows * columns, height, width, 3].

    >>> split_sheet(np.zeros((3, 96, 128), np.uint8), FrameSize(32, 32)).shape
    (12, 32, 32, 3)
    """
    rows, columns = sheet.shape[1] // size.height, sheet.shape[2] // size.width
    grid = sheet.reshape(3, rows, size.height, columns, size.width)
    return grid.transpose(1, 3, 2, 4, 0).reshape(-1, *size, 3)


def resize_by_area(frames: npt.NDArray[np.uint8], size: FrameSize) -> npt.NDArray[np.uint8]:
    """Each new pixel is the mean of the area that it covers; enlarging repeats pixels.

    Args:
        frames: uint8 [N, H, W, 3].
        size: The new height and width.
    """
    count, height, width, channels = frames.shape
    if count == 0 or (height, width) == size:
        return frames.reshape(count, *(size if count == 0 else (height, width)), channels)
    across = _area_weights(width, size.width) @ frames.astype(np.float32)
    flat = across.reshape(count, height, size.width * channels)
    both = _area_weights(height, size.height) @ flat
    resized: npt.NDArray[np.uint8] = np.rint(both).astype(np.uint8)
    return resized.reshape(count, *size, channels)


@lru_cache
def _area_weights(old: int, new: int) -> npt.NDArray[np.float32]:
    """The share of each old pixel in each new one, [new, old]; rows add up to 1."""
    edges = np.linspace(0, old, new + 1)
    first = np.maximum(edges[:-1, None], np.arange(old))
    last = np.minimum(edges[1:, None], np.arange(old) + 1)
    weights: npt.NDArray[np.float32] = (last - first).clip(0).astype(np.float32)
    return weights * np.float32(new / old)


def times_as_shares(
    times_seconds: npt.NDArray[np.float64], video: Segment, *, cells: int
) -> npt.NDArray[np.float32]:
    """Times as shares of the video in [0, 1], then -1 for the cells without a frame: [cells].

    >>> times_as_shares(np.array([0.0, 15.0]), Segment(0.0, 60.0), cells=3)
    array([ 0.  ,  0.25, -1.  ], dtype=float32)
    """
    shares = np.full(cells, NO_TIME, np.float32)
    elapsed = (times_seconds - video.start_seconds) / video.duration_seconds
    shares[: len(elapsed)] = elapsed.clip(0, 1)
    return shares


def evenly_picked(count: int, most: int) -> npt.NDArray[np.int64]:
    """Places of at most `most` of `count` things, evenly spread, both ends included.

    >>> evenly_picked(5, 3), evenly_picked(2, 3)
    (array([0, 2, 4]), array([0, 1]))
    """
    return np.rint(np.linspace(0, count - 1, min(count, most))).astype(np.int64)


@lru_cache(_KEPT_TEXTS)
def encode_words(text: str, words: int) -> npt.NDArray[np.float32]:
    """The first words of a text, in order, each as the code of its lower case.

    A code is 32 signs that follow from the word alone, so there is no vocabulary, any language
    works, and two words share a code with a chance of 2^-32. A sign of punctuation is a word.

    Args:
        text: Any text.
        words: Words to keep; the rest is cut off, what is missing is 0.

    Returns:
        Signs -1 and 1, and 0 for words that are not there: float32 [words * 32], read-only.
    """
    codes = np.zeros((words, CODE_BITS), np.float32)
    for place, word in enumerate(_WORD.findall(text.lower())[:words]):
        codes[place] = _word_code(word)
    codes.flags.writeable = False
    return codes.reshape(-1)


def _word_code(word: str) -> npt.NDArray[np.float32]:
    # Not hash(): it differs from process to process.
    data = word.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(data, digest_size=CODE_BITS // 8).digest()
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))
    return bits.astype(np.float32) * 2 - 1
