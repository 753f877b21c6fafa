"""What a caller asked to read: checked, sorted and without repeats."""

from __future__ import annotations

import math
import mmap
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from videoseek_env.video.info import VideoInfo

_OWN_PAGES_BYTES = 2**18
"""From this size on, an array has pages of its own."""
_PRIVATE: dict[str, Any] = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}
"""A forked process must not write into our frames."""


@dataclass(frozen=True, slots=True, eq=False)
class UniqueIndices:
    """Wanted frames, each once."""

    ascending: list[int]
    places: npt.NDArray[np.int64]
    """Where in `ascending` each asked index is, [N]."""

    def restore(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Frames of `ascending` in the order asked for, repeats included."""
        if np.array_equal(self.places, np.arange(len(self.ascending))):
            return frames
        return frames[self.places]


def unique_indices(indices: Sequence[int], frame_count: int) -> UniqueIndices:
    """Check the indices and sort them.

    Raises:
        IndexError: If one is outside [0, frame_count).
        TypeError: If one is no integer.
    """
    asked = np.array([operator.index(index) for index in indices], np.int64)
    outside = asked[(asked < 0) | (asked >= frame_count)]
    if len(outside):
        raise IndexError(
            f"frame indices must be in [0, {frame_count}), got {outside[:3].tolist()}. "
            "Count from the video's first frame; negative indices do not wrap."
        )
    ascending, places = np.unique(asked, return_inverse=True)
    return UniqueIndices(ascending.tolist(), places)


def output_array(
    count: int, info: VideoInfo, height: int | None, width: int | None
) -> npt.NDArray[np.uint8]:
    """An array [count, H, W, 3] for frames of the asked size.

    Raises:
        ValueError: If only one of height and width is given, or one is not positive.
    """
    if (height is None) != (width is None):
        raise ValueError(f"give both height and width, or neither; got {height} and {width}")
    height = info.height if height is None else operator.index(height)
    width = info.width if width is None else operator.index(width)
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1 pixel, got {height} x {width}")
    return _on_own_pages((count, height, width, 3))


def _on_own_pages(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An array whose memory goes back to the system as soon as it is dropped.

    Clips live long and decoders allocate in between: on the heap, a full cache of clips takes twice
    its size (benchmarks/vector.py).
    """
    count = math.prod(shape)
    if count < _OWN_PAGES_BYTES:
        return np.empty(shape, np.uint8)
    pages = mmap.mmap(-1, count, **_PRIVATE)
    return np.frombuffer(pages, np.uint8).reshape(shape)
