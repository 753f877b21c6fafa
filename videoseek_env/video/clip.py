"""Frames that were looked at, and how to get them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from videoseek_env.segment import Segment

Strategy = Literal["coarse", "medium", "fine"]
"""A crop's sampling strategy: its visual-token quota."""
STRATEGIES: tuple[Strategy, ...] = ("coarse", "medium", "fine")

ClipStrategy = Literal["overview", "coarse", "medium", "fine"]
"""How a clip was sampled: the overview, or a crop's strategy."""


@dataclass(frozen=True, slots=True)
class ClipRef:
    """Which frames of which video at which size: known before decoding, kept after it.

    Its visual tokens are exact, so budgets are checked before anything is decoded.
    """

    video: str
    """Path of the video."""
    indices: tuple[int, ...]
    """Frame indices in presentation order, ascending."""
    timestamps_seconds: tuple[float, ...]
    """Presentation time of each frame."""
    height: int
    """Pixels, after resizing."""
    width: int
    """Pixels, after resizing."""
    segment: Segment
    """The stretch that was asked for."""
    strategy: ClipStrategy
    visual_tokens: int
    """What the clip costs the agent."""

    def to_dict(self) -> dict[str, Any]:
        """The reference as JSON-serialisable fields; `from_dict` reads them back."""
        return {
            "video": self.video,
            "indices": list(self.indices),
            "timestamps_seconds": list(self.timestamps_seconds),
            "height": self.height,
            "width": self.width,
            "segment": [self.segment.start_seconds, self.segment.end_seconds],
            "strategy": self.strategy,
            "visual_tokens": self.visual_tokens,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ClipRef:
        """Read a reference from the fields that `to_dict` writes.

        Raises:
            KeyError: If a field is missing.
            TypeError: If a field is of the wrong type.
            ValueError: If a number, the segment or the strategy makes no sense.
        """
        if fields["strategy"] not in ("overview", *STRATEGIES):
            raise ValueError(f"unknown strategy {fields['strategy']!r}")
        return cls(
            video=str(fields["video"]),
            indices=tuple(map(int, fields["indices"])),
            timestamps_seconds=tuple(map(float, fields["timestamps_seconds"])),
            height=int(fields["height"]),
            width=int(fields["width"]),
            segment=Segment(*map(float, fields["segment"])),
            strategy=fields["strategy"],
            visual_tokens=int(fields["visual_tokens"]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Decoded frames. The arrays are shared and read-only; copy before writing."""

    frames: npt.NDArray[np.uint8]
    """RGB, [N, H, W, 3]."""
    timestamps_seconds: npt.NDArray[np.float64]
    """Presentation time of each frame that was really decoded, [N]."""
    segment: Segment
    """The stretch that was asked for."""
    strategy: ClipStrategy

    def __post_init__(self) -> None:
        self.frames.flags.writeable = False
        self.timestamps_seconds.flags.writeable = False
