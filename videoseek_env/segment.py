"""A stretch of video."""

from __future__ import annotations

import math
from dataclasses import dataclass

from videoseek_env.errors import SegmentError


@dataclass(frozen=True, slots=True)
class Segment:
    """The half-open range [start, end) of presentation time.

    Raises:
        SegmentError: Unless both ends are finite and 0 <= start < end.

    >>> Segment(2.0, 5.0).duration_seconds
    3.0
    """

    start_seconds: float
    """First moment inside, in seconds of the original video."""
    end_seconds: float
    """First moment outside, in seconds of the original video."""

    def __post_init__(self) -> None:
        finite = math.isfinite(self.start_seconds) and math.isfinite(self.end_seconds)
        if not (finite and 0 <= self.start_seconds < self.end_seconds):
            raise SegmentError(
                "a segment needs finite seconds with 0 <= start < end, "
                f"got [{self.start_seconds}, {self.end_seconds})"
            )

    @property
    def duration_seconds(self) -> float:
        """Length in seconds, above zero."""
        return self.end_seconds - self.start_seconds

    def __str__(self) -> str:
        return f"{self.start_seconds:.1f} s to {self.end_seconds:.1f} s"
