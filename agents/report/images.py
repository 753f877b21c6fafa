"""The frames of a clip as one small JPEG: a film strip that the page shows frame by frame."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType

import av
import numpy as np
import numpy.typing as npt

from videoseek_env.budget import FrameSize
from videoseek_env.errors import VideoDecodeError
from videoseek_env.render.timeline import spread
from videoseek_env.video import VideoReader, open_video
from videoseek_env.video.clip import ClipRef

_MAX_FRAMES = 16
_MAX_WIDTH_PX = 192
_MAX_HEIGHT_PX = 144
_BLOCK_PX = 16
_JPEG_QUANTISER = 5
"""From 2, the best, to 31."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Some frames of a clip, side by side in one picture."""

    number: int
    """Unique within its page; equal strips share it."""
    timestamps_seconds: tuple[float, ...]
    """Of the frames in the picture, from left to right."""
    width: int
    """Pixels of one frame."""
    height: int
    """Pixels of one frame."""


@dataclass(frozen=True, slots=True)
class MissingStrip:
    """What stands in for a strip whose video could not be decoded."""

    reason: str


class StripMaker:
    """Decodes clips again, each once, and keeps their pictures. Close it, or use it in a `with`."""

    def __init__(self, *, max_frames: int = _MAX_FRAMES) -> None:
        """Prepare without opening anything.

        Args:
            max_frames: Frames of a strip at most; more are thinned out evenly.
        """
        self._max_frames = max_frames
        self._strips: dict[tuple[object, ...], Strip | MissingStrip] = {}
        self._readers: dict[tuple[str, float | None], VideoReader] = {}
        self._images: list[str] = []

    def __enter__(self) -> StripMaker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def images(self) -> tuple[str, ...]:
        """JPEG files in base64, by a strip's number."""
        return tuple(self._images)

    def strip(self, clip: ClipRef, *, frame_fps: float | None = None) -> Strip | MissingStrip:
        """The strip of a clip; a video that can't be decoded gives the reason instead.

        Args:
            clip: The frames.
            frame_fps: Frames per second of a folder of frames; None for a video file.
        """
        key = (clip.video, clip.indices, clip.height, clip.width)
        if key not in self._strips:
            try:
                self._strips[key] = self._decode(clip, frame_fps)
            except VideoDecodeError as error:
                self._strips[key] = MissingStrip(str(error))
        return self._strips[key]

    def close(self) -> None:
        """Close the videos."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _decode(self, clip: ClipRef, frame_fps: float | None) -> Strip | MissingStrip:
        reader = self._reader(clip.video, frame_fps)
        if not clip.indices or clip.indices[-1] >= reader.info.frame_count:
            return MissingStrip(
                f"{clip.video}: the clip's frames are not in this video, which has "
                f"{reader.info.frame_count} of them; has the file changed?"
            )
        picked = spread(len(clip.indices), max_count=self._max_frames)
        height, width = _thumbnail_size(clip)
        frames = reader.read([clip.indices[i] for i in picked], height, width)
        self._images.append(base64.b64encode(encode_jpeg(side_by_side(frames))).decode("ascii"))
        return Strip(
            number=len(self._images) - 1,
            timestamps_seconds=tuple(clip.timestamps_seconds[i] for i in picked),
            width=width,
            height=height,
        )

    def _reader(self, video: str, frame_fps: float | None) -> VideoReader:
        key = (video, frame_fps)
        if key not in self._readers:
            self._readers[key] = open_video(video, frame_fps=frame_fps)
        return self._readers[key]


def _thumbnail_size(clip: ClipRef) -> FrameSize:
    """The clip's own size, or less. Whole JPEG blocks keep neighbours from blending."""
    scale = min(1.0, _MAX_WIDTH_PX / clip.width, _MAX_HEIGHT_PX / clip.height)
    width = max(round(clip.width * scale / _BLOCK_PX), 1) * _BLOCK_PX
    return FrameSize(max(round(clip.height * width / clip.width), 1), width)


def side_by_side(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """One picture [H, N * W, 3] of frames [N, H, W, 3], from left to right."""
    count, height, width, channels = frames.shape
    return frames.transpose(1, 0, 2, 3).reshape(height, count * width, channels)


def encode_jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    """A picture, RGB [H, W, 3], as a JPEG file."""
    codec = av.VideoCodecContext.create("mjpeg", "w")
    codec.height, codec.width = image.shape[:2]
    codec.pix_fmt = "yuvj420p"
    codec.time_base = Fraction(1, 1)
    codec.qmin = codec.qmax = _JPEG_QUANTISER
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
