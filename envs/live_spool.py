"""A stream's packets, kept as video files of a few seconds each, and read back as one video.

Nothing is decoded on the way in, and looking back is an exact read of ordinary files.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av import Packet
from av.video.stream import VideoStream

from videoseek_env.video import VideoReader, open_video
from videoseek_env.video.request import output_array, unique_indices


@dataclass(slots=True, eq=False)
class SpoolFile:
    """A few seconds of a stream."""

    path: Path
    size_bytes: int
    _reader: VideoReader | None = None

    def open(self) -> VideoReader:
        """Its reader, made once."""
        if self._reader is None:
            self._reader = open_video(self.path, "pyav")
        return self._reader


@dataclass(frozen=True, slots=True)
class StoredPacket:
    """A compressed frame; times in the stream's time base, zero at the first keyframe."""

    data: bytes
    pts: int
    dts: int | None
    duration: int
    is_keyframe: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What of a stream can be looked at."""

    files: tuple[SpoolFile, ...]
    """Closed ones, the oldest first."""
    tail: tuple[StoredPacket, ...] = field(repr=False)
    """Packets since the last closed file; they begin with a keyframe."""


class PacketSpool:
    """Closed files, and the packets since the last one. Its owner locks all but `read_back`."""

    def __init__(
        self, *, segment_seconds: float, max_bytes: int, folder: str | None = None
    ) -> None:
        """Make an empty temporary folder.

        Args:
            segment_seconds: Video in one file at least; files begin at keyframes.
            max_bytes: Bound of the closed files together; the oldest are deleted.
            folder: Where to make it; None takes the system's place for temporary files.
        """
        self._segment_seconds, self._max_bytes = segment_seconds, max_bytes
        self._folder = tempfile.TemporaryDirectory(
            prefix="videoseek-live-", dir=folder, ignore_cleanup_errors=True
        )
        self._template: VideoStream | None = None
        self._time_base = Fraction(1, 1)
        self._origin: int | None = None
        """Time of the first keyframe, which counts as zero."""
        self._edge: int | None = None
        """Newest decoding time."""
        self._newest = self._end = 0
        """Newest presentation time, and the latest end of a frame."""
        self._is_lost = True
        """Whether what comes can't be decoded before the next keyframe."""
        self._files: deque[SpoolFile] = deque()
        self._tail: list[StoredPacket] = []
        self._tail_bytes = self._files_bytes = self._files_made = self._views_made = 0
        self._pinned: tuple[SpoolFile, ...] = ()
        self._dropped: list[SpoolFile] = []
        """Over the bound, and still pinned."""

    @property
    def complete_seconds(self) -> float:
        """The newest time up to which no frame is still to come; -inf before the first frame."""
        return -math.inf if self._edge is None else float(self._edge * self._time_base)

    @property
    def end_seconds(self) -> float | None:
        """End of the last frame so far; None before the first."""
        return None if self._origin is None else float(self._end * self._time_base)

    def begin(self, stream: VideoStream) -> None:
        """Note what the stream is, independent of its container and its thread.

        Raises:
            ValueError: If its packets can't be kept.
        """
        container = av.open(io.BytesIO(), "w", format="matroska")
        self._template = container.add_stream_from_template(stream, opaque=True)
        self._time_base = stream.time_base or Fraction(1, av.time_base)

    def add(self, packet: Packet[VideoStream]) -> bool:
        """Keep a packet, unless it can't be timed or decoded: then skip to the next keyframe.

        Returns:
            Whether it was kept.

        Raises:
            ValueError: If times jump back, or there is no keyframe for too long.
        """
        if not packet.size:
            return False
        is_damaged = packet.is_corrupt or packet.pts is None
        self._is_lost = is_damaged or (self._is_lost and not packet.is_keyframe)
        if self._is_lost or packet.pts is None:
            return False
        if self._origin is None:
            self._origin = packet.pts
        pts = packet.pts - self._origin
        dts = None if packet.dts is None else packet.dts - self._origin
        duration, is_keyframe = packet.duration or 0, packet.is_keyframe
        if is_keyframe and self._tail:
            self._meet_keyframe(pts)
        self._tail.append(StoredPacket(bytes(packet), pts, dts, duration, is_keyframe))
        self._newest, self._end = max(self._newest, pts), max(self._end, pts + duration)
        self._tail_bytes += packet.size
        if self._tail_bytes > self._max_bytes:
            raise ValueError(f"max_bytes={self._max_bytes} is too little for one file")
        # No later packet is decoded before this one, and none is shown before it is decoded.
        if dts is not None and dts >= 0:
            self._edge = max(dts, self._edge or 0)
        return True

    def snapshot(self) -> Snapshot:
        """What is there. Its files stay until this is called again."""
        for file in self._dropped:
            file.path.unlink(missing_ok=True)
        self._dropped = []
        self._pinned = tuple(self._files)
        return Snapshot(self._pinned, tuple(self._tail))

    def read_back(self, snapshot: Snapshot) -> JoinedReader:
        """A reader of a snapshot; this needs no lock.

        Raises:
            VideoDecodeError: If it can't be decoded.
            OSError: If it can't be written.
        """
        self._views_made += 1
        listing = Path(self._folder.name) / f"until-{self._views_made:06d}.ffconcat"
        tail = self._write(listing.with_suffix(".mkv"), snapshot.tail)
        files = (*snapshot.files, tail)
        names = "".join(f"file '{file.path.name}'\n" for file in files)
        listing.write_text(f"ffconcat version 1.0\n{names}", encoding="utf-8")
        return JoinedReader(listing, snapshot, [file.open() for file in files])

    def delete(self) -> None:
        """Delete every file."""
        self._folder.cleanup()

    def _meet_keyframe(self, pts: int) -> None:
        """Close the file that the keyframe ends, if it is long enough."""
        # Whatever is sent before a keyframe is shown before it.
        if pts <= self._newest:
            before, after = float(self._newest * self._time_base), float(pts * self._time_base)
            raise ValueError(f"its times jump back from {before:.1f} s to {after:.1f} s")
        if (pts - self._tail[0].pts) * self._time_base < self._segment_seconds:
            return
        self._files_made += 1
        path = Path(self._folder.name) / f"{self._files_made:06d}.mkv"
        file = self._write(path, self._tail)
        self._files.append(file)
        self._files_bytes += file.size_bytes
        self._tail, self._tail_bytes = [], 0
        while self._files_bytes > self._max_bytes:
            oldest = self._files.popleft()
            self._files_bytes -= oldest.size_bytes
            if oldest in self._pinned:
                self._dropped.append(oldest)
            else:
                oldest.path.unlink(missing_ok=True)

    def _write(self, path: Path, packets: Sequence[StoredPacket]) -> SpoolFile:
        """A Matroska file of packets that begin with a keyframe."""
        if self._template is None:
            raise ValueError("the stream has not begun")
        with av.open(str(path), "w", format="matroska") as container:
            stream = container.add_stream_from_template(self._template, opaque=True)
            for stored in packets:
                packet = Packet(stored.data)
                packet.pts, packet.dts, packet.duration = stored.pts, stored.dts, stored.duration
                packet.is_keyframe, packet.time_base = stored.is_keyframe, self._time_base
                packet.stream = stream
                container.mux(packet)
        return SpoolFile(path, path.stat().st_size)


class JoinedReader:
    """Consecutive video files as one video: a `VideoReader` of a snapshot."""

    def __init__(self, listing: Path, snapshot: Snapshot, readers: Sequence[VideoReader]) -> None:
        self.path, self.backend, self.snapshot = str(listing), "pyav", snapshot
        self._readers = readers
        self._starts = np.cumsum([0, *(reader.info.frame_count for reader in readers)])
        starts = zip(readers, self._starts, strict=False)
        self.timestamps = np.concatenate([reader.timestamps for reader in readers])
        self.keyframe_indices = np.concatenate([r.keyframe_indices + at for r, at in starts])
        self.timestamps.flags.writeable = self.keyframe_indices.flags.writeable = False
        first, last, count = readers[0].info, readers[-1].info, len(self.timestamps)
        duration = last.end_seconds - first.start_seconds
        self.info = replace(
            first, frame_count=count, duration_seconds=duration, fps=count / duration
        )

    def read(
        self, indices: Sequence[int], height: int | None = None, width: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Decode frames; see `VideoReader.read`. No decoder stays open."""
        unique = unique_indices(indices, self.info.frame_count)
        out = output_array(len(unique.ascending), self.info, height, width)
        wanted = np.asarray(unique.ascending, np.int64)
        bounds = np.searchsorted(wanted, self._starts)
        for number, reader in enumerate(self._readers):
            part = slice(int(bounds[number]), int(bounds[number + 1]))
            if part.start < part.stop:
                within = (wanted[part] - self._starts[number]).tolist()
                out[part] = reader.read(within, out.shape[1], out.shape[2])
                reader.close()
        return unique.restore(out)

    def close(self) -> None:
        """Nothing to do: no decoder stays open."""

    def delete_snapshot(self) -> None:
        """Delete the files that were made for this moment of the stream alone."""
        listing = Path(self.path)
        listing.unlink(missing_ok=True)
        listing.with_suffix(".mkv").unlink(missing_ok=True)
