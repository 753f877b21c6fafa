"""The box structure of .mp4 and .mov files: what is cut off, and the sample tables."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof"}
_VITAL_BOXES = {b"moov", b"mdat", b"moof"}
_MAX_MOOV_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Box:
    """One box: where its payload lies in the file, as [start, end) bytes."""

    kind: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class SampleTables:
    """One track's samples in decoding order, in the track's time unit; each [P]."""

    dts: npt.NDArray[np.int64]
    """Decoding times, counted from zero."""
    duration: npt.NDArray[np.int64]
    composition_offset: npt.NDArray[np.int64]
    """Presentation time minus decoding time, up to one constant for the whole track."""
    is_keyframe: npt.NDArray[np.bool_]


def is_iso_file(path: Path) -> bool:
    """Whether the file begins with a box of the MP4 family."""
    with path.open("rb") as file:
        return file.read(8)[4:8] in _FIRST_BOXES


def iso_damage(path: Path) -> str | None:
    """What is missing from an MP4-family file as a whole, or None."""
    with path.open("rb") as file:
        file_bytes = path.stat().st_size
        kinds = set()
        for box in _boxes(file, 0, file_bytes):
            kinds.add(box.kind)
            if box.end > file_bytes and box.kind in _VITAL_BOXES:
                missing = box.end - file_bytes
                return f"truncated: {missing} bytes are missing from its {box.kind.decode()} box"
    if b"moov" not in kinds:
        return "no moov box, so it was never finished, or its end is cut off"
    return None


def sample_tables(path: Path, track_id: int) -> SampleTables | None:
    """A track's sample tables, or None where they alone don't tell the timeline.

    That is so for fragmented files, for tracks cut together by several edits, and where a sample
    has no bytes: it is no frame.
    """
    with path.open("rb") as file:
        moov = _find(_boxes(file, 0, path.stat().st_size), b"moov")
        if moov is None or moov.end - moov.start > _MAX_MOOV_BYTES:
            return None
        children = list(_boxes(file, moov.start, moov.end))
        if _find(children, b"mvex") is not None:
            return None
        for track in children:
            if track.kind == b"trak" and _track_id(file, track) == track_id:
                return _read_tables(file, track)
    return None


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if size == 1:
            (size,), header = struct.unpack(">Q", file.read(8).rjust(8, b"\0")), 16
        elif size == 0:
            size = end - start
        if size < header:
            return
        yield Box(kind, start + header, start + size)
        start += size


def _find(boxes: Iterator[Box] | list[Box], kind: bytes) -> Box | None:
    return next((box for box in boxes if box.kind == kind), None)


def _descend(file: BinaryIO, box: Box, *kinds: bytes) -> Box | None:
    found: Box | None = box
    for kind in kinds:
        if found is None:
            return None
        found = _find(_boxes(file, found.start, found.end), kind)
    return found


def _payload(file: BinaryIO, box: Box) -> bytes:
    file.seek(box.start)
    return file.read(box.end - box.start)


def _track_id(file: BinaryIO, track: Box) -> int | None:
    header = _descend(file, track, b"tkhd")
    if header is None:
        return None
    data = _payload(file, header)
    at = 20 if data[:1] == b"\1" else 12
    return int.from_bytes(data[at : at + 4], "big")


def _read_tables(file: BinaryIO, track: Box) -> SampleTables | None:
    edits = _descend(file, track, b"edts", b"elst")
    tables = _descend(file, track, b"mdia", b"minf", b"stbl")
    if tables is None or (edits is not None and _shown_edits(_payload(file, edits)) > 1):
        return None
    payloads = {box.kind: _payload(file, box) for box in _boxes(file, tables.start, tables.end)}
    if b"stts" not in payloads or _has_empty_samples(payloads.get(b"stsz", b"")):
        return None
    duration = _run_lengths(payloads[b"stts"])
    count = len(duration)
    offset = _run_lengths(payloads[b"ctts"]) if b"ctts" in payloads else np.zeros(count, np.int64)
    if count == 0 or len(offset) != count:
        return None
    return SampleTables(
        dts=np.cumsum(duration) - duration,
        duration=duration,
        composition_offset=offset,
        is_keyframe=_sync_samples(payloads.get(b"stss"), count),
    )


def _has_empty_samples(data: bytes) -> bool:
    if any(data[4:8]):  # all of one size
        return False
    return not np.frombuffer(data[12 : len(data) // 4 * 4], ">u4").all()


def _shown_edits(data: bytes) -> int:
    """Edits that show media; an empty edit only delays the start."""
    wide = data[:1] == b"\1"
    entry_bytes, time_at, kind = (20, 8, ">i8") if wide else (12, 4, ">i4")
    entries = data[8 : 8 + int.from_bytes(data[4:8], "big") * entry_bytes]
    starts = range(time_at, len(entries) - entry_bytes + time_at + 1, entry_bytes)
    return sum(int(np.frombuffer(entries, kind, 1, at)[0]) != -1 for at in starts)


def _run_lengths(data: bytes) -> npt.NDArray[np.int64]:
    """A table of (how many, value) pairs, written out."""
    pairs = np.frombuffer(data, ">i4", offset=8)[: int.from_bytes(data[4:8], "big") * 2]
    counts, values = pairs[0 : len(pairs) // 2 * 2 : 2], pairs[1::2]
    if len(counts) == 0 or counts.min() < 0 or counts.sum(dtype=np.int64) > _MAX_SAMPLES:
        return np.zeros(0, np.int64)
    return np.repeat(values.astype(np.int64), counts)


_MAX_SAMPLES = 100_000_000
"""More frames than 19 days at 60 frames per second: a damaged table."""


def _sync_samples(data: bytes | None, count: int) -> npt.NDArray[np.bool_]:
    if data is None:
        return np.ones(count, np.bool_)
    numbers = np.frombuffer(data, ">u4", offset=8)[: int.from_bytes(data[4:8], "big")]
    is_keyframe = np.zeros(count, np.bool_)
    is_keyframe[numbers[(numbers >= 1) & (numbers <= count)].astype(np.int64) - 1] = True
    return is_keyframe
