"""Decode each clip once: a byte-bounded cache for all rollouts and threads of a process."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from videoseek_env.errors import VideoDecodeError
from videoseek_env.video.clip import Clip, ClipRef
from videoseek_env.video.file_identity import FileIdentity, file_identity
from videoseek_env.video.reader import VideoReader


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache did so far in this process, and what it holds."""

    hits: int = 0
    """Loads that decoded nothing, those that waited for another's decode included."""
    misses: int = 0
    """Loads that decoded."""
    evictions: int = 0
    """Clips dropped to make room."""
    clips: int = 0
    """Clips held now."""
    held_bytes: int = 0
    """Bytes held now, at most the bound."""


def load_clip(ref: ClipRef, reader: VideoReader) -> Clip:
    """Decode the clip that `ref` describes.

    Raises:
        VideoDecodeError: If a frame can't be decoded.
    """
    return _clip(ref, _decode(ref, reader))


class ClipCache:
    """Clips by file, frames and size, the least recently used dropped first.

    Thread-safe. Equal requests at the same time decode once; if that fails, each of them gets the
    error, and the next request tries again. A forked child keeps what its parent had. A pickled
    cache arrives empty.
    """

    def __init__(self, max_bytes: int) -> None:
        """Make an empty cache.

        Args:
            max_bytes: Bound of the arrays held; a clip larger than that is returned but not kept.

        Raises:
            ValueError: If the bound is negative.
        """
        if max_bytes < 0:
            raise ValueError(f"max_bytes must be at least 0, got {max_bytes}")
        self._max_bytes = max_bytes
        self._state = _State()

    def __reduce__(self) -> tuple[type[ClipCache], tuple[int]]:
        return ClipCache, (self._max_bytes,)

    @property
    def max_bytes(self) -> int:
        """Bound of the bytes held."""
        return self._max_bytes

    @property
    def stats(self) -> CacheStats:
        """A snapshot of the counters."""
        state = self._state_of_this_process()
        with state.lock:
            return CacheStats(
                hits=state.hits,
                misses=state.misses,
                evictions=state.evictions,
                clips=len(state.held),
                held_bytes=state.held_bytes,
            )

    def load(self, ref: ClipRef, reader: VideoReader) -> Clip:
        """The clip of `ref`, from memory if it is there.

        Its segment and strategy are those of `ref`; its arrays are shared and read-only.

        Raises:
            VideoDecodeError: If a frame can't be decoded.
        """
        key, state = _key(ref, reader), self._state_of_this_process()
        with state.lock:
            if (frames := state.held.get(key)) is not None:
                state.held.move_to_end(key)
                state.hits += 1
                return _clip(ref, frames)
            pending = state.pending.get(key)
            is_leader = pending is None
            if pending is None:
                pending = state.pending[key] = Future()
                state.misses += 1
            else:
                state.hits += 1
        if is_leader:
            self._lead(state, key, pending, ref, reader)
        return _clip(ref, pending.result())

    def forget_pending(self) -> None:
        """Let the next requests decode anew what is being decoded now: whoever does it may hang.

        Those who wait already go on waiting.
        """
        state = self._state_of_this_process()
        with state.lock:
            state.pending.clear()

    def clear(self) -> None:
        """Drop every clip; the counters go on."""
        state = self._state_of_this_process()
        with state.lock:
            state.held.clear()
            state.held_bytes = 0

    def _lead(
        self, state: _State, key: _Key, pending: Future[_Frames], ref: ClipRef, reader: VideoReader
    ) -> None:
        """Decode for everybody who waits on `pending`."""
        try:
            frames = _decode(ref, reader)
        except BaseException as error:
            with state.lock:
                state.end(key, pending)
            pending.set_exception(error)
            return
        with state.lock:
            state.end(key, pending)
            state.keep(key, frames, self._max_bytes)
        pending.set_result(frames)

    def _state_of_this_process(self) -> _State:
        state = self._state
        if state.pid != os.getpid():
            self._state = state = _State.after_fork(state)
        return state


_Frames = npt.NDArray[np.uint8]
"""RGB, [N, H, W, 3]; the times are those of the reference."""

_SAME_TIME_SECONDS = 1e-3


@dataclass(frozen=True, slots=True)
class _Key:
    file: FileIdentity
    indices: tuple[int, ...]
    height: int
    width: int


@dataclass(slots=True)
class _State:
    """What one process holds; guarded by `lock`."""

    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    held: OrderedDict[_Key, _Frames] = field(default_factory=OrderedDict)
    """The least recently used first."""
    pending: dict[_Key, Future[_Frames]] = field(default_factory=dict)
    held_bytes: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0

    @classmethod
    def after_fork(cls, parent: _State) -> _State:
        """The parent's clips with a lock of our own: nobody here would release the parent's.

        Another thread may have been at work at the fork, so its sums are made anew.
        """
        held = parent.held.copy()
        return cls(held=held, held_bytes=sum(frames.nbytes for frames in held.values()))

    def end(self, key: _Key, pending: Future[_Frames]) -> None:
        """Decoding is over; another may have begun since."""
        if self.pending.get(key) is pending:
            del self.pending[key]

    def keep(self, key: _Key, frames: _Frames, max_bytes: int) -> None:
        """Hold a clip, if it fits at all, and drop old ones to make room."""
        if frames.nbytes > max_bytes or key in self.held:
            return
        self.held[key] = frames
        self.held_bytes += frames.nbytes
        while self.held_bytes > max_bytes:
            self.held_bytes -= self.held.popitem(last=False)[1].nbytes
            self.evictions += 1


def _key(ref: ClipRef, reader: VideoReader) -> _Key:
    try:
        identity = file_identity(Path(reader.path))
    except OSError as error:
        raise VideoDecodeError(
            reader.path, reader.backend, f"it is gone: {error}", "Check the path."
        ) from error
    return _Key(identity, ref.indices, ref.height, ref.width)


def _decode(ref: ClipRef, reader: VideoReader) -> _Frames:
    frames = reader.read(ref.indices, ref.height, ref.width)
    times = reader.timestamps[np.asarray(ref.indices, np.int64)]
    if not np.allclose(times, ref.timestamps_seconds, rtol=0, atol=_SAME_TIME_SECONDS):
        raise VideoDecodeError(
            reader.path,
            reader.backend,
            "its frames have other times than the clip had: another video, or at another rate",
            "Restore the file, or plan the clip anew.",
        )
    frames.flags.writeable = False
    return frames


def _clip(ref: ClipRef, frames: _Frames) -> Clip:
    return Clip(frames, np.array(ref.timestamps_seconds), ref.segment, ref.strategy)
