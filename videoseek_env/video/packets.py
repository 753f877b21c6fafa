"""Every packet of a video stream, in decoding order, read without decoding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av import Packet
from av.video.stream import VideoStream

NO_TIME = np.iinfo(np.int64).min
"""Stands for a packet time that the container does not give."""


@dataclass(frozen=True, slots=True, eq=False)
class PacketTable:
    """What the container says about each packet; times in its own time base, all [P]."""

    pts: npt.NDArray[np.int64]
    """Presentation times; NO_TIME where unknown."""
    dts: npt.NDArray[np.int64]
    """Decoding times; NO_TIME where unknown."""
    duration: npt.NDArray[np.int64]
    """How long each is shown; 0 where unknown."""
    is_keyframe: npt.NDArray[np.bool_]
    """Decoding can start here."""
    is_discarded: npt.NDArray[np.bool_]
    """Decoded but not shown: it lies before the cut of an edit list."""


def scan_packets(packets: Iterable[Packet[VideoStream]]) -> PacketTable:
    """Read every packet. This reads the whole file, but decodes nothing."""
    rows = [
        (
            NO_TIME if packet.pts is None else packet.pts,
            NO_TIME if packet.dts is None else packet.dts,
            packet.duration or 0,
            packet.is_keyframe,
            packet.is_discard,
        )
        for packet in packets
        if packet.size
    ]
    table = np.array(rows, np.int64).reshape(-1, 5)
    return PacketTable(
        pts=table[:, 0],
        dts=table[:, 1],
        duration=table[:, 2],
        is_keyframe=table[:, 3] != 0,
        is_discarded=table[:, 4] != 0,
    )
