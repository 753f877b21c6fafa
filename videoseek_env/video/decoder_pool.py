"""Decoders that a reader keeps open, each for one thread at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videoseek_env.video.frame_decoder import FrameDecoder
from videoseek_env.video.index import VideoIndex


class DecoderPool:
    """The open decoders of one reader in one process."""

    def __init__(self, path: Path, index: VideoIndex, max_idle: int) -> None:
        """Make an empty pool that keeps up to `max_idle` decoders open between reads."""
        self._path, self._index, self._max_idle = path, index, max_idle
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[FrameDecoder] = []
        self._closings = 0

    def of_this_process(self) -> DecoderPool:
        """This pool, or after a fork a new one: the parent's decoders must not be touched.

        Freeing them could wait for ever on a lock that a thread of the parent held, so they are
        left to lie.
        """
        if self._pid == os.getpid():
            return self
        _ABANDONED.append(self)
        return DecoderPool(self._path, self._index, self._max_idle)

    @contextmanager
    def borrow(self, first_index: int) -> Iterator[FrameDecoder]:
        """A decoder for one thread, the one that is nearest before `first_index`."""
        with self._lock:
            decoder, closings = self._take_nearest(first_index), self._closings
        if decoder is None:
            decoder = FrameDecoder(self._path, self._index)
        try:
            yield decoder
        except BaseException:
            decoder.close()
            raise
        with self._lock:
            keep = len(self._idle) < self._max_idle and closings == self._closings
            if keep:
                self._idle.append(decoder)
        if not keep:
            decoder.close()

    def close(self) -> None:
        """Close idle decoders now, and those in use when they come back."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._closings += 1
        for decoder in idle:
            decoder.close()

    def _take_nearest(self, index: int) -> FrameDecoder | None:
        if not self._idle:
            return None
        far = self._index.info.frame_count

        def distance(decoder: FrameDecoder) -> int:
            cost = decoder.cost_of_decoding_on(index)
            return far if cost is None else cost

        nearest = min(self._idle, key=distance)
        self._idle.remove(nearest)
        return nearest


_ABANDONED: list[DecoderPool] = []
"""Pools inherited by a fork, kept until the process ends."""
