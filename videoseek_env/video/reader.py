"""The one interface to a decoded video, and the choice of a decoder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from videoseek_env.errors import VideoDecodeError
from videoseek_env.video.decord_reader import DecordReader
from videoseek_env.video.frame_folder import FrameFolderReader
from videoseek_env.video.info import VideoInfo
from videoseek_env.video.pyav_reader import PyAVReader

__all__ = ["Backend", "VideoInfo", "VideoReader", "open_video"]

Backend = Literal["auto", "pyav", "decord"]
"""`auto` takes the decoder that is right for the file, PyAV when both are."""


class VideoReader(Protocol):
    """Frames of one video by index. Safe from several threads and after a fork."""

    @property
    def path(self) -> str:
        """The file or folder."""

    @property
    def backend(self) -> str:
        """The decoder's name."""

    @property
    def info(self) -> VideoInfo:
        """What the video is."""

    @property
    def timestamps(self) -> npt.NDArray[np.float64]:
        """Presentation time of each frame in seconds, ascending, read-only, [frame_count]."""

    @property
    def keyframe_indices(self) -> npt.NDArray[np.int64]:
        """Indices of the frames that decode by themselves, ascending, read-only, [K]."""

    def read(
        self, indices: Sequence[int], height: int | None = None, width: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Decode frames, in the order asked for, repeats allowed.

        Args:
            indices: Frame indices in presentation order, each in [0, frame_count).
            height: Pixels to resize to; None keeps the source's (both or neither).
            width: Pixels to resize to; None keeps the source's.

        Returns:
            RGB frames, uint8 [N, H, W, 3].

        Raises:
            IndexError: If an index is outside the video.
            ValueError: If only one of height and width is given, or one is not positive.
            VideoDecodeError: If a frame can't be decoded, or the file has changed since it was
                opened.
        """

    def close(self) -> None:
        """Free the decoder; a later read opens it again."""


def open_video(
    path: str | os.PathLike[str],
    backend: Backend = "auto",
    *,
    frame_fps: float | None = None,
    threads: int | None = None,
) -> VideoReader:
    """Open a video file, or a folder of frames.

    Args:
        path: A video file, or a folder of .jpg and .png frames in natural order.
        backend: The decoder.
        frame_fps: Frames per second of a folder of frames; None means 4. Only for folders.
        threads: Most threads that one `read` may use; None means one per core.

    Raises:
        VideoDecodeError: If the file can't be decoded, or not with this backend.
        ValueError: If an argument makes no sense.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, got {backend!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    name = os.fspath(path)
    if _is_folder(name):
        if backend == "decord":
            cause, remedy = "decord reads no folders", 'Open it with backend="auto".'
            raise VideoDecodeError(name, backend, cause, remedy)
        return FrameFolderReader(name, frame_fps=frame_fps, threads=threads)
    if frame_fps is not None:
        cause = f"frame_fps is {frame_fps:g}, but there is no folder of frames"
        raise VideoDecodeError(name, backend, cause, "Check the path, or leave frame_fps out.")
    if backend == "decord":
        return DecordReader(name, threads=threads)
    return PyAVReader(name, threads=threads)


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # too long a name: who opens it as a file will say so
        return False
