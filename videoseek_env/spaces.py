"""Spaces for what language models write and video models see.

Gymnasium's own `Text` has an alphabet, which no reply of a language model keeps to, and its `Box`
one fixed shape, which no clip keeps to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Space, Text

_MAX_SAMPLE_CHARS = 64
_MAX_SAMPLE_SIDE = 8
_SAMPLE_ALPHABET = "".join(map(chr, range(32, 127))) + "éß中🎬"


class UnicodeText(Text):
    """Strings of at most `max_length` characters, any characters, the empty string included.

    Samples are short, whatever the limit.
    """

    def __init__(self, max_length: int, *, seed: int | np.random.Generator | None = None) -> None:
        """Allow up to `max_length` characters."""
        super().__init__(max_length, min_length=0, charset=_SAMPLE_ALPHABET, seed=seed)

    def sample(self, mask: None = None, probability: None = None) -> str:  # type: ignore[override]
        """A random text of at most 64 characters."""
        length = self.np_random.integers(min(self.max_length, _MAX_SAMPLE_CHARS) + 1)
        return "".join(self.np_random.choice(list(_SAMPLE_ALPHABET), size=length))

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string within the limit."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((type(self), self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"


class ClipSpace(Space[npt.NDArray[Any]]):
    """Arrays whose every axis has at most a given length, zero included: frames, or their times.

    The last of four axes, the channels, is exact.
    """

    def __init__(
        self,
        max_shape: tuple[int, ...],
        dtype: type[np.uint8] | type[np.float64],
        *,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        """Allow arrays of `dtype` with up to `max_shape` entries along each axis."""
        super().__init__(None, dtype, seed)
        self.max_shape = max_shape

    @property
    def is_np_flattenable(self) -> bool:
        """Whether samples flatten to one length; they do not."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> npt.NDArray[Any]:
        """A random array of at most eight entries along each axis."""
        shape = [
            int(self.np_random.integers(1, min(side, _MAX_SAMPLE_SIDE) + 1))
            for side in self.max_shape
        ]
        if len(shape) == 4:
            shape[-1] = self.max_shape[-1]
        return self.np_random.integers(0, 256, size=shape).astype(self.dtype)

    def contains(self, x: Any) -> bool:
        """Whether `x` is an array of the right type, rank and size."""
        if not (isinstance(x, np.ndarray) and x.dtype == self.dtype):
            return False
        if x.ndim != len(self.max_shape) or (x.ndim == 4 and x.shape[-1] != self.max_shape[-1]):
            return False
        return all(side <= limit for side, limit in zip(x.shape, self.max_shape, strict=True))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ClipSpace)
            and self.max_shape == other.max_shape
            and self.dtype == other.dtype
        )

    def __hash__(self) -> int:
        return hash((self.max_shape, self.dtype))

    def __repr__(self) -> str:
        return f"ClipSpace({self.max_shape}, {self.dtype})"
