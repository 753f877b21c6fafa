"""Long test videos for the benchmarks: a camera pans over a textured plane, past a moving box."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

HEIGHT_PX = 360
WIDTH_PX = 640
FPS = 30

_PLANE_PX = 2048
_BOX_PX = 96


def long_video(folder: Path, *, seconds: int, gop_frames: int, preset: str = "ultrafast") -> Path:
    """The path of an H.264 file of that length, encoded on first use and kept in `folder`."""
    path = folder / f"{seconds}s_gop{gop_frames}_{preset}.mp4"
    if not path.exists():
        print(f"encoding {path} once ...", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part.mp4")
        _encode(unfinished, seconds * FPS, gop_frames, preset)
        unfinished.rename(path)
    return path


def _encode(path: Path, frame_count: int, gop_frames: int, preset: str) -> None:
    plane = _textured_plane()
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = HEIGHT_PX, WIDTH_PX, "yuv420p"
        stream.codec_context.gop_size = gop_frames
        stream.codec_context.options = {"preset": preset, "crf": "28", "sc_threshold": "0"}
        for index in range(frame_count):
            frame = av.VideoFrame.from_ndarray(_picture(plane, index), format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _textured_plane() -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(0).integers(40, 216, (_PLANE_PX // 16, _PLANE_PX // 16))
    plane = np.kron(coarse, np.ones((16, 16)))
    for _ in range(3):  # soft edges, so that the file stays small
        plane = (plane + np.roll(plane, 3, 0) + np.roll(plane, 3, 1) + np.roll(plane, 5, 1)) / 4
    return plane.astype(np.uint8)


def _picture(plane: npt.NDArray[np.uint8], index: int) -> npt.NDArray[np.uint8]:
    """Planar YUV 4:2:0 as [H * 3 / 2, W]."""
    top = round((1 + np.sin(index / 301)) / 2 * (_PLANE_PX - HEIGHT_PX))
    left = round((1 + np.cos(index / 211)) / 2 * (_PLANE_PX - WIDTH_PX))
    picture = np.full((HEIGHT_PX * 3 // 2, WIDTH_PX), 128, np.uint8)
    picture[:HEIGHT_PX] = plane[top : top + HEIGHT_PX, left : left + WIDTH_PX]
    box_left = index * 4 % (WIDTH_PX - _BOX_PX)
    picture[40 : 40 + _BOX_PX, box_left : box_left + _BOX_PX] = 230
    picture[HEIGHT_PX : HEIGHT_PX + HEIGHT_PX // 4] = 100 + index // 60 % 56
    return picture
