"""Indexes of video files, built once per process and file."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from videoseek_env.video.file_identity import FileIdentity, file_identity
from videoseek_env.video.index import VideoIndex
from videoseek_env.video.probe import check_structure, probe

_MAX_FRAMES = 8_000_000
"""Frames of all kept indexes together, about 50 bytes each."""


@dataclass(slots=True)
class _Indexes:
    """The least recently used first."""

    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    by_file: OrderedDict[FileIdentity, VideoIndex] = field(default_factory=OrderedDict)
    frames: int = 0


_INDEXES = [_Indexes()]


def index_video(path: Path, backend: str) -> VideoIndex:
    """The index of a video file.

    Raises:
        VideoDecodeError: If it can't be opened, has no video, or is cut off.
    """
    check_structure(path, backend)
    identity = file_identity(path)
    indexes = _indexes_of_this_process()
    with indexes.lock:
        if identity in indexes.by_file:
            indexes.by_file.move_to_end(identity)
            return indexes.by_file[identity]
    index = probe(path, backend)
    with indexes.lock:
        if identity not in indexes.by_file:
            indexes.by_file[identity] = index
            indexes.frames += index.info.frame_count
        while indexes.frames > _MAX_FRAMES and len(indexes.by_file) > 1:
            indexes.frames -= indexes.by_file.popitem(last=False)[1].info.frame_count
    return index


def _indexes_of_this_process() -> _Indexes:
    """A forked child begins anew: a lock held by another thread at the fork is never released."""
    if _INDEXES[0].pid != os.getpid():
        _INDEXES[0] = _Indexes()
    return _INDEXES[0]


def forget_indexes() -> None:
    """Drop every kept index, so that the next opening reads its file anew."""
    _INDEXES[0] = _Indexes()
