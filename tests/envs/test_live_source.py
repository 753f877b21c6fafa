from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.live_source import WallClock
from tests.envs.live_episodes import replay
from tests.synthetic_video import read_barcodes, write_video
from videoseek_env.budget import LAPTOP
from videoseek_env.sampling import plan_crop, plan_overview
from videoseek_env.segment import Segment
from videoseek_env.video import ClipCache


@settings(max_examples=30)
@given(seconds=st.floats(0, 59.89), data=st.data())
def test_no_frame_after_now_can_be_seen(
    minute_video: Path, seconds: float, data: st.DataObject
) -> None:
    reader = replay(minute_video)
    reader.catch_up(seconds)
    # Frame i is shown at i / 10 seconds, so floor(10 now) + 1 frames have been.
    times = np.arange(600) / 10
    count = int((times <= seconds).sum())
    assert reader.now_seconds == seconds
    assert reader.ended_seconds is None
    assert reader.info.frame_count == len(reader.timestamps) == count
    assert reader.info.end_seconds == max(seconds, 0.1)
    assert (reader.keyframe_indices < count).all()
    for index in (count, data.draw(st.integers(count, 599)), 600, -1):
        with pytest.raises(IndexError, match=rf"must be in \[0, {count}\)"):
            reader.read([0, index])
    assert read_barcodes(reader.read([count - 1, 0], 64, 64)) == [count - 1, 0]


def test_plans_over_a_live_reader_hold_nothing_of_the_future(minute_video: Path) -> None:
    reader, cache = replay(minute_video), ClipCache(2**24)
    for now in (0.0, 0.3, 1.0, 12.34, 40.0):
        reader.wait(now - reader.now_seconds)
        whole = Segment(0.0, 60.0)
        for mode in ("exact", "keyframe"):
            overview = cache.load(plan_overview(reader, LAPTOP, mode), reader)
            assert max(read_barcodes(overview.frames)) <= now * 10
            assert overview.timestamps_seconds[-1] <= now
        crop = cache.load(plan_crop(reader, whole, "fine", LAPTOP), reader)
        assert max(read_barcodes(crop.frames)) <= now * 10


def test_a_wait_ends_with_the_video_unless_it_may_go_on(minute_video: Path) -> None:
    reader = replay(minute_video)
    reader.wait(50.0)
    for _ in range(2):
        reader.wait(50.0)
        assert (reader.now_seconds, reader.ended_seconds) == (60.0, 60.0)
    assert reader.info.frame_count == 600
    reader.catch_up(2.5)
    reader.wait(50.0)
    assert reader.now_seconds == 62.5
    reader.wait(50.0, past_end=True)
    assert (reader.now_seconds, reader.ended_seconds) == (112.5, 60.0)
    assert reader.info.end_seconds == 60.0


def test_thinking_may_pass_the_end(minute_video: Path) -> None:
    reader = replay(minute_video)
    reader.catch_up(75.0)
    assert (reader.now_seconds, reader.ended_seconds) == (75.0, 60.0)


def test_a_video_that_starts_late_is_replayed_from_its_first_frame(tmp_path: Path) -> None:
    # 100 frames from 30 s to 39.9 s.
    path = write_video(tmp_path / "late.mkv", 100, ticks=range(300, 400), ticks_per_second=10)
    reader = replay(path)
    assert (reader.now_seconds, reader.info.start_seconds, reader.info.frame_count) == (30, 30, 1)
    reader.wait(5.0)
    assert reader.now_seconds == 35.0
    assert read_barcodes(reader.read([reader.info.frame_count - 1])) == [50]


def test_closing_a_replay_leaves_it_readable(minute_video: Path) -> None:
    reader = replay(minute_video)
    reader.wait(1.0)
    reader.close()
    assert read_barcodes(reader.read([10])) == [10]
    assert (reader.path, reader.backend) == (str(minute_video), "pyav")


def test_real_time_passes_by_itself_and_while_waiting() -> None:
    clock = WallClock()
    first = clock.now_seconds
    clock.think(1e9)
    clock.wait_until(first + 0.01)
    assert first + 0.01 <= clock.now_seconds < 1e9
    clock.wait_until(0.0)  # long past
