from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from videoseek_env.video import open_video
from videoseek_env.video.pixels import Orientation, PixelConverter

VideoFactory = Callable[[str], Path]

# Y, Cb, Cr of pure red in limited range: 16 + 219 Kr, 128 - 224 Kr / (2 (1 - Kb)), 240
# BT.601: Kr = 0.299, Kb = 0.114; BT.709: Kr = 0.2126, Kb = 0.0722
RED_601 = (81, 90, 240)
RED_709 = (63, 102, 240)
RED_601_FULL = (76, 85, 255)
UNSPECIFIED, BT709, BT601 = 2, 1, 6
LIMITED, FULL = 1, 2


def yuv_frame(colour: tuple[int, int, int], height: int, matrix: int, span: int) -> av.VideoFrame:
    frame = av.VideoFrame(64, height, "yuv444p")
    for plane, value in zip(frame.planes, colour, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace, frame.color_range = matrix, span
    return frame


@pytest.mark.parametrize(
    ("colour", "height", "matrix", "span"),
    [
        (RED_601, 64, BT601, LIMITED),
        (RED_709, 64, BT709, LIMITED),
        (RED_601, 64, UNSPECIFIED, LIMITED),
        (RED_709, 720, UNSPECIFIED, LIMITED),
        (RED_601_FULL, 64, BT601, FULL),
    ],
)
def test_red_is_red(colour: tuple[int, int, int], height: int, matrix: int, span: int) -> None:
    out = np.empty((32, 32, 3), np.uint8)
    PixelConverter(Orientation()).convert(yuv_frame(colour, height, matrix, span), out)
    np.testing.assert_allclose(out.reshape(-1, 3).mean(axis=0), [255, 0, 0], atol=4)


def test_shrinking_averages() -> None:
    frame = av.VideoFrame.from_ndarray(
        np.indices((64, 64)).sum(axis=0).astype(np.uint8)[:, :, None].repeat(3, 2) % 2 * 255,
        format="rgb24",
    )
    out = np.empty((16, 16, 3), np.uint8)
    PixelConverter(Orientation()).convert(frame, out)
    assert abs(out[2:-2, 2:-2].mean() - 127.5) < 3  # a fine checkerboard is grey from afar
    assert out[2:-2, 2:-2].std() < 4


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_orientation_mirrors_then_turns_clockwise(turns: int, is_mirrored: bool) -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    expected = picture[:, ::-1] if is_mirrored else picture
    for _ in range(turns):  # one quarter clockwise: the left column becomes the top row
        expected = expected[::-1].transpose(1, 0, 2)
    orientation = Orientation(turns, is_mirrored)
    np.testing.assert_array_equal(orientation.apply(picture), expected)
    assert orientation.is_sideways == (turns in (1, 3))


def test_resized_odd_sizes_keep_their_shape(video: VideoFactory) -> None:
    frames = open_video(video("vp9_odd.webm")).read([0, 5], 33, 57)
    assert frames.shape == (2, 33, 57, 3)
