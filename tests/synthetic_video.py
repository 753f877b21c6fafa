"""Test videos whose every frame says its own index in big black and white squares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

GRID_ROWS = 4
GRID_COLUMNS = 4
INDEX_BITS = 12
MAX_FRAMES = 1 << INDEX_BITS
UNREADABLE = -1

_CODEC_OPTIONS = {
    "libx264": {"preset": "veryfast", "crf": "23"},
    "libx265": {"preset": "ultrafast", "crf": "28", "x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"},
    "libsvtav1": {"preset": "8", "crf": "30", "svtav1-params": "lp=1"},
}


def barcode(index: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """An RGB picture [H, W, 3] that carries `index`: 12 bits, then 4 bits of checksum."""
    word = index << 4 | _checksum(index)
    bits = [(word >> place) & 1 for place in range(GRID_ROWS * GRID_COLUMNS)]
    cells = np.array(bits, np.uint8).reshape(GRID_ROWS, GRID_COLUMNS) * 255
    rows = np.arange(height) * GRID_ROWS // height
    columns = np.arange(width) * GRID_COLUMNS // width
    picture = cells[rows][:, columns]
    return np.repeat(picture[:, :, None], 3, axis=2)


def read_barcode(picture: npt.NDArray[np.uint8]) -> int:
    """The index in an RGB picture, or UNREADABLE where its checksum is wrong."""
    height, width = picture.shape[:2]
    word = 0
    for place in range(GRID_ROWS * GRID_COLUMNS):
        row, column = divmod(place, GRID_COLUMNS)
        cell = picture[
            height * (4 * row + 1) // (4 * GRID_ROWS) : height * (4 * row + 3) // (4 * GRID_ROWS)
            + 1,
            width * (4 * column + 1) // (4 * GRID_COLUMNS) : width
            * (4 * column + 3)
            // (4 * GRID_COLUMNS)
            + 1,
        ]
        word |= int(cell.mean() > 127) << place
    index, checksum = word >> 4, word & 15
    return index if checksum == _checksum(index) else UNREADABLE


def read_barcodes(pictures: npt.NDArray[np.uint8]) -> list[int]:
    """The index in each of RGB pictures [N, H, W, 3]."""
    return [read_barcode(picture) for picture in pictures]


def write_video(
    path: Path,
    frame_count: int = 60,
    *,
    codec: str = "libx264",
    height: int = 96,
    width: int = 128,
    fps: int = 25,
    gop_frames: int = 12,
    b_frames: int = 2,
    pix_fmt: str = "yuv420p",
    ticks: Sequence[int] | None = None,
    ticks_per_second: int | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pictures: Iterable[npt.NDArray[np.uint8]] | None = None,
) -> Path:
    """Write a barcoded video; frame `i` is shown at `ticks[i] / ticks_per_second` seconds.

    Args:
        path: Where to; the suffix picks the container.
        frame_count: Frames, at most MAX_FRAMES.
        codec: Name of the encoder.
        height: Pixels.
        width: Pixels.
        fps: Frames per second where `ticks` is None.
        gop_frames: Largest distance of keyframes.
        b_frames: Most B-frames in a row (H.264 and HEVC).
        pix_fmt: Pixel format.
        ticks: Ascending presentation times; None means `0, 1, 2, ...`.
        ticks_per_second: Unit of `ticks`; None means `fps`.
        options: Further options of the encoder.
        container_options: Options of the muxer.
        pictures: RGB pictures instead of barcodes.
    """
    if ticks is None:
        ticks, ticks_per_second = range(frame_count), fps
    if ticks_per_second is None:
        raise ValueError("ticks need ticks_per_second")
    if pictures is None:
        pictures = (barcode(index, height, width) for index in range(frame_count))
    unit = Fraction(1, ticks_per_second)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        if not isinstance(stream, VideoStream):
            raise TypeError(f"{codec} encodes no video")
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        stream.codec_context.time_base = unit
        stream.codec_context.gop_size = gop_frames
        stream.codec_context.thread_count = 1
        if codec in ("libx264", "libx265"):
            stream.codec_context.max_b_frames = b_frames
        stream.codec_context.options = {**_CODEC_OPTIONS[codec], **(options or {})}
        for tick, picture in zip(ticks, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(
    source: Path,
    target: Path,
    *,
    shift_seconds: Fraction = Fraction(0),
    container_options: dict[str, str] | None = None,
) -> Path:
    """Copy the packets of `source` into another container, each `shift_seconds` later.

    A negative shift into .mp4 writes an edit list, as `ffmpeg -ss ... -c copy` does: packets before
    the cut are decoded but not shown.
    """
    with (
        av.open(str(source)) as reading,
        av.open(str(target), "w", options=container_options or {}) as writing,
    ):
        incoming = reading.streams.video[0]
        outgoing = writing.add_stream_from_template(incoming)
        for packet in reading.demux(incoming):
            if packet.dts is None or packet.pts is None:
                continue
            shift_ticks = int(shift_seconds / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift_ticks, packet.dts + shift_ticks
            packet.stream = outgoing
            writing.mux(packet)
    return target


def write_audio(path: Path, seconds: int = 1) -> Path:
    """Write a file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        if not isinstance(stream, AudioStream):
            raise TypeError("aac encodes no sound")
        stream.layout = "mono"
        for block in range(seconds * 16):
            samples = np.zeros((1, 1000), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, block * 1000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


_MATRICES = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


def rotate(source: Path, target: Path, clockwise_degrees: int, *, mirrored: bool = False) -> Path:
    """Copy an .mp4 with a display matrix that mirrors it left to right, then turns it clockwise."""
    data = bytearray(source.read_bytes())
    a, b, c, d = _MATRICES[clockwise_degrees]
    if mirrored:
        a, b = -a, -b
    matrix = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    at = data.index(b"tkhd") + 4  # version and flags; times, ids and volume: 36 more bytes
    if data[at] != 0:
        raise ValueError("expected a version 0 track header")
    data[at + 40 : at + 76] = matrix
    target.write_bytes(data)
    return target


def _checksum(index: int) -> int:
    return (index * 7 + (index >> 4) * 3 + (index >> 8) * 5 + 9) & 15
