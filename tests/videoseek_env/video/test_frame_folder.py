from __future__ import annotations

import pickle
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from tests.synthetic_video import barcode, read_barcodes
from videoseek_env.errors import VideoDecodeError
from videoseek_env.video import open_video


def write_image(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    codec, pix_fmt = ("png", "rgb24") if path.suffix == ".png" else ("mjpeg", "yuvj420p")
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream(codec, rate=1)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pix_fmt
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(params=[".png", ".jpg"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Twelve frames called 0 to 11, whose natural order is not that of their characters."""
    for index in range(12):
        write_image(tmp_path / f"{index}{request.param}", barcode(index, 48, 64))
    (tmp_path / "notes.txt").write_text("no frame")
    return tmp_path


def test_frames_are_read_in_natural_order(folder: Path) -> None:
    reader = open_video(folder)
    assert read_barcodes(reader.read(range(12))) == list(range(12))
    assert read_barcodes(reader.read([10, 2, 2, 0])) == [10, 2, 2, 0]


def test_frames_are_timed_by_the_given_rate(folder: Path) -> None:
    reader = open_video(folder, frame_fps=2.0)
    np.testing.assert_allclose(reader.timestamps, np.arange(12) / 2)
    info = reader.info
    assert (info.codec, info.frame_count, info.height, info.width) == ("frames", 12, 48, 64)
    assert (info.fps, info.duration_seconds, info.start_seconds) == (2.0, 6.0, 0.0)


def test_four_frames_per_second_is_the_default(folder: Path) -> None:
    assert open_video(folder).timestamps[1] == 0.25


def test_every_frame_is_a_keyframe(folder: Path) -> None:
    assert open_video(folder).keyframe_indices.tolist() == list(range(12))


def test_what_macos_leaves_beside_images_is_none(folder: Path) -> None:
    (folder / "._0.png").write_bytes(b"Mac OS X")
    assert open_video(folder).info.frame_count == 12


def test_frames_are_resized(folder: Path) -> None:
    frames = open_video(folder).read([3, 11], 24, 32)
    assert frames.shape == (2, 24, 32, 3)
    assert read_barcodes(frames) == [3, 11]


def test_png_pixels_are_exact(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    write_image(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(open_video(tmp_path).read([0])[0], picture)


def test_a_pickled_reader_reads_the_same(folder: Path) -> None:
    copy = pickle.loads(pickle.dumps(open_video(folder, frame_fps=2.0)))
    assert copy.info.fps == 2.0
    assert read_barcodes(copy.read([7])) == [7]


def test_a_damaged_image_is_named(folder: Path) -> None:
    image = sorted(folder.glob("5.*"))[0]
    image.write_bytes(b"\x89PNG but no more")
    reader = open_video(folder)
    assert read_barcodes(reader.read([4])) == [4]
    with pytest.raises(VideoDecodeError, match=r"frame 5 \(5\."):
        reader.read([4, 5])


def test_an_image_of_another_size_is_refused(folder: Path) -> None:
    write_image(folder / "12.png", barcode(12, 50, 64))
    with pytest.raises(VideoDecodeError, match=r"frame 12 .* is 50 x 64 pixels"):
        open_video(folder).read([12])


def test_an_image_that_is_gone_is_refused(folder: Path) -> None:
    reader = open_video(folder)
    sorted(folder.glob("3.*"))[0].unlink()
    with pytest.raises(VideoDecodeError, match="frame 3"):
        reader.read([3])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoDecodeError, match=r"no \.jpg or \.png images"):
        open_video(tmp_path)


def test_decord_reads_no_folders(folder: Path) -> None:
    with pytest.raises(VideoDecodeError, match="decord reads no folders"):
        open_video(folder, "decord")


@pytest.mark.parametrize("frame_fps", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_rate_is_a_value_error(folder: Path, frame_fps: float) -> None:
    with pytest.raises(ValueError, match="finite and above zero"):
        open_video(folder, frame_fps=frame_fps)


@pytest.mark.parametrize("index", [-1, 12])
def test_an_index_outside_is_an_index_error(folder: Path, index: int) -> None:
    with pytest.raises(IndexError, match=r"must be in \[0, 12\)"):
        open_video(folder).read([index])
