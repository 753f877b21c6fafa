from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.synthetic_video import read_barcodes, write_video
from tests.videoseek_env.video.conftest import FRAME_COUNT, VFR_TICKS
from videoseek_env.budget import get_budget
from videoseek_env.errors import VideoDecodeError
from videoseek_env.sampling import plan_crop
from videoseek_env.segment import Segment
from videoseek_env.video import Backend, ClipCache, open_video
from videoseek_env.video.index_cache import index_video
from videoseek_env.video.pyav_reader import split_by_cost

VideoFactory = Callable[[str], Path]

UPRIGHT = [
    "h264.mp4",
    "h264_no_b.mp4",
    "h264_open_gop.mp4",
    "hevc.mp4",
    "hevc_open_gop.mp4",
    "vp9.webm",
    "vp9_odd.webm",
    "av1.mp4",
    "vfr.mp4",
    "ten_bit.mp4",
    "yuv444_odd.mp4",
    "one_frame.mp4",
    "fragmented.mp4",
    "faststart.mp4",
    "h264.mkv",
    "h264.ts",
    "h264.flv",
    "late.mp4",
    "late.mkv",
]


@pytest.mark.parametrize("name", UPRIGHT)
@pytest.mark.parametrize("threads", [1, 2])
def test_each_index_gives_that_frame(video: VideoFactory, name: str, threads: int) -> None:
    reader = open_video(video(name), "pyav", threads=threads)
    count = reader.info.frame_count
    assert read_barcodes(reader.read(range(count))) == list(range(count))
    fresh = open_video(video(name), "pyav", threads=threads)
    backwards = [read_barcodes(fresh.read([index]))[0] for index in reversed(range(count))]
    assert backwards == list(reversed(range(count)))


@pytest.mark.parametrize("name", UPRIGHT)
def test_keyframes_decode_by_themselves(video: VideoFactory, name: str) -> None:
    reader = open_video(video(name))
    keyframes = reader.keyframe_indices.tolist()
    assert keyframes[0] == 0
    assert read_barcodes(reader.read(keyframes)) == keyframes
    for keyframe in keyframes:
        assert read_barcodes(reader.read([keyframe])) == [keyframe]


@pytest.mark.parametrize("name", ["h264.mp4", "h264_open_gop.mp4", "hevc_open_gop.mp4", "h264.ts"])
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(requests=st.lists(st.lists(st.integers(0, FRAME_COUNT - 1), max_size=12), max_size=4))
def test_any_sequence_of_requests_gives_the_asked_frames(
    video: VideoFactory, name: str, requests: list[list[int]]
) -> None:
    reader = open_video(video(name))
    for request in requests:
        assert read_barcodes(reader.read(request)) == request


def test_reading_one_by_one_gives_each_frame(video: VideoFactory) -> None:
    reader = open_video(video("h264.mp4"))
    one_by_one = [read_barcodes(reader.read([index]))[0] for index in range(FRAME_COUNT)]
    assert one_by_one == list(range(FRAME_COUNT))


def test_info_describes_the_video(video: VideoFactory) -> None:
    info = open_video(video("h264.mp4")).info
    assert (info.frame_count, info.height, info.width, info.codec) == (60, 96, 128, "h264")
    assert info.duration_seconds == pytest.approx(2.4)  # 60 frames at 25 a second
    assert info.fps == pytest.approx(25)
    assert info.start_seconds == 0.0


def test_keyframes_follow_the_gop(video: VideoFactory) -> None:
    assert open_video(video("h264.mp4")).keyframe_indices.tolist() == [0, 12, 24, 36, 48]


def test_one_frame_has_a_duration(video: VideoFactory) -> None:
    info = open_video(video("one_frame.mp4")).info
    assert info.frame_count == 1
    assert info.duration_seconds == pytest.approx(1 / 25)


def test_timestamps_of_a_variable_frame_rate_are_the_containers(video: VideoFactory) -> None:
    reader = open_video(video("vfr.mp4"))
    np.testing.assert_allclose(reader.timestamps, np.array(VFR_TICKS) / 90, atol=1e-4)


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_a_late_start_stays_late(video: VideoFactory, name: str) -> None:
    reader = open_video(video(name))
    assert reader.info.start_seconds == pytest.approx(2.0)
    assert reader.timestamps[0] == pytest.approx(2.0)
    assert reader.info.end_seconds == pytest.approx(4.4)


def test_packets_before_the_cut_are_no_frames(video: VideoFactory) -> None:
    reader = open_video(video("cut.mp4"))
    assert reader.info.frame_count == 35  # 60 frames less the second that is cut off
    assert reader.timestamps[0] == 0.0
    assert read_barcodes(reader.read(range(35))) == list(range(25, 60))
    assert reader.keyframe_indices.tolist() == [11, 23]  # frames 36 and 48 of the whole
    assert read_barcodes(reader.read([23, 3, 11])) == [48, 28, 36]


@pytest.mark.parametrize(
    ("name", "quarter_turns_clockwise"),
    [("turned_90.mp4", 1), ("turned_180.mp4", 2), ("turned_270.mp4", 3)],
)
def test_rotation_is_applied(video: VideoFactory, name: str, quarter_turns_clockwise: int) -> None:
    upright = open_video(video("h264.mp4")).read([7, 30])
    turned = open_video(video(name))
    expected = np.rot90(upright, -quarter_turns_clockwise, axes=(1, 2))
    assert (turned.info.height, turned.info.width) == expected.shape[1:3]
    np.testing.assert_array_equal(turned.read([7, 30]), expected)


def test_mirroring_is_applied(video: VideoFactory) -> None:
    upright = open_video(video("h264.mp4")).read([7])
    np.testing.assert_array_equal(open_video(video("mirrored.mp4")).read([7]), upright[:, :, ::-1])


def test_resizing_is_to_height_by_width_after_rotation(video: VideoFactory) -> None:
    frames = open_video(video("turned_90.mp4")).read([3, 20], height=64, width=48)
    assert frames.shape == (2, 64, 48, 3)
    assert read_barcodes(np.rot90(frames, 1, axes=(1, 2))) == [3, 20]


def test_no_indices_give_no_frames(video: VideoFactory) -> None:
    assert open_video(video("h264.mp4")).read([], 10, 20).shape == (0, 10, 20, 3)


@pytest.mark.parametrize("indices", [[-1], [60], [0, 1000]])
def test_an_index_outside_is_an_index_error(video: VideoFactory, indices: list[int]) -> None:
    with pytest.raises(IndexError, match=r"must be in \[0, 60\)"):
        open_video(video("h264.mp4")).read(indices)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (10, None, "both height and width"),
        (None, 10, "both height and width"),
        (0, 10, "at least 1"),
        (10, -1, "at least 1"),
    ],
)
def test_an_impossible_size_is_a_value_error(
    video: VideoFactory, height: int | None, width: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_video(video("h264.mp4")).read([0], height, width)


def test_impossible_arguments_are_value_errors(video: VideoFactory) -> None:
    with pytest.raises(ValueError, match="backend must be one of"):
        open_video(video("h264.mp4"), "opencv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads must be at least 1"):
        open_video(video("h264.mp4"), threads=0)
    with pytest.raises(VideoDecodeError, match="frame_fps is 2, but there is no folder"):
        open_video(video("h264.mp4"), frame_fps=2.0)


def test_what_it_tells_is_read_only(video: VideoFactory) -> None:
    reader = open_video(video("h264.mp4"))
    with pytest.raises(ValueError, match="read-only"):
        reader.timestamps[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        reader.keyframe_indices[0] = 1


def test_a_path_may_be_a_string_and_is_kept(video: VideoFactory) -> None:
    path = str(video("h264.mp4"))
    reader = open_video(path)
    assert (reader.path, reader.backend) == (path, "pyav")


def test_a_closed_reader_opens_again(video: VideoFactory) -> None:
    reader = open_video(video("h264.mp4"))
    reader.read([5])
    reader.close()
    assert read_barcodes(reader.read([6])) == [6]


def test_a_pickled_reader_reads_the_same(video: VideoFactory) -> None:
    reader = open_video(video("h264.mp4"))
    reader.read([5])
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.info == reader.info
    assert read_barcodes(copy.read([9, 2])) == [9, 2]


def test_work_is_split_between_groups_of_pictures(video: VideoFactory) -> None:
    index = index_video(video("h264.mp4"), "pyav")
    # groups of 12: the last frame of each costs 12, so 60 in all; half is reached after 2 or 3
    last_of_groups = [11, 23, 35, 47, 59]
    parts = split_by_cost(index, last_of_groups, 2)
    assert parts in ([range(2), range(2, 5)], [range(3), range(3, 5)])
    assert split_by_cost(index, last_of_groups, 1) == [range(5)]


def test_work_within_one_group_is_not_split(video: VideoFactory) -> None:
    index = index_video(video("h264.mp4"), "pyav")
    assert split_by_cost(index, list(range(24, 36)), 4) == [range(12)]


def test_frames_before_time_zero_are_not_shown(video: VideoFactory) -> None:
    reader = open_video(video("early.mp4"))
    assert reader.info.frame_count == 52 and reader.info.start_seconds == pytest.approx(0.02)
    assert read_barcodes(reader.read(range(52))) == list(range(8, 60))
    assert [read_barcodes(reader.read([index]))[0] for index in (51, 20, 0)] == [59, 28, 8]


def test_a_sample_without_bytes_is_no_frame(video: VideoFactory, tmp_path: Path) -> None:
    content = bytearray(video("h264.mp4").read_bytes())
    at = content.index(b"stsz") + 16 + 4 * 59  # the last one in decoding order, frame 58
    content[at : at + 4] = bytes(4)
    path = tmp_path / "hole.mp4"
    path.write_bytes(content)
    reader = open_video(path)
    assert read_barcodes(reader.read(range(reader.info.frame_count))) == [*range(58), 59]


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_a_file_that_has_changed_is_refused_until_it_is_opened_again(
    video: VideoFactory, tmp_path: Path, backend: Backend
) -> None:
    if backend == "decord":
        pytest.importorskip("decord", reason="decord has no wheel here")
    path, cache = tmp_path / "video.mp4", ClipCache(1 << 20)
    path.write_bytes(video("h264_no_b.mp4").read_bytes())
    old = open_video(path, backend)
    assert old.read([3]).shape == (1, 96, 128, 3)  # a decoder of the old file stays open
    after = tmp_path / "after.mp4"
    write_video(after, 60, b_frames=0, pictures=[np.full((96, 128, 3), 200, np.uint8)] * 60)
    after.replace(path)
    ref = plan_crop(old, Segment(0.0, 1.0), "coarse", get_budget("laptop"))
    with pytest.raises(VideoDecodeError, match="it has changed since it was opened"):
        cache.load(ref, old)
    assert cache.load(ref, open_video(path, backend)).frames.mean() == pytest.approx(200, abs=8)
    path.unlink()
    with pytest.raises(VideoDecodeError, match="it is gone"):
        old.read([0])
