from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.synthetic_video import read_barcode, read_barcodes, write_audio, write_video
from videoseek_env.errors import VideoDecodeError
from videoseek_env.video import Backend, VideoReader, open_video

VideoFactory = Callable[[str], Path]

BACKENDS: tuple[Backend, ...] = ("auto", "pyav", "decord")


def _cut(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def _damaged(kind: str, folder: Path, video: VideoFactory) -> Path:
    path = folder / "damaged.mp4"
    match kind:
        case "missing":
            pass
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("this is no video\n" * 100)
        case "zeros":
            path.write_bytes(bytes(5000))
        case "cut media":
            _cut(video("faststart.mp4"), path, 0.6)
        case "cut tail":
            _cut(video("faststart.mp4"), path, 0.99)
        case "no moov":
            _cut(video("h264.mp4"), path, 0.6)
        case "cut moov":
            _cut(video("h264.mp4"), path, 0.98)
        case "cut header":
            _cut(video("h264.mp4"), path, 0.001)
        case "cut fragment":
            _cut(video("fragmented.mp4"), path, 0.7)
        case "cut mkv":
            return _cut(video("h264.mkv"), folder / "damaged.mkv", 0.7)
        case "cut mkv header":
            return _cut(video("h264.mkv"), folder / "damaged.mkv", 0.005)
        case "audio only":
            return write_audio(folder / "damaged.m4a")
        case "folder without images":
            path.mkdir()
    return path


CAUSES = {
    "missing": "no such file",
    "empty": "the file is empty",
    "text": "opening it failed",
    "zeros": "opening it failed",
    "cut media": "truncated",
    "cut tail": "truncated",
    "no moov": "truncated|no moov box",
    "cut moov": "truncated",
    "cut header": "no moov|opening it failed",
    "cut fragment": "truncated",
    "cut mkv": "truncated",
    "cut mkv header": "truncated|opening it failed",
    "audio only": "no video stream",
    "folder without images": "no .jpg or .png images|decord reads no folders",
}


@pytest.mark.parametrize("kind", CAUSES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_video_is_refused_at_once(
    tmp_path: Path,
    video: VideoFactory,
    kind: str,
    backend: Backend,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = _damaged(kind, tmp_path, video)
    begun = time.monotonic()
    with pytest.raises(VideoDecodeError, match=CAUSES[kind]) as caught:
        open_video(path, backend)
    assert time.monotonic() - begun < 2
    assert caught.value.path == str(path)
    assert caught.value.backend == ("pyav" if backend == "auto" else backend)
    assert caught.value.remedy
    assert capfd.readouterr().err == ""


def _read_or_refused(reader: VideoReader, index: int) -> int | None:
    """The barcode that is read, or None where that is refused."""
    try:
        return read_barcode(reader.read([index])[0])
    except VideoDecodeError:
        return None


FUZZED = ["h264.mp4", "hevc.mp4", "vp9.webm", "av1.mp4", "h264.ts", "h264.mkv", "fragmented.mp4"]


@pytest.mark.parametrize("name", ["h264.mp4", "h264_open_gop.mp4", "h264.mkv"])
def test_lost_bytes_never_give_another_frame(
    tmp_path: Path, video: VideoFactory, name: str
) -> None:
    sound = video(name).read_bytes()
    start_seconds = open_video(video(name)).timestamps[0]
    begin, end = len(sound) // 4, len(sound) * 3 // 5  # media only: no index, no header
    rng = np.random.default_rng(7)
    outcomes = []
    for attempt in range(20):
        lost, at = int(rng.integers(20, 200)), int(rng.integers(begin, end - 200))
        path = tmp_path / f"{attempt}_{name}"
        path.write_bytes(sound[:at] + bytes(lost) + sound[at + lost :])
        reader = open_video(path)
        for index in rng.integers(0, reader.info.frame_count, 5).tolist():
            read = _read_or_refused(reader, index)
            assert read in (None, round((reader.timestamps[index] - start_seconds) * 25))
            outcomes.append(read)
    assert None in outcomes
    assert any(read is not None for read in outcomes)


@pytest.mark.parametrize("name", FUZZED)
def test_random_corruption_raises_nothing_but_decode_errors(
    tmp_path: Path, video: VideoFactory, name: str
) -> None:
    sound = video(name).read_bytes()
    rng = np.random.default_rng(3)
    for attempt in range(30):
        data = bytearray(sound)
        for place in rng.integers(0, len(data), 4):
            data[place] ^= int(rng.integers(1, 256))
        path = tmp_path / f"{attempt}_{name}"
        path.write_bytes(data)
        try:
            reader = open_video(path, "pyav")
            indices = rng.integers(0, reader.info.frame_count, 5)
            assert reader.read(indices.tolist(), 24, 32).shape == (5, 24, 32, 3)
        except VideoDecodeError:
            pass


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("name", FUZZED)
def test_a_cut_anywhere_gives_right_frames_or_a_refusal(
    tmp_path: Path, video: VideoFactory, name: str, share: float
) -> None:
    path = _cut(video(name), tmp_path / name, share)
    begun = time.monotonic()
    try:
        reader = open_video(path, "pyav")
        last = reader.info.frame_count - 1
        frame = round((reader.timestamps[last] - open_video(video(name)).timestamps[0]) * 25)
        assert read_barcode(reader.read([last])[0]) == frame
    except VideoDecodeError:
        pass
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("b.avi", "can't say in which order its frames are shown"),
        ("b.asf", "can't say in which order its frames are shown"),
        ("b.mpg", "does not say when frames are shown"),
    ],
)
def test_a_container_that_does_not_time_its_frames_is_refused(
    tmp_path: Path, name: str, cause: str
) -> None:
    path = write_video(tmp_path / name)
    with pytest.raises(VideoDecodeError, match=cause):
        open_video(path)


def test_an_avi_that_shows_frames_as_it_decodes_them_is_read(tmp_path: Path) -> None:
    reader = open_video(write_video(tmp_path / "plain.avi", b_frames=0))
    assert [read_barcodes(reader.read([index]))[0] for index in (0, 33, 59)] == [0, 33, 59]


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(VideoDecodeError, match="too long"):
        open_video("a" * 300)
