"""From a decoded frame to RGB pixels of the wanted size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av import VideoFrame
from av.sidedata.sidedata import SideData, SideDataContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

_UNSPECIFIED = 2
"""AVCOL_SPC_UNSPECIFIED: the stream does not say which YUV it is."""
_HD_HEIGHT_PX = 720


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pixels are turned for display: mirrored left to right first, then turned."""

    clockwise_quarter_turns: int = 0
    is_mirrored: bool = False

    @property
    def is_sideways(self) -> bool:
        """Height and width change places."""
        return self.clockwise_quarter_turns % 2 == 1

    def apply(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The picture [H, W, 3] as displayed; a view."""
        if self.is_mirrored:
            picture = picture[:, ::-1]
        return np.rot90(picture, -self.clockwise_quarter_turns)


def orientation_of(frame: VideoFrame) -> Orientation:
    """Read the display matrix of a frame.

    Raises:
        ValueError: If it turns by anything but quarter turns.
    """
    # not frame.side_data, which refers back to the frame and so keeps its buffers until the next
    # cycle collection
    data = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # stub lacks it
    if not isinstance(data, SideData):
        return Orientation()
    matrix = np.frombuffer(memoryview(data), np.int32).tolist()
    across_x, across_y, _, down_x, down_y, *_ = matrix
    is_mirrored = across_x * down_y - across_y * down_x < 0
    sign = -1 if is_mirrored else 1
    turns = math.atan2(sign * across_y, sign * across_x) / (math.pi / 2)
    if abs(turns - round(turns)) > 0.01:
        raise ValueError(f"a rotation by {turns * 90:.0f} degrees, not by quarter turns")
    return Orientation(round(turns) % 4, is_mirrored)


class PixelConverter:
    """Scales, turns and converts frames to RGB in one pass. For one thread at a time.

    Scaling is swscale's bilinear filter, which widens with the shrinking factor: it averages, so
    nothing aliases. Frames that do not say their YUV matrix are BT.709 from 720 rows up and BT.601
    below, as players assume.
    """

    def __init__(self, orientation: Orientation) -> None:
        self._orientation = orientation
        self._scaler = VideoReformatter()

    def convert(self, frame: VideoFrame, out: npt.NDArray[np.uint8]) -> None:
        """Write `frame` into `out`, uint8 [H, W, 3], at the size of `out`."""
        height, width = out.shape[:2]
        if self._orientation.is_sideways:
            height, width = width, height
        rgb = self._scaler.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=_matrix(frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        out[...] = self._orientation.apply(rows[:, : width * 3].reshape(height, width, 3))


def _matrix(frame: VideoFrame) -> Colorspace | None:
    if frame.colorspace != _UNSPECIFIED:
        return None
    return Colorspace.ITU709 if frame.height >= _HD_HEIGHT_PX else Colorspace.ITU601
