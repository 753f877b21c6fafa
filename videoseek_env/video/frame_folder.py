"""A folder of frames, as data sets often ship them, read like a video."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av import CodecContext, Packet, VideoFrame
from av.video.codeccontext import VideoCodecContext

from videoseek_env.errors import VideoDecodeError
from videoseek_env.video.info import VideoInfo
from videoseek_env.video.parallel import available_cores, run_all
from videoseek_env.video.pixels import PixelConverter, orientation_of
from videoseek_env.video.request import output_array, unique_indices

DEFAULT_FRAME_FPS = 4.0
"""Frames per second where nobody says."""

_BACKEND = "pyav"
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_CODEC_OF_MAGIC = {b"\xff\xd8": "mjpeg", b"\x89P": "png"}
_REMEDY = "Replace the folder's images; all must be .jpg or .png files of one size."


class FrameFolderReader:
    """Frames of one folder by index, in natural order of their names ("2.jpg" before "10.jpg").

    Frame `i` is shown at `i / frame_fps` seconds; every frame is a keyframe. Holds nothing open, so
    it is safe from several threads and after a fork.
    """

    def __init__(self, path: str, *, frame_fps: float | None, threads: int | None = None) -> None:
        """List the folder and look at its first image.

        Args:
            path: The folder.
            frame_fps: Frames per second; None means `DEFAULT_FRAME_FPS`.
            threads: Most threads for one `read`; None means one per core that we may use.

        Raises:
            VideoDecodeError: If it has no images, or the first can't be decoded.
            ValueError: If `frame_fps` is not a finite number above zero.
        """
        fps = DEFAULT_FRAME_FPS if frame_fps is None else frame_fps
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"frame_fps must be finite and above zero, got {frame_fps}")
        self.path: Final = path
        self.backend: Final = _BACKEND
        self._fps, self._threads = fps, threads
        self._images = self._list_images()
        count = len(self._images)
        height, width = self._displayed_size(self._decode(0))
        self.info: Final = VideoInfo(count, count / fps, 0.0, height, width, fps, "frames")
        self.timestamps: Final[npt.NDArray[np.float64]] = np.arange(count) / fps
        self.keyframe_indices: Final[npt.NDArray[np.int64]] = np.arange(count)
        self.timestamps.flags.writeable = self.keyframe_indices.flags.writeable = False

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.path, self._fps, self._threads)

    def read(
        self, indices: Sequence[int], height: int | None = None, width: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Decode frames; see `VideoReader.read`."""
        unique = unique_indices(indices, self.info.frame_count)
        out = output_array(len(unique.ascending), self.info, height, width)

        def decode(part: range) -> None:
            for place in part:
                self._decode_into(unique.ascending[place], out[place])

        parts = min(self._threads or available_cores(), max(len(unique.ascending), 1))
        bounds = np.linspace(0, len(unique.ascending), parts + 1).astype(int).tolist()
        run_all(decode, [range(*pair) for pair in pairwise(bounds)], parts)
        return unique.restore(out)

    def close(self) -> None:
        """Nothing is open."""

    def _list_images(self) -> list[Path]:
        folder = Path(self.path).absolute()
        try:
            images = [
                file
                for file in folder.iterdir()
                # macOS leaves "._1.png" beside "1.png" on other systems' disks.
                if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")
            ]
        except OSError as error:
            raise self._error(f"it can't be listed: {error}") from error
        if not images:
            raise self._error("the folder has no .jpg or .png images")
        return sorted(images, key=_natural_order)

    def _decode(self, index: int) -> VideoFrame:
        image = self._images[index]
        try:
            data = image.read_bytes()
            codec = CodecContext.create(_CODEC_OF_MAGIC.get(data[:2], "png"), "r")
            if not isinstance(codec, VideoCodecContext):
                raise ValueError("no picture codec")
            codec.thread_count = 1
            frames = [*codec.decode(Packet(data)), *codec.decode(None)]
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._error(f"frame {index} ({image.name}) can't be decoded: {error}") from error
        if len(frames) != 1 or frames[0].is_corrupt:
            raise self._error(f"frame {index} ({image.name}) is damaged")
        return frames[0]

    def _decode_into(self, index: int, out: npt.NDArray[np.uint8]) -> None:
        frame, expected = self._decode(index), (self.info.height, self.info.width)
        if (size := self._displayed_size(frame)) != expected:
            name = self._images[index].name
            raise self._error(
                f"frame {index} ({name}) is {size[0]} x {size[1]} pixels high and wide, "
                f"the first is {expected[0]} x {expected[1]}"
            )
        PixelConverter(orientation_of(frame)).convert(frame, out)

    def _displayed_size(self, frame: VideoFrame) -> tuple[int, int]:
        if orientation_of(frame).is_sideways:
            return frame.width, frame.height
        return frame.height, frame.width

    def _error(self, cause: str) -> VideoDecodeError:
        return VideoDecodeError(self.path, _BACKEND, cause, _REMEDY)


def _natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Runs of digits compare as numbers."""
    parts = re.findall(r"\d+|\D+", path.stem)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name


def _reopen(path: str, frame_fps: float, threads: int | None) -> FrameFolderReader:
    return FrameFolderReader(path, frame_fps=frame_fps, threads=threads)
