"""Exact frames with decord, for the files that it gets right."""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from videoseek_env.errors import VideoDecodeError
from videoseek_env.video.file_identity import check_unchanged
from videoseek_env.video.index import VideoIndex
from videoseek_env.video.index_cache import index_video
from videoseek_env.video.request import output_array, unique_indices

_BACKEND = "decord"
_USE_PYAV = 'Open it with backend="pyav".'
_WRONG_CODECS = frozenset({"vp9", "av1"})
_RIGHT_CONTAINERS = ("mov", "matroska", "avi")
_MAX_OPEN_SIZES = 2
"""A decord reader scales to one size; so many of them are kept."""
_ANY_RECOVERED_FRAME = 1e-9
"""Share of frames that decord may replace by their neighbours before it gives up."""


class DecordReader:
    """Frames of one video file by index. Safe from several threads, in turns, and after a fork.

    The index and the timestamps are those of PyAV. Files of which decord is known to be wrong are
    refused before it opens them; the others only if its own timeline agrees with the index. Unlike
    PyAV it does not tell damaged frames from sound ones.
    """

    def __init__(self, path: str, *, threads: int | None = None) -> None:
        """Index the file and check that decord reads it right.

        Args:
            path: The video file.
            threads: Codec threads; None lets decord decide.

        Raises:
            VideoDecodeError: If it can't be opened, or decord is not installed, or wrong for it.
        """
        self.path: Final = path
        self.backend: Final = _BACKEND
        self._file, self._threads = Path(path).absolute(), threads
        self._index = index_video(self._file, _BACKEND)
        self.info: Final = self._index.info
        self.timestamps: Final = self._index.timestamps
        self.keyframe_indices: Final = self._index.frames.keyframe_indices
        cause = _known_to_be_wrong(self._index)
        if cause is not None:
            raise VideoDecodeError(path, _BACKEND, cause, _USE_PYAV)
        self._opened = self._new_opened()
        with self._opened.lock:
            self._check_timeline(self._decoder(None))

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.path, self._threads)

    def read(
        self, indices: Sequence[int], height: int | None = None, width: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Decode frames; see `VideoReader.read`."""
        check_unchanged(self._file, self._index.file, _BACKEND)
        unique = unique_indices(indices, self.info.frame_count)
        empty = output_array(0, self.info, height, width)
        if not unique.ascending:
            return empty
        size = None if height is None else (empty.shape[1], empty.shape[2])
        opened = self._opened_in_this_process()
        with opened.lock:
            decoder = self._decoder(size)
            try:
                frames: npt.NDArray[np.uint8] = decoder.get_batch(unique.ascending).asnumpy()
            except Exception as error:  # decord raises many kinds, none documented
                opened.by_size.clear()
                raise self._error(f"decoding failed: {_first_line(error)}") from error
        if frames.shape != (len(unique.ascending), *empty.shape[1:]):
            raise self._error(f"it gave an array {frames.shape}, expected frames {empty.shape[1:]}")
        return unique.restore(frames)

    def close(self) -> None:
        """Free the decoders; a later read opens them again."""
        opened = self._opened_in_this_process()
        with opened.lock:
            opened.by_size.clear()

    def _opened_in_this_process(self) -> _Opened:
        if self._opened.pid != os.getpid():
            self._opened.abandon()
            self._opened = self._new_opened()
        return self._opened

    def _new_opened(self) -> _Opened:
        opened = _Opened()
        _abandon_in_children(opened)
        return opened

    def _decoder(self, size: tuple[int, int] | None) -> Any:
        by_size = self._opened.by_size
        if size not in by_size:
            by_size[size] = self._open(size)
            if len(by_size) > _MAX_OPEN_SIZES:
                by_size.popitem(last=False)
        by_size.move_to_end(size)
        return by_size[size]

    def _open(self, size: tuple[int, int] | None) -> Any:
        decord = _import_decord(self.path)
        height, width = size or (-1, -1)
        try:
            return decord.VideoReader(
                str(self._file),
                height=height,
                width=width,
                num_threads=self._threads or 0,
                fault_tol=_ANY_RECOVERED_FRAME,
            )
        except Exception as error:  # decord raises many kinds, none documented
            raise self._error(f"opening failed: {_first_line(error)}") from error

    def _check_timeline(self, decoder: Any) -> None:
        count = self.info.frame_count
        if len(decoder) != count:
            raise self._error(f"it counts {len(decoder)} frames, the container shows {count}")
        if decoder.get_key_indices() != self.keyframe_indices.tolist():
            raise self._error("its keyframes are not the container's")
        starts = decoder.get_frame_timestamp(range(count))[:, 0]
        tolerance_seconds = 1e-3 + 1e-6 * self.info.duration_seconds  # it computes in float32
        if np.abs(starts - self.timestamps).max() > tolerance_seconds:
            raise self._error("its timeline is not the container's")

    def _error(self, cause: str) -> VideoDecodeError:
        return VideoDecodeError(self.path, _BACKEND, cause, _USE_PYAV)


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Opened:
    """The open decoders of one reader in one process; guarded by `lock`."""

    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    by_size: OrderedDict[tuple[int, int] | None, Any] = field(default_factory=OrderedDict)
    """decord readers by the (height, width) that they scale to, the least recently used first."""

    def abandon(self) -> None:
        """Never free these decoders: a forked child lacks their threads and would crash."""
        for decoder in list(self.by_size.values()):
            decoder._handle = None  # what decord's destructor would free


_LIVE: weakref.WeakSet[_Opened] = weakref.WeakSet()
_IS_WATCHING_FORKS = threading.Event()


def _abandon_in_children(opened: _Opened) -> None:
    """See to it that a forked child never frees these decoders, even one that never reads."""
    _LIVE.add(opened)
    if not _IS_WATCHING_FORKS.is_set() and hasattr(os, "register_at_fork"):
        _IS_WATCHING_FORKS.set()
        os.register_at_fork(after_in_child=_abandon_all)


def _abandon_all() -> None:
    for opened in list(_LIVE):
        opened.abandon()


def _known_to_be_wrong(index: VideoIndex) -> str | None:
    """Why decord must not open this file, or None."""
    if index.info.codec in _WRONG_CODECS:
        return f"decord can't be trusted with {index.info.codec}"
    if not index.container.startswith(_RIGHT_CONTAINERS):
        return f"decord hangs or fails on {index.container} files"
    if index.frames.has_hidden_packets:
        return "decord shows frames that the file's edit list hides"
    if index.frames.pts[0] != 0:
        return "decord shifts videos that don't start at zero"
    if index.frames.has_open_groups:
        return "decord miscounts from the keyframes of open groups of pictures"
    if index.orientation.is_mirrored:
        return "decord ignores the mirroring in the display matrix"
    if index.orientation.is_sideways:
        return "decord can't resize videos that are turned by a quarter"
    return None


def _import_decord(path: str) -> Any:
    try:
        decord = importlib.import_module("decord")
    except (ImportError, OSError) as error:
        raise VideoDecodeError(
            path, _BACKEND, "decord is not installed", f"pip install decord. Or: {_USE_PYAV}"
        ) from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _reopen(path: str, threads: int | None) -> DecordReader:
    return DecordReader(path, threads=threads)
