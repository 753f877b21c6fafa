"""Open a file and find out everything but its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from videoseek_env.errors import VideoDecodeError
from videoseek_env.video.ebml import ebml_damage, is_ebml_file
from videoseek_env.video.file_identity import FileIdentity, file_identity
from videoseek_env.video.index import FrameTable, VideoIndex, frame_table, seconds_of
from videoseek_env.video.info import VideoInfo
from videoseek_env.video.iso_boxes import is_iso_file, iso_damage, sample_tables
from videoseek_env.video.packets import NO_TIME, PacketTable, scan_packets
from videoseek_env.video.pixels import orientation_of

REPLACE_FILE = "Replace the file, or leave its task out."
REENCODE_FILE = "Re-encode it, for example with: ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"

_REMUX_FILE = "Remux it: ffmpeg -i INPUT -c copy -avoid_negative_ts make_zero OUTPUT.mp4"

_TIMED_BY_DECODING = frozenset({"avi", "asf"})
_FIRST_FRAME_WITHIN_PACKETS = 5000
_CHECKED_ENTRIES = 64


@dataclass(frozen=True, slots=True)
class OpenStream:
    """An open container and its video stream; for one thread at a time."""

    container: InputContainer
    stream: VideoStream


def check_structure(path: Path, backend: str) -> None:
    """Refuse what is no complete file, before any decoder sees it.

    Raises:
        VideoDecodeError: If the file is missing, empty, or cut off.
    """
    cause, remedy = None, REPLACE_FILE
    try:
        if not path.exists():
            cause, remedy = "no such file", "Check the path."
        elif not path.is_file():
            cause, remedy = "not a regular file", "Give the path of a video file."
        elif path.stat().st_size == 0:
            cause = "the file is empty"
        elif is_iso_file(path):
            cause = iso_damage(path)
        elif is_ebml_file(path):
            cause = ebml_damage(path)
    except OSError as error:
        cause, remedy = f"it can't be read: {error}", "Check its permissions."
    if cause is not None:
        raise VideoDecodeError(str(path), backend, cause, remedy)


@contextmanager
def decode_errors(path: Path, backend: str, doing: str) -> Iterator[None]:
    """Turn whatever FFmpeg raises into a VideoDecodeError."""
    try:
        yield
    except VideoDecodeError:
        raise
    except Exception as error:  # damaged files make PyAV raise nearly anything
        cause = f"{doing} failed: {error}"
        raise VideoDecodeError(str(path), backend, cause, REPLACE_FILE) from error


def open_stream(path: Path, backend: str) -> OpenStream:
    """Open the file's main video stream for exact decoding by one thread.

    Raises:
        VideoDecodeError: If FFmpeg can't open the file, or it has no video.
    """
    with decode_errors(path, backend, "opening it"):
        container = av.open(str(path), metadata_errors="replace")
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        container.close()
        raise VideoDecodeError(str(path), backend, "it has no video stream", REPLACE_FILE)
    if stream.codec_context is None:
        container.close()
        raise VideoDecodeError(str(path), backend, "its codec is unknown", REENCODE_FILE)
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"err_detect": "explode"}
    return OpenStream(container, stream)


def probe(path: Path, backend: str) -> VideoIndex:
    """Index a video file. It must have passed `check_structure`.

    Raises:
        VideoDecodeError: If it has no frames that can be decoded and timed.
    """
    identity = file_identity(path)
    opened = open_stream(path, backend)
    try:
        with decode_errors(path, backend, "reading it"):
            packets = _packets_from_tables(opened, path) or _packets_from_scan(opened)
            first_frame = _first_frame(opened)
            if (cause := _untimed(opened, packets)) is not None:
                raise VideoDecodeError(str(path), backend, cause, REENCODE_FILE)
            frames = frame_table(_shown_from_zero(opened, packets))
            if frames is None or first_frame is None:
                raise ValueError("no frame has both a picture and a presentation time")
            if frames.pts[0] < 0:
                cause = "its first frame is shown before time zero"
                raise VideoDecodeError(str(path), backend, cause, _REMUX_FILE)
            return _index(opened, frames, first_frame, identity)
    finally:
        opened.container.close()


def _untimed(opened: OpenStream, packets: PacketTable) -> str | None:
    """Why the container's times can't be believed, or None.

    A program stream may leave most of them out. AVI and ASF say when to decode a frame; where it is
    shown at another time, FFmpeg makes that up, a frame late.
    """
    from_keyframe = packets.pts[int(packets.is_keyframe.argmax()) :]
    if 2 * np.count_nonzero(from_keyframe == NO_TIME) > len(from_keyframe):
        return "its container does not say when frames are shown"
    is_made_up = opened.container.format.name in _TIMED_BY_DECODING
    if is_made_up and opened.stream.codec_context.has_b_frames:
        shown = packets.pts[packets.pts != NO_TIME]
        if (np.diff(shown) >= 0).all():
            return "its container can't say in which order its frames are shown"
    return None


def _shown_from_zero(opened: OpenStream, packets: PacketTable) -> PacketTable:
    """Without the frames that an .mp4 in fragments puts before time zero, as players have it."""
    is_before = (packets.pts < 0) & (packets.pts != NO_TIME)
    if not (is_before.any() and opened.container.format.name.startswith("mov")):
        return packets
    return replace(packets, is_discarded=packets.is_discarded | is_before)


def _packets_from_tables(opened: OpenStream, path: Path) -> PacketTable | None:
    """The packets of a plain .mp4, from its tables alone.

    FFmpeg shows sample `i` at its decoding time plus its composition offset plus one constant,
    unless edits drop samples. So the tables stand when FFmpeg's own index has as many samples and
    agrees on both ends, where edits cut, and here and there between.
    """
    if not opened.container.format.name.startswith("mov"):
        return None
    tables, entries = sample_tables(path, opened.stream.id), opened.stream.index_entries
    if tables is None or len(tables.dts) != len(entries):
        return None
    count = len(entries)
    checked = np.unique(
        np.concatenate(
            [
                np.arange(min(count, _CHECKED_ENTRIES)),
                np.linspace(0, count - 1, _CHECKED_ENTRIES).astype(np.int64),
                np.arange(max(count - _CHECKED_ENTRIES, 0), count),
            ]
        )
    )
    dts = tables.dts + entries[0].timestamp
    for at in checked.tolist():
        entry = entries[at]
        if (
            entry.timestamp != dts[at]
            or entry.is_keyframe != tables.is_keyframe[at]
            or entry.is_discard
        ):
            return None
    head = scan_packets(islice(opened.container.demux(opened.stream), _CHECKED_ENTRIES))
    opened.container.seek(0)
    if len(head.pts) == 0 or (head.dts != dts[: len(head.dts)]).any():
        return None
    shift = head.pts[0] - dts[0] - tables.composition_offset[0]
    pts = dts + tables.composition_offset + shift
    if (head.pts != pts[: len(head.pts)]).any():
        return None
    hidden = np.zeros(count, np.bool_)
    return PacketTable(pts, dts, tables.duration, tables.is_keyframe, hidden)


def _packets_from_scan(opened: OpenStream) -> PacketTable:
    packets = scan_packets(opened.container.demux(opened.stream))
    opened.container.seek(0)
    return packets


def _first_frame(opened: OpenStream) -> av.VideoFrame | None:
    packets = opened.container.demux(opened.stream)
    for packet in islice(packets, _FIRST_FRAME_WITHIN_PACKETS):
        try:
            frames = opened.stream.codec_context.decode(packet)
        except av.InvalidDataError:
            continue
        if frames:
            return frames[0]
    return None


def _index(
    opened: OpenStream, frames: FrameTable, first_frame: av.VideoFrame, identity: FileIdentity
) -> VideoIndex:
    stream = opened.stream
    time_base = stream.time_base or Fraction(1, av.time_base)
    timestamps = seconds_of(frames.pts, time_base)
    orientation = orientation_of(first_frame)
    height, width = first_frame.height, first_frame.width
    if orientation.is_sideways:
        height, width = width, height
    duration = float((int(frames.pts[-1] - frames.pts[0]) + frames.last_duration) * time_base)
    if duration <= 0:
        duration = 1 / float(stream.average_rate or 25)
    info = VideoInfo(
        frame_count=len(timestamps),
        duration_seconds=duration,
        start_seconds=float(timestamps[0]),
        height=height,
        width=width,
        fps=len(timestamps) / duration,
        codec=stream.codec_context.codec.canonical_name,
    )
    container = opened.container.format.name
    return VideoIndex(
        info=info,
        frames=frames,
        timestamps=timestamps,
        time_base=time_base,
        orientation=orientation,
        container=container,
        seeks_by_decoding_time=container.startswith(("mov", "mpegts", "flv")),
        file=identity,
    )
