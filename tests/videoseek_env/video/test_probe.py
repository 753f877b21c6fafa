"""The index of a file: its tables against a scan of its packets, and both against the decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from videoseek_env.video import index_cache, probe
from videoseek_env.video.index_cache import index_video

VideoFactory = Callable[[str], Path]

EVERY = [
    "h264.mp4",
    "h264_no_b.mp4",
    "h264_open_gop.mp4",
    "hevc.mp4",
    "vp9.webm",
    "av1.mp4",
    "vfr.mp4",
    "fragmented.mp4",
    "faststart.mp4",
    "h264.mkv",
    "h264.ts",
    "cut.mp4",
    "late.mp4",
    "turned_90.mp4",
]
BY_TABLES = ["h264.mp4", "h264_no_b.mp4", "hevc.mp4", "av1.mp4", "vfr.mp4", "late.mp4"]


@pytest.mark.parametrize("name", EVERY)
def test_timestamps_are_those_of_decoded_frames(video: VideoFactory, name: str) -> None:
    with av.open(str(video(name))) as container:
        decoded = [(frame.time, frame.key_frame) for frame in container.decode(video=0)]
    index = probe.probe(video(name), "pyav")
    np.testing.assert_allclose(index.timestamps, [time for time, _ in decoded], atol=1e-9)
    keyframes = [at for at, (_, is_keyframe) in enumerate(decoded) if is_keyframe]
    assert index.frames.keyframe_indices.tolist() == keyframes


@pytest.mark.parametrize("name", EVERY)
def test_tables_and_scan_agree(
    video: VideoFactory, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = probe.probe(video(name), "pyav")
    monkeypatch.setattr(probe, "sample_tables", lambda *_: None)
    slow = probe.probe(video(name), "pyav")
    assert fast.info == slow.info
    for column in ("pts", "decode_position", "entry", "entry_pts", "entry_dts", "keyframe_indices"):
        np.testing.assert_array_equal(getattr(fast.frames, column), getattr(slow.frames, column))


@pytest.mark.parametrize("name", BY_TABLES)
def test_a_plain_mp4_is_not_scanned(
    video: VideoFactory, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("scanned")

    monkeypatch.setattr(probe, "_packets_from_scan", never)
    probe.probe(video(name), "pyav")


def test_a_file_is_indexed_once_until_it_changes(
    video: VideoFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(video("h264.mp4").read_bytes())
    first = index_video(path, "pyav")
    assert index_video(path, "pyav") is first
    path.write_bytes(video("vfr.mp4").read_bytes())
    assert index_video(path, "pyav").info.frame_count == 20


def test_old_indexes_make_room(
    video: VideoFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_cache, "_MAX_FRAMES", 130)  # two of 60 frames
    paths = [tmp_path / f"{number}.mp4" for number in range(3)]
    for path in paths:
        path.write_bytes(video("h264.mp4").read_bytes())
    oldest = index_video(paths[0], "pyav")
    newest = [index_video(path, "pyav") for path in paths[1:]][-1]
    assert index_video(paths[2], "pyav") is newest
    assert index_video(paths[0], "pyav") is not oldest
