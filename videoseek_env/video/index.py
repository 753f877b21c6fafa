"""Which frames a video has, when each is shown, and where decoding must start to reach it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from videoseek_env.video.file_identity import FileIdentity
from videoseek_env.video.info import VideoInfo
from videoseek_env.video.packets import NO_TIME, PacketTable
from videoseek_env.video.pixels import Orientation

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """The shown frames of a stream in presentation order, and the entry points that lead to them.

    An entry point is a keyframe packet, shown or not. Times are in the stream's own time base.
    """

    pts: npt.NDArray[np.int64]
    """Presentation time of each frame, strictly ascending, [N]."""
    last_duration: int
    """How long the last frame is shown."""
    decode_position: npt.NDArray[np.int64]
    """Place of each frame's packet in decoding order, [N]."""
    entry: npt.NDArray[np.int64]
    """The entry point from which each frame decodes right, [N]."""
    entry_pts: npt.NDArray[np.int64]
    """Presentation time of each entry point in decoding order, [E]."""
    entry_dts: npt.NDArray[np.int64]
    """Decoding time of each entry point, NO_TIME where unknown, [E]."""
    entry_position: npt.NDArray[np.int64]
    """Place of each entry point's packet in decoding order, [E]."""
    keyframe_indices: npt.NDArray[np.int64]
    """Frames that are entry points, ascending, [K]."""
    has_open_groups: bool
    """Some frames are decoded after a keyframe but shown before it, and need the group before."""
    has_hidden_packets: bool
    """Some packets are decoded but never shown: an edit list cuts them off."""


@dataclass(frozen=True, slots=True, eq=False)
class VideoIndex:
    """Everything about a video file but its pixels."""

    info: VideoInfo
    frames: FrameTable
    timestamps: npt.NDArray[np.float64]
    """Presentation time of each frame in seconds, ascending, read-only, [N]."""
    time_base: Fraction
    """Seconds in one unit of the packet times."""
    orientation: Orientation
    container: str
    """FFmpeg's name of the container format."""
    seeks_by_decoding_time: bool
    """Whether this container's seek compares decoding times (or presentation times)."""
    file: FileIdentity
    """What was indexed."""


def frame_table(packets: PacketTable) -> FrameTable | None:
    """The frames that can be shown, or None where there are none.

    Packets before the first keyframe, and those that lead it, have nothing to be decoded from: they
    are no frames. Packets of equal presentation time are one frame.
    """
    entry_position = np.flatnonzero(packets.is_keyframe & (packets.pts != NO_TIME))
    if len(entry_position) == 0:
        return None
    entry_pts = packets.pts[entry_position]
    shown = ~packets.is_discarded & (packets.pts != NO_TIME) & (packets.pts >= entry_pts[0])
    shown[: entry_position[0]] = False
    position = np.flatnonzero(shown)
    pts, first = np.unique(packets.pts[position], return_index=True)
    if len(pts) == 0:
        return None
    position = position[first]
    is_entry = packets.is_keyframe[position]
    latest_entry = np.searchsorted(entry_position, position, "right") - 1
    entry = _entries(pts, latest_entry, entry_pts)
    return FrameTable(
        pts=_read_only(pts),
        last_duration=_last_duration(pts, packets.duration[position[-1]]),
        decode_position=_read_only(position),
        entry=_read_only(entry),
        entry_pts=_read_only(entry_pts),
        entry_dts=_read_only(packets.dts[entry_position]),
        entry_position=_read_only(entry_position),
        keyframe_indices=_read_only(np.flatnonzero(is_entry)),
        has_open_groups=bool((entry != latest_entry).any()),
        has_hidden_packets=bool(packets.is_discarded.any()),
    )


def seconds_of(pts: npt.NDArray[np.int64], time_base: Fraction) -> npt.NDArray[np.float64]:
    """Times in seconds, rounded once: `pts * numerator / denominator`."""
    return _read_only(pts * time_base.numerator / time_base.denominator)


def _entries(
    pts: npt.NDArray[np.int64],
    latest_entry: npt.NDArray[np.int64],
    entry_pts: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """The last entry point at or before each frame, in decoding and in presentation order.

    A frame that is decoded after a keyframe but shown before it (an open group) refers to frames
    before that keyframe, so its entry point is the one before.
    """
    entry = latest_entry
    while (is_too_late := (entry_pts[entry] > pts) & (entry > 0)).any():
        entry = entry - is_too_late
    return entry


def _last_duration(pts: npt.NDArray[np.int64], declared: int) -> int:
    if declared > 0:
        return int(declared)
    return int(np.median(np.diff(pts))) if len(pts) > 1 else 0


def _read_only(array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    array.flags.writeable = False
    return array
