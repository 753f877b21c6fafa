"""The outermost structure of Matroska and WebM files: whether the end is cut off."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_HEADER = bytes.fromhex("1a45dfa3")
_SEGMENT = bytes.fromhex("18538067")


def is_ebml_file(path: Path) -> bool:
    """Whether the file begins as Matroska and WebM do."""
    with path.open("rb") as file:
        return file.read(4) == _HEADER


def ebml_damage(path: Path) -> str | None:
    """What is missing from a Matroska file as a whole, or None."""
    with path.open("rb") as file:
        file.seek(4)
        header_bytes = _read_size(file)
        if header_bytes is None:
            return None
        file.seek(header_bytes, 1)
        if file.read(4) != _SEGMENT:
            return "truncated: no segment follows its header"
        segment_bytes = _read_size(file)
        if segment_bytes is None:  # a live recording: its length was never written
            return None
        missing = file.tell() + segment_bytes - path.stat().st_size
    return f"truncated: {missing} bytes are missing from its segment" if missing > 0 else None


def _read_size(file: BinaryIO) -> int | None:
    """A variable-length size; None where it stands for unknown."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    extra_bytes = 8 - first[0].bit_length()
    value = first[0] & ((1 << (7 - extra_bytes)) - 1)
    value = value << (8 * extra_bytes) | int.from_bytes(file.read(extra_bytes), "big")
    return None if value == (1 << (7 * (extra_bytes + 1))) - 1 else value
