from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from tests.synthetic_video import remux, rotate, write_video

FRAME_COUNT = 60

VFR_TICKS = [0, 1, 4, 5, 9, 10, 18, 19, 20, 33, 40, 41, 42, 50, 58, 59, 60, 75, 80, 99]
"""Presentation times in 90ths of a second."""

OPEN_GOP = "open-gop=1:scenecut=0:keyint=12:min-keyint=12"


def _write(folder: Path, name: str) -> Path:
    path = folder / name
    closed = {"sc_threshold": "0"}
    match name:
        case "h264.mp4":
            return write_video(path, FRAME_COUNT, b_frames=3, options=closed)
        case "h264_no_b.mp4":
            return write_video(path, FRAME_COUNT, b_frames=0, options=closed)
        case "h264_open_gop.mp4":
            return write_video(path, FRAME_COUNT, b_frames=3, options={"x264-params": OPEN_GOP})
        case "hevc.mp4":
            return write_video(path, FRAME_COUNT, codec="libx265", b_frames=3)
        case "hevc_open_gop.mp4":
            options = {"x265-params": f"{OPEN_GOP}:log-level=none"}
            return write_video(path, FRAME_COUNT, codec="libx265", b_frames=3, options=options)
        case "hevc_closed_gop.mp4":
            options = {"x265-params": "open-gop=0:log-level=none"}
            return write_video(path, FRAME_COUNT, codec="libx265", b_frames=3, options=options)
        case "vp9.webm":
            return write_video(path, FRAME_COUNT, codec="libvpx-vp9")
        case "vp9_odd.webm":
            return write_video(path, FRAME_COUNT, codec="libvpx-vp9", height=97, width=161)
        case "av1.mp4":
            return write_video(path, FRAME_COUNT, codec="libsvtav1")
        case "vfr.mp4":
            return write_video(
                path, len(VFR_TICKS), ticks=VFR_TICKS, ticks_per_second=90, options=closed
            )
        case "ten_bit.mp4":
            return write_video(path, 24, pix_fmt="yuv420p10le", options=closed)
        case "yuv444_odd.mp4":
            return write_video(path, 24, pix_fmt="yuv444p", height=97, width=161, options=closed)
        case "one_frame.mp4":
            return write_video(path, 1)
        case "fragmented.mp4":
            flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
            return remux(_write(folder, "h264.mp4"), path, container_options=flags)
        case "faststart.mp4":
            flags = {"movflags": "faststart"}
            return remux(_write(folder, "h264.mp4"), path, container_options=flags)
        case "h264.mkv" | "h264.ts":
            return remux(_write(folder, "h264.mp4"), path)
        case "h264.flv":  # keyframes 0 and 2 lie so close that a seek to the second steps back
            return write_video(path, FRAME_COUNT)
        case "early.mp4":  # frames 0 to 7 lie before time zero
            flags = {"movflags": "frag_keyframe+delay_moov"}
            source = _write(folder, "h264.mp4")
            return remux(source, path, shift_seconds=Fraction(-3, 10), container_options=flags)
        case "cut.mp4":  # 25 frames per second: frames 0 to 24 are cut off
            return remux(_write(folder, "h264.mp4"), path, shift_seconds=Fraction(-1))
        case "late.mp4" | "late.mkv":
            return remux(_write(folder, "h264.mp4"), path, shift_seconds=Fraction(2))
        case "turned_90.mp4" | "turned_180.mp4" | "turned_270.mp4":
            return rotate(_write(folder, "h264.mp4"), path, int(path.stem.removeprefix("turned_")))
        case "mirrored.mp4":
            return rotate(_write(folder, "h264.mp4"), path, 0, mirrored=True)
    raise ValueError(f"no test video is called {name}")


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the path of a test video, written on first use."""
    folder = tmp_path_factory.mktemp("videos")
    written: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in written:
            written[name] = _write(folder, name)
        return written[name]

    return get
