import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import Grounding
from rewards.grounding import (
    METRICS,
    answered_interval,
    clue_intervals,
    coverage,
    grounded_intervals,
    multi_clue_quality,
    ordered_interval,
    read_interval,
    shown_intervals,
    single_clue_quality,
)
from rewards.intervals import Interval
from rewards.testing import example_task, gold_script, play
from tests.sample_trajectories import answer_reply, crop_reply, make_ref, make_task, make_trajectory
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind


@pytest.mark.parametrize(
    ("content", "interval"),
    [
        ('{"temporal_segment": [2, 4.5]}', (2.0, 4.5)),
        ('{"temporal_segment": [4.5, 2]}', (2.0, 4.5)),  # reversed ends are swapped
        ('{"temporal_segment": [-3, 1e6], "sampling_strategy": 7}', (-3.0, 1e6)),  # not clamped
        ('{"temporal_segment": [2, 2]}', None),
        ('{"temporal_segment": [2, 2.0]}', None),
        ('{"temporal_segment": [1, 2, 3]}', None),
        ('{"temporal_segment": [1]}', None),
        ('{"temporal_segment": "12"}', None),
        ('{"temporal_segment": {"0": 1, "1": 2}}', None),
        ('{"temporal_segment": [true, 2]}', None),
        ('{"temporal_segment": [0, false]}', None),
        ('{"temporal_segment": [null, 2]}', None),
        ('{"temporal_segment": ["1", "2"]}', None),
        ('{"temporal_segment": [NaN, 2]}', None),
        ('{"temporal_segment": [1, Infinity]}', None),
        ('{"temporal_segment": [1, 1e999]}', None),
        ('{"temporal_segment": [1, 1' + "0" * 400 + "]}", None),  # an integer beyond all floats
        ("{'temporal_segment': [1, 2]}", None),  # strict JSON
        ('{"segment": [1, 2]}', None),
        ("[1, 2]", None),
        ("", None),
    ],
)
def test_reading_a_segment(content: str, interval: Interval | None) -> None:
    assert read_interval(content) == interval
    assert answered_interval(content) == interval


def test_every_grounding_of_every_reply_counts() -> None:
    inside = '<think><grounding>{"temporal_segment": [1, 2]}</grounding></think>'
    broken = "<grounding>{}</grounding>"
    replies = [inside + crop_reply(3, 4), broken, "", crop_reply(9, 7), answer_reply("B")]
    assert grounded_intervals(replies) == [(1.0, 2.0), (3.0, 4.0), (7.0, 9.0)]


@pytest.mark.parametrize(
    ("times", "interval"),
    [
        ([1, 2], (1.0, 2.0)), ((1.5, 2), (1.5, 2.0)), ([2, 1], None), ([1, 1], None),
        ([1], None), ([1, 2, 3], None), ("12", None), (None, None), (12, None), ([1, None], None),
        ([None, 2], None), ([True, 2], None), ([0, float("inf")], None), ([float("nan"), 2], None),
    ],
)  # fmt: skip
def test_a_ground_truth_is_ordered(times: Any, interval: Interval | None) -> None:
    assert ordered_interval(times) == interval


# Crop [10, 20) of clue [15, 20): IoU 1/2, IoP 1/2, IoG 1, DIoU 0.5 - (2.5/10)^2 = 0.4375:
# g1 = (0.5 + 0.5 + 1 + 1.4375/2)/4 = 0.6796875.
def test_single_clue_quality() -> None:
    assert single_clue_quality([(10, 20)], [(15, 20)]) == pytest.approx(0.6796875)
    assert single_clue_quality([(15, 20)], [(15, 20)]) == 1.0


# Crops [10, 20) and [40, 60), clues [10, 20) and [40, 50): IoU 20/30, IoP 20/30, IoG 1:
# g2 = (4/3 + 2/3 + 1)/4 = 0.75.
def test_multi_clue_quality() -> None:
    crops, clues = [(10, 20), (40, 60)], [(10, 20), (40, 50)]
    assert multi_clue_quality(crops, clues) == pytest.approx(0.75)
    assert multi_clue_quality(clues, clues) == 1.0


@pytest.mark.parametrize("quality", [single_clue_quality, multi_clue_quality, coverage])
def test_an_empty_side_is_worth_nothing(quality: Any) -> None:
    assert quality([], [(1, 2)]) == quality([(1, 2)], []) == quality([], []) == 0.0
    assert quality(iter([(1, 1)]), iter([(1, 2)])) == 0.0  # zero length is empty


# Clues of 10 s and 90 s: the first wholly, the second for 30 s: (1 + 1/3)/2 = 2/3, where the share
# of all seconds would be 0.4.
def test_coverage_counts_each_clue_the_same() -> None:
    assert coverage([(0, 40)], [(0, 10), (10, 100)]) == pytest.approx(2 / 3)


# Shown [0, 4) and [2, 6), together [0, 6), of clue [5, 7): 1/2.
def test_coverage_merges_what_was_shown() -> None:
    assert coverage(iter([(0, 4), (2, 6)]), iter([(5, 7)])) == 0.5


_TIMES = st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda pair: (pair[0], sum(pair)))


@settings(deadline=None)
@given(st.lists(_TIMES, max_size=4), st.lists(_TIMES, min_size=1, max_size=4), _TIMES)
def test_coverage_is_in_range_and_grows_with_what_is_shown(
    shown: list[Interval], clues: list[Interval], more: Interval
) -> None:
    assert 0 <= coverage(shown, clues) <= coverage([*shown, more], clues) <= 1


def test_the_overview_is_no_crop() -> None:
    crop = dataclasses.replace(make_ref(), segment=Segment(3.0, 5.0), strategy="coarse")
    assert shown_intervals([make_ref(), crop]) == [(3.0, 5.0)]


def test_clues_as_intervals() -> None:
    assert clue_intervals(make_task(clues=((1, 2), (5, 9)))) == [(1, 2), (5, 9)]


# --- the reward ---


# The agent writes [-10, 20) and is shown [0, 20); the clue is [40, 50) of 100 s in the example,
# [0, 10) here: written IoU 10/30, shown 10/20.
def test_written_and_shown_crops_differ_by_the_clamp() -> None:
    task = dataclasses.replace(example_task(TaskKind.SINGLE_CLUE_TOOL), clues=(Segment(0.0, 10.0),))
    trajectory = play(task, [crop_reply(-10, 20), answer_reply("B")])
    assert Grounding()(trajectory).value == 0.5
    assert Grounding(source="written")(trajectory).value == pytest.approx(1 / 3)


def test_a_refused_crop_is_written_and_not_shown() -> None:
    task = example_task(TaskKind.SINGLE_CLUE_TOOL)
    trajectory = play(task, [crop_reply(50, 40), answer_reply("B")])
    assert Grounding()(trajectory).value == 0.0
    assert Grounding(source="written")(trajectory).value == 1.0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("source", ["written", "shown"])
def test_gold_crops_score_one(metric: str, source: Any) -> None:
    script = gold_script(example_task(TaskKind.MULTI_CLUE_TOOL))
    trajectory = play(script.task, script.replies())
    reward = Grounding(metric=metric, source=source)(trajectory)
    assert (reward.value, reward.parts) == (1.0, {})


# Crop [0, 20) of clue [10, 20): IoU 1/2, IoP 1/2, IoG 1; centres 10 and 15, hull 20:
# DIoU = 1/2 - 1/16 = 0.4375; g1 = (0.5 + 0.5 + 1 + 0.71875)/4, g2 = (1 + 0.5 + 1)/4.
@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("iou", 0.5), ("iop", 0.5), ("iog", 1.0), ("diou", 0.4375), ("coverage", 1.0),
        ("single", 0.6796875), ("multi", 0.625),
    ],
)  # fmt: skip
def test_each_metric(metric: str, value: float) -> None:
    trajectory = make_trajectory([crop_reply(0, 20), answer_reply("B")])
    assert Grounding(metric=metric, source="written")(trajectory).value == pytest.approx(value)


def test_what_is_unknown_is_told() -> None:
    with pytest.raises(ValueError, match=r"metric must be one of iou, iop, .*, got 'giou'"):
        Grounding(metric="giou")
    with pytest.raises(ValueError, match='source must be "written" or "shown", got \'asked\''):
        Grounding(source="asked")  # type: ignore[arg-type]
