"""Which file was read: by its path, size and time of change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from videoseek_env.errors import VideoDecodeError


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Tells whether a file is still the one that was read.

    That of a folder changes with what it lists, not when a file in it is written over.
    """

    path: str
    size_bytes: int
    modified_nanoseconds: int


def file_identity(path: Path) -> FileIdentity:
    """The identity of a file now.

    Raises:
        OSError: If there is none.
    """
    status = path.stat()
    return FileIdentity(str(path.absolute()), status.st_size, status.st_mtime_ns)


def check_unchanged(path: Path, indexed: FileIdentity, backend: str) -> None:
    """Refuse a file that is not the indexed one any more: its frames would be others.

    Raises:
        VideoDecodeError: If it has changed, or is gone.
    """
    try:
        has_changed = file_identity(path) != indexed
    except OSError as error:
        cause, remedy = f"it is gone: {error}", "Check the path."
        raise VideoDecodeError(str(path), backend, cause, remedy) from error
    if has_changed:
        cause, remedy = "it has changed since it was opened", "Open it again."
        raise VideoDecodeError(str(path), backend, cause, remedy)
