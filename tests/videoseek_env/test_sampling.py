import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synthetic_video import read_barcodes, write_video
from videoseek_env.budget import LAPTOP, QWEN3_VL, TINY, CropQuotas, Quota
from videoseek_env.errors import VideoDecodeError
from videoseek_env.sampling import evenly_spaced, plan_crop, plan_overview, snap_to_keyframes
from videoseek_env.segment import Segment
from videoseek_env.video import open_video


@given(
    fps=st.sampled_from([1.0, 12.5, 23.976, 24.0, 25.0, 29.97, 30.0, 59.94]),
    total=st.integers(1, 5000),
    data=st.data(),
)
def test_a_constant_rate_is_sampled_as_published(
    fps: float, total: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, total - 1))
    last = data.draw(st.integers(first, total - 1))
    count = data.draw(st.integers(1, min(768, last - first + 1)))
    indices = evenly_spaced(np.arange(total) / fps, first, last, count)
    published = np.round(np.round(np.linspace(first, last, count), 6)).astype(int)
    assert indices.tolist() == published.tolist()


# Frames at 0, 1, 2, ... 9 s and then at 100 s: evenly in time are 0, 33, 67 and 100 s, whose
# nearest frames are 0, 9 (33 lies nearer to 9 by index interpolation: 9 + 24/91 = 9.26), 10 (9.63)
# and 10; no frame twice.
def test_a_variable_rate_is_spaced_by_time_and_takes_no_frame_twice() -> None:
    times = np.array([*range(10), 100.0])
    assert evenly_spaced(times, 0, 10, 4).tolist() == [0, 8, 9, 10]


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=60), st.data())
def test_any_timeline_gives_distinct_ascending_frames_inside(
    gaps: list[float], data: st.DataObject
) -> None:
    times = np.cumsum(gaps)
    first = data.draw(st.integers(0, len(times) - 1))
    last = data.draw(st.integers(first, len(times) - 1))
    count = data.draw(st.integers(1, last - first + 1))
    indices = evenly_spaced(times, first, last, count)
    assert len(indices) == count
    assert indices[0] >= first and indices[-1] <= last
    assert (np.diff(indices) > 0).all()
    if count > 1:
        assert (indices[0], indices[-1]) == (first, last)


# Wanted 0, 10, 20, 30 s (spacing 10); keyframes at 4, 17 and 24 s. 0 takes 4; 10's nearest is 4 (6
# away, over half the spacing): itself; 20's nearest is 17 (3 away); 30's nearest is 24 (6 away):
# itself.
def test_keyframes_within_half_the_spacing_are_taken() -> None:
    times = np.arange(31.0)
    snapped = snap_to_keyframes(np.array([0, 10, 20, 30]), times, np.array([4, 17, 24]))
    assert snapped.tolist() == [4, 10, 17, 30]


# Wanted 0, 10, 20; the only keyframe at 5 is 5 from both 0 and 10, exactly half the spacing.
def test_a_keyframe_between_two_is_taken_once() -> None:
    times = np.arange(21.0)
    assert snap_to_keyframes(np.array([0, 10, 20]), times, np.array([5])).tolist() == [5, 10, 20]


@pytest.mark.parametrize("keyframes", [[], [0]])
def test_one_frame_or_no_keyframes_stay(keyframes: list[int]) -> None:
    times = np.arange(3.0)
    assert snap_to_keyframes(np.array([1]), times, np.array(keyframes, int)).tolist() == [1]


@given(
    total=st.integers(2, 400),
    count=st.integers(2, 60),
    keyframes=st.sets(st.integers(0, 399), min_size=1, max_size=60),
)
def test_snapped_frames_stay_distinct_ascending_and_near(
    total: int, count: int, keyframes: set[int]
) -> None:
    times = np.arange(total) / 10
    indices = evenly_spaced(times, 0, total - 1, min(count, total))
    known = np.array(sorted(key for key in keyframes if key < total), int)
    snapped = snap_to_keyframes(indices, times, known)
    assert (np.diff(snapped) > 0).all()
    half = (times[indices[-1]] - times[indices[0]]) / (len(indices) - 1) / 2
    assert (np.abs(times[snapped] - times[indices]) <= half + 1e-9).all()


def test_a_segment_begins_with_the_frame_at_its_start_despite_rounding(minute_video: Path) -> None:
    reader = open_video(minute_video)
    crop = plan_crop(reader, Segment(0.1 * 3, 1.1 * 3), "fine", QWEN3_VL)
    assert (crop.indices[0], crop.indices[-1]) == (3, 33)


# 2.05 s to 2.95 s at 10 fps: ceil(20.5) = 21, floor(29.5) = 29.
def test_a_crop_takes_frames_inside_its_segment_only(minute_video: Path) -> None:
    crop = plan_crop(open_video(minute_video), Segment(2.05, 2.95), "fine", QWEN3_VL)
    assert (crop.indices[0], crop.indices[-1]) == (21, 29)


def test_a_segment_between_two_frames_shows_the_earlier_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "slow.mp4", ticks=[0, 10, 20], ticks_per_second=1, frame_count=3)
    crop = plan_crop(open_video(path), Segment(12.0, 15.0), "fine", QWEN3_VL)
    assert crop.indices == (1,)


def test_a_crop_keeps_to_the_frames_of_its_budget(minute_video: Path) -> None:
    reader, whole = open_video(minute_video), Segment(0.0, 60.0)
    assert len(plan_crop(reader, whole, "fine", LAPTOP).indices) == 32
    assert len(plan_crop(reader, whole, "fine", TINY).indices) == 8
    assert len(plan_crop(reader, whole, "fine", QWEN3_VL).indices) == 120
    faster = dataclasses.replace(QWEN3_VL, sampling_fps=4.0)
    assert len(plan_crop(reader, whole, "fine", faster).indices) == 240


def test_every_pair_of_frames_has_a_token_in_the_quota(minute_video: Path) -> None:
    poor = CropQuotas(coarse=Quota(2, 1), medium=Quota(3, 1), fine=Quota(4, 1))
    budget = dataclasses.replace(QWEN3_VL, crops=poor)
    crop = plan_crop(open_video(minute_video), Segment(0.0, 60.0), "coarse", budget)
    assert (len(crop.indices), crop.visual_tokens) == (4, 2)


def test_a_video_that_starts_late_keeps_its_own_timeline(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.mkv", 100, ticks=range(300, 400), ticks_per_second=10)
    reader = open_video(path)
    assert reader.info.start_seconds == pytest.approx(30.0)
    overview = plan_overview(reader, TINY)
    segment = overview.segment
    assert (segment.start_seconds, segment.end_seconds) == pytest.approx((30, 40), abs=0.1)
    crop = plan_crop(reader, Segment(32.0, 34.0), "fine", QWEN3_VL)
    frames = reader.read(crop.indices, crop.height, crop.width)
    assert read_barcodes(frames) == [20, 27, 33, 40]


# The timeline of 1/25 s: frames at 0, 1, 2, 3 and then every 50 ticks. 8 s to 12 s is frames 7
# (tick 200) to 9 (tick 300).
def test_crops_of_a_variable_rate_go_by_presentation_time(tmp_path: Path) -> None:
    ticks = [0, 1, 2, 3, *range(50, 550, 50)]
    path = write_video(tmp_path / "v.mp4", len(ticks), ticks=ticks, ticks_per_second=25)
    reader = open_video(path)
    crop = plan_crop(reader, Segment(8.0, 12.0), "fine", QWEN3_VL)
    assert crop.indices == (7, 9)
    np.testing.assert_allclose(crop.timestamps_seconds, [8.0, 12.0])
    assert reader.timestamps[7] == float(Fraction(200, 25))


def test_an_extreme_aspect_ratio_is_the_videos_fault(tmp_path: Path) -> None:
    path = write_video(tmp_path / "strip.mp4", 4, height=16, width=3400)
    with pytest.raises(
        VideoDecodeError, match=r"strip\.mp4: aspect ratio .* Crop or pad the video"
    ):
        plan_overview(open_video(path), TINY)
