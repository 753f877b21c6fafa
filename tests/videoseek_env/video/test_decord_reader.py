from __future__ import annotations

import importlib
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.synthetic_video import read_barcodes
from videoseek_env.errors import VideoDecodeError
from videoseek_env.video import open_video

pytest.importorskip("decord")

VideoFactory = Callable[[str], Path]

RIGHT = [
    "h264.mp4",
    "h264_no_b.mp4",
    "hevc_closed_gop.mp4",
    "vfr.mp4",
    "ten_bit.mp4",
    "yuv444_odd.mp4",
    "h264.mkv",
    "turned_180.mp4",
]


@pytest.mark.parametrize("name", RIGHT)
def test_both_decoders_give_the_same_frames(video: VideoFactory, name: str) -> None:
    decord, pyav = open_video(video(name), "decord"), open_video(video(name), "pyav")
    assert decord.backend == "decord"
    assert decord.info == pyav.info
    np.testing.assert_array_equal(decord.timestamps, pyav.timestamps)
    np.testing.assert_array_equal(decord.keyframe_indices, pyav.keyframe_indices)
    every = range(pyav.info.frame_count)
    in_order = decord.read(every)
    difference = np.abs(in_order.astype(int) - pyav.read(every)).mean(axis=(1, 2, 3))
    assert difference.max() < 2  # they round colours a little differently
    for index in reversed(every):
        np.testing.assert_array_equal(decord.read([index])[0], in_order[index])


def test_any_order_and_repeats(video: VideoFactory) -> None:
    reader = open_video(video("h264.mp4"), "decord")
    assert read_barcodes(reader.read([50, 3, 3, 17, 50])) == [50, 3, 3, 17, 50]


def test_resizing_is_to_height_by_width(video: VideoFactory) -> None:
    decord, pyav = (open_video(video("turned_180.mp4"), name) for name in ("decord", "pyav"))
    for size in [(48, 64), (80, 100), (24, 32), (48, 64)]:
        frames = decord.read([20, 3], *size)
        assert frames.shape == (2, *size, 3)
        assert np.abs(frames.astype(int) - pyav.read([20, 3], *size)).mean() < 6


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("cut.mp4", "edit list"),
        ("late.mp4", "start at zero"),
        ("late.mkv", "start at zero"),
        ("vp9.webm", "vp9"),
        ("av1.mp4", "av1"),
        ("h264.ts", "mpegts"),
        ("mirrored.mp4", "mirroring"),
        ("turned_90.mp4", "turned by a quarter"),
        ("h264_open_gop.mp4", "open groups"),
        ("hevc.mp4", "open groups"),
    ],
)
def test_files_that_decord_gets_wrong_are_refused_unopened(
    video: VideoFactory, name: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("decord opened the file")

    monkeypatch.setattr("decord.VideoReader", never)
    with pytest.raises(VideoDecodeError, match=cause) as caught:
        open_video(video(name), "decord")
    assert 'backend="pyav"' in caught.value.remedy


def test_a_file_whose_timeline_decord_misreads_is_refused(video: VideoFactory) -> None:
    with pytest.raises(VideoDecodeError, match=r"start at zero|timeline"):
        open_video(video("fragmented.mp4"), "decord")


def test_a_missing_decord_is_an_error_with_a_remedy(
    video: VideoFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(VideoDecodeError, match=r"not installed.*pip install decord"):
        open_video(video("h264.mp4"), "decord")


def test_it_checks_indices_and_sizes(video: VideoFactory) -> None:
    reader = open_video(video("h264.mp4"), "decord")
    with pytest.raises(IndexError, match=r"must be in \[0, 60\)"):
        reader.read([-1])
    with pytest.raises(ValueError, match="both height and width"):
        reader.read([0], height=10)
    assert reader.read([], 10, 20).shape == (0, 10, 20, 3)


def test_threads_may_share_a_reader(video: VideoFactory) -> None:
    reader = open_video(video("h264.mp4"), "decord")
    wrong: list[int] = []

    def work(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, 60, 10).tolist():
            if read_barcodes(reader.read([index])) != [index]:
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_it_closes_and_pickles(video: VideoFactory) -> None:
    reader = open_video(video("h264.mp4"), "decord")
    reader.read([1])
    reader.close()
    assert read_barcodes(reader.read([6])) == [6]
    assert read_barcodes(pickle.loads(pickle.dumps(reader)).read([7])) == [7]
