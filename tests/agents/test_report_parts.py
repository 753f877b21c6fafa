import base64
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.report import summarise
from agents.report.images import MissingStrip, Strip, StripMaker, encode_jpeg, side_by_side
from agents.report.reply import leave_out_middle, reply_spans
from agents.report.summary import mean_estimate, share_estimate, wilson_estimate
from agents.report.timeline import draw_timeline
from rewards.reward import Reward
from tests.agents.report_samples import (
    make_episode,
    make_ref,
    make_seeking_episode,
    make_task,
    make_turn,
)
from tests.synthetic_video import barcode, read_barcodes
from videoseek_env.action import write_crop
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind
from videoseek_env.trajectory import EndReason

# pictures


def decode_jpeg(data: bytes) -> np.ndarray:
    with av.open(BytesIO(data), format="mjpeg") as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24")


def test_a_strip_holds_the_frames_of_its_timestamps(minute_video: Path) -> None:
    with StripMaker(max_frames=3) as strips:
        strip = strips.strip(make_ref(minute_video, [7, 100, 101, 300, 599]))
    assert isinstance(strip, Strip)
    assert strip.timestamps_seconds == (0.7, 10.1, 59.9)
    picture = decode_jpeg(base64.b64decode(strips.images[strip.number]))
    assert picture.shape == (96, 3 * 128, 3)
    assert read_barcodes(picture.reshape(96, 3, 128, 3).transpose(1, 0, 2, 3)) == [7, 101, 599]


def test_a_strip_of_one_frame_is_a_picture(minute_video: Path) -> None:
    with StripMaker() as strips:
        strip = strips.strip(make_ref(minute_video, [5]))
    assert isinstance(strip, Strip)
    assert strip.timestamps_seconds == (0.5,)


def test_large_frames_are_shrunk_to_thumbnails(minute_video: Path) -> None:
    with StripMaker() as strips:
        strip = strips.strip(replace(make_ref(minute_video, [0, 1]), height=480, width=640))
    # 192 x 144 pixels at most, in whole blocks of 16.
    assert isinstance(strip, Strip)
    assert (strip.height, strip.width) == (144, 192)


def test_a_clip_beyond_the_end_of_a_changed_video_gives_the_reason(minute_video: Path) -> None:
    with StripMaker() as strips:
        strip = strips.strip(make_ref(minute_video, [0, 600]))
    assert isinstance(strip, MissingStrip)
    assert "which has 600 of them" in strip.reason


@pytest.mark.parametrize(("height", "width"), [(1, 1), (95, 33), (144, 3072)])
def test_a_jpeg_of_any_size_decodes_to_nearly_the_same(height: int, width: int) -> None:
    picture = np.repeat(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], 3, axis=2)
    picture = np.repeat(picture, height, axis=0)
    difference = decode_jpeg(encode_jpeg(picture)).astype(int) - picture
    assert np.abs(difference).mean() < 4


def test_frames_lie_side_by_side() -> None:
    frames = np.stack([barcode(index, 32, 48) for index in (1, 2)])
    assert np.array_equal(side_by_side(frames)[:, 48:], frames[1])


# replies


@given(st.text())
def test_the_spans_of_a_reply_are_the_reply(reply: str) -> None:
    assert "".join(span.text for span in reply_spans(reply)) == reply


def test_a_reply_is_cut_at_its_tags() -> None:
    spans = reply_spans("a<think>b</think><grounding>c</grounding><answer>d")
    roles = [(span.role, span.text) for span in spans if span.role != "tag"]
    assert roles == [("plain", "a"), ("think", "b"), ("grounding", "c"), ("answer", "d")]


def test_a_reply_of_nothing_but_tags_stays_readable() -> None:
    spans = reply_spans("<think>" * 100_000)
    assert len(spans) <= 201
    assert sum(len(span.text) for span in spans) < 10_000


def test_a_long_text_keeps_both_ends() -> None:
    text = leave_out_middle("a" * 5000 + "b" * 5000, max_characters=10)
    assert text == "aaaaa [... 9990 characters left out ...] bbbbb"


# timeline


def test_the_timeline_has_a_lane_for_each_clip(minute_video: Path) -> None:
    timeline = draw_timeline(make_seeking_episode(minute_video).trajectory)
    assert [lane.label for lane in timeline.lanes] == ["1 overview", "2 fine"]
    # 29.0 s to 40.1 s of 60 s, in thousandths.
    assert (timeline.lanes[1].box.left, timeline.lanes[1].box.width) == (483.3, 185.0)
    # 30 s to 36 s.
    assert (timeline.clues[0].left, timeline.clues[0].width) == (500.0, 100.0)
    assert timeline.lanes[1].ticks.count("M") == 4


def test_the_timeline_shows_a_crop_that_a_limit_refused(minute_video: Path) -> None:
    crop = make_turn(
        write_crop("", Segment(29.0, 40.0), "coarse"), make_ref(minute_video, [0, 599])
    )
    episode = make_episode(crop, task=make_task(minute_video), end_reason=EndReason.TURNS_EXHAUSTED)
    lanes = draw_timeline(episode.trajectory).lanes
    assert [lane.is_refused for lane in lanes] == [False, True]


@pytest.mark.parametrize("reason", [EndReason.POLICY_FAILED, EndReason.ABANDONED])
def test_a_crop_that_was_shown_before_the_episode_was_stopped_is_not_refused(
    minute_video: Path, reason: EndReason
) -> None:
    crop = make_turn(
        write_crop("", Segment(29.0, 40.0), "coarse"), make_ref(minute_video, [0, 599])
    )
    episode = make_episode(crop, task=make_task(minute_video), end_reason=reason)
    assert not any(lane.is_refused for lane in draw_timeline(episode.trajectory).lanes)


# summary


def test_policies_are_summarised_in_order_of_appearance(minute_video: Path) -> None:
    right = make_seeking_episode(minute_video)
    wrong = make_episode(
        make_turn("<answer>A</answer>"), task=make_task(minute_video), policy="guess", value=0.0
    )
    oracle, guess = summarise([right, wrong, wrong, right, right])
    assert (oracle.policy, oracle.episodes, guess.policy, guess.episodes) == (
        "oracle",
        3,
        "guess",
        2,
    )
    assert oracle.accuracy.mean == 1
    assert guess.accuracy.mean == 0
    assert oracle.turns.mean == 2
    assert oracle.visual_tokens.mean == 24
    assert oracle.accuracy_by_kind[TaskKind.SINGLE_CLUE_TOOL].count == 3


def test_a_graded_part_gets_the_normal_interval_in_every_row(minute_video: Path) -> None:
    graded = make_seeking_episode(minute_video, reward=Reward(1.0, {"acc": 1.0, "bonus": 0.5}))
    flat = replace(graded, policy="flat", reward=Reward(1.0, {"acc": 1.0, "bonus": 0.0}))
    _, row = summarise([graded, graded, flat, flat])
    assert (row.parts["bonus"].low, row.parts["bonus"].high) == (0.0, 0.0)
    assert row.parts["acc"].low == pytest.approx(2 / (2 + 1.959964**2))


def test_a_part_counts_over_the_episodes_that_have_it(minute_video: Path) -> None:
    one = make_seeking_episode(minute_video, reward=Reward(1.0, {"extra": 0.5}))
    other = make_seeking_episode(minute_video, reward=Reward(1.0))
    (row,) = summarise([one, other])
    assert row.parts["extra"].count == 1


def test_the_normal_interval_is_that_of_the_book() -> None:
    estimate = mean_estimate([1.0, 2.0, 3.0])
    # s = 1, so the half width is 1.959964 / sqrt(3) = 1.131586.
    assert estimate.mean == 2
    assert (estimate.low, estimate.high) == pytest.approx((0.868414, 3.131586), abs=1e-6)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_s_interval_stays_in_range_and_holds_the_share(counts: tuple[int, int]) -> None:
    estimate = wilson_estimate(*counts)
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0 <= estimate.low <= estimate.mean + 1e-12
    assert estimate.mean - 1e-12 <= estimate.high <= 1


def test_fractional_scores_get_the_normal_interval_within_their_range() -> None:
    assert share_estimate([0.4, 0.5, 0.6]) == mean_estimate([0.4, 0.5, 0.6])
    # 0.75 -+ 1.96 * 0.354 / sqrt(2) = 0.26 to 1.24.
    estimate = share_estimate([0.5, 1.0])
    assert (estimate.low, estimate.high) == (pytest.approx(0.26, abs=0.001), 1.0)


def test_one_fractional_score_has_no_interval() -> None:
    assert share_estimate([0.5]) == mean_estimate([0.5])


@pytest.mark.parametrize("estimate", [mean_estimate, share_estimate])
def test_no_values_have_no_mean(estimate: object) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])  # type: ignore[operator]


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="successes <= count"):
        wilson_estimate(3, 2)
