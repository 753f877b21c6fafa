"""Exact frames with PyAV, split over the cores where that pays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from av import VideoFrame

from videoseek_env.video.decoder_pool import DecoderPool
from videoseek_env.video.file_identity import check_unchanged
from videoseek_env.video.frame_decoder import BACKEND
from videoseek_env.video.index import VideoIndex
from videoseek_env.video.index_cache import index_video
from videoseek_env.video.parallel import available_cores, run_all
from videoseek_env.video.pixels import PixelConverter
from videoseek_env.video.request import output_array, unique_indices

_MIN_FRAMES_PER_PART = 12
"""Less decoding than this is not worth a part of its own."""
_PARTS_PER_THREAD = 4
"""Parts are handed out one by one, since neither their costs nor the cores are quite equal."""


class PyAVReader:
    """Frames of one video file by index. Safe from several threads and after a fork.

    Each thread that reads borrows a decoder of its own; a forked child opens new ones and leaves
    its parent's alone.
    """

    def __init__(self, path: str, *, threads: int | None = None) -> None:
        """Index the file.

        Args:
            path: The video file.
            threads: Most threads for one `read`; None means one per core that we may use.

        Raises:
            VideoDecodeError: If it can't be opened, has no video, or is cut off.
        """
        self.path: Final = path
        self.backend: Final = BACKEND
        self._file = Path(path).absolute()
        self._threads_asked, self._threads = threads, threads or available_cores()
        self._index = index_video(self._file, BACKEND)
        self.info: Final = self._index.info
        self.timestamps: Final = self._index.timestamps
        self.keyframe_indices: Final = self._index.frames.keyframe_indices
        self._decoders = DecoderPool(self._file, self._index, self._threads)

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.path, self._threads_asked)

    def read(
        self, indices: Sequence[int], height: int | None = None, width: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Decode frames; see `VideoReader.read`."""
        check_unchanged(self._file, self._index.file, BACKEND)
        unique = unique_indices(indices, self.info.frame_count)
        out = output_array(len(unique.ascending), self.info, height, width)
        most_parts = self._threads * _PARTS_PER_THREAD if self._threads > 1 else 1
        parts = split_by_cost(self._index, unique.ascending, most_parts)
        self._decoders = decoders = self._decoders.of_this_process()

        def decode(part: range) -> None:
            wanted = unique.ascending[part.start : part.stop]
            converter = PixelConverter(self._index.orientation)
            place = dict(zip(wanted, part, strict=True))

            def take(index: int, frame: VideoFrame) -> None:
                converter.convert(frame, out[place[index]])

            with decoders.borrow(wanted[0]) as decoder:
                decoder.read(wanted, take)

        run_all(decode, parts, self._threads)
        return unique.restore(out)

    def close(self) -> None:
        """Free the decoders; a later read opens them again."""
        self._decoders = self._decoders.of_this_process()
        self._decoders.close()


def split_by_cost(index: VideoIndex, ascending: Sequence[int], max_parts: int) -> list[range]:
    """Split wanted frames into parts of about equal decoding work, between groups of pictures."""
    if not ascending:
        return []
    frames = index.frames
    wanted = np.asarray(ascending)
    entry, position = frames.entry[wanted], frames.decode_position[wanted]
    starts_group = np.diff(entry, prepend=-1) != 0
    from_entry = position - frames.entry_position[entry] + 1
    cost = np.where(starts_group, from_entry, np.diff(position, prepend=0))
    done = np.cumsum(np.maximum(cost, 1))
    parts = int(max(1, min(max_parts, done[-1] // _MIN_FRAMES_PER_PART)))
    group_starts = np.flatnonzero(starts_group)
    targets = done[-1] * np.arange(1, parts) / parts
    nearest = np.abs((done - cost)[group_starts][:, None] - targets).argmin(axis=0)
    bounds = np.unique(np.concatenate([[0], group_starts[nearest], [len(wanted)]])).tolist()
    return [range(start, stop) for start, stop in pairwise(bounds)]


def _reopen(path: str, threads: int | None) -> PyAVReader:
    return PyAVReader(path, threads=threads)
