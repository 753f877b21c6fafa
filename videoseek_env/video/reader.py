"""The one interface to a decoded video, and the choice of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Backend = Literal["auto", "pyav", "decord"]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video is."""

    frame_count: int
    duration_seconds: float
    """From the first frame's start to the last frame's end."""
    start_seconds: float
    """Presentation time of the first frame; not always zero."""
    height: int
    """Pixels, after rotation."""
    width: int
    """Pixels, after rotation."""
    fps: float
    """Average frames per second; the timestamps are the truth."""
    codec: str
    """Such as "h264"; "frames" for a folder of images."""

    @property
    def end_seconds(self) -> float:
        """End of the timeline: when the last frame's display ends."""
        return self.start_seconds + self.duration_seconds


class VideoReader(Protocol):
    """Frames of one video by index. Safe from several threads and after a fork."""

    @property
    def path(self) -> str:
        """The file or folder."""
    @property
    def backend(self) -> str:
        """The decoder's name."""
    @property
    def info(self) -> VideoInfo:
        """What the video is."""
    @property
    def timestamps(self) -> npt.NDArray[np.float64]:
        """Presentation time of each frame in seconds, ascending, read-only, [frame_count]."""
    @property
    def keyframe_indices(self) -> npt.NDArray[np.int64]:
        """Indices of the frames that decode by themselves, ascending, read-only, [K]."""

    def read(
        self, indices: Sequence[int], height: int | None = None, width: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Decode frames, in the order asked for, repeats allowed.

        Args:
            indices: Frame indices in presentation order, each in [0, frame_count).
            height: Pixels to resize to; None keeps the source's (both or neither).
            width: Pixels to resize to; None keeps the source's.

        Returns:
            RGB frames, uint8 [N, H, W, 3].

        Raises:
            IndexError: If an index is outside the video.
            VideoDecodeError: If a frame can't be decoded.
        """

    def close(self) -> None:
        """Free the decoder; a later read opens it again."""


def open_video(
    path: str, backend: Backend = "auto", *, frame_fps: float | None = None
) -> VideoReader:
    """(helper writes this)"""
