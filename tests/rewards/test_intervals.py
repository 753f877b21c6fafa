import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.intervals import Interval, diou, iog, iop, iou, length, merge, overlap

_TIMES = st.integers(0, 40)
_INTERVALS = st.lists(st.tuples(_TIMES, _TIMES), max_size=6)


def seconds_inside(intervals: list[Interval]) -> set[int]:
    """The whole seconds [t, t + 1) that a union covers, the slow way."""
    return {t for start, end in intervals for t in range(int(start), int(end))}


@given(_INTERVALS)
def test_merge_keeps_the_union_and_leaves_gaps(intervals: list[Interval]) -> None:
    merged = merge(intervals)
    assert seconds_inside(merged) == seconds_inside(intervals)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(merged))


@given(_INTERVALS, _INTERVALS)
def test_overlap_counts_seconds_in_both(a: list[Interval], b: list[Interval]) -> None:
    assert overlap(a, b) == len(seconds_inside(a) & seconds_inside(b))
    assert length(a) == len(seconds_inside(a))


@given(_INTERVALS, _INTERVALS)
def test_ratios_are_in_range_and_iou_is_symmetric(a: list[Interval], b: list[Interval]) -> None:
    for ratio in (iou, iop, iog):
        assert 0 <= ratio(a, b) <= 1
    assert iou(a, b) == iou(b, a)
    assert iop(a, b) == iog(b, a)
    assert iou(a, b) <= min(iop(a, b), iog(a, b)) + 1e-12
    assert -1 < diou(a, b) <= iou(a, b)


# [0, 4) and [2, 6): both 2, union 6; hull [0, 6), centres 2 and 4: DIoU = 1/3 - (2/6)^2 = 2/9.
def test_hand_derived_values() -> None:
    a, b = [(0.0, 4.0)], [(2.0, 6.0)]
    assert iou(a, b) == pytest.approx(1 / 3)
    assert iop(a, b) == iog(a, b) == 0.5
    assert diou(a, b) == pytest.approx(2 / 9)


# Disjoint: [0, 2) and [8, 10): IoU 0, centres 1 and 9, hull 10: DIoU = -(8/10)^2 = -0.64.
def test_diou_of_disjoint_intervals_is_negative() -> None:
    assert diou([(0.0, 2.0)], [(8.0, 10.0)]) == pytest.approx(-0.64)


# Hulls of unions: {[0, 1), [9, 10)} has hull [0, 10) and centre 5, as has [4, 6): distance 0, IoU
# 0.
def test_diou_uses_hulls_of_unions() -> None:
    assert diou([(0.0, 1.0), (9.0, 10.0)], [(4.0, 6.0)]) == 0.0


@pytest.mark.parametrize("ratio", [iou, iop, iog, diou])
def test_an_empty_side_gives_zero(ratio: object) -> None:
    assert ratio([], [(1.0, 2.0)]) == ratio([(1.0, 2.0)], []) == ratio([], []) == 0.0  # type: ignore[operator]


def test_touching_intervals_are_one() -> None:
    assert merge([(0.0, 1.0), (1.0, 2.0)]) == [(0.0, 2.0)]


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=3,
    )
)
def test_times_of_any_size_give_finite_ratios(intervals: list[Interval]) -> None:
    clue = [(2.0, 5.0)]
    for ratio in (iou, iop, iog, diou):
        assert math.isfinite(ratio(intervals, clue))
        assert math.isfinite(ratio(clue, intervals))
        assert math.isfinite(ratio(intervals, intervals))


# 0.1 + 1.3 rounds to more than 1.4.
def test_a_rounding_does_not_pass_one() -> None:
    split = [(0.1, 0.2), (math.nextafter(0.2, 1), 1.5)]
    assert iop([(0.1, 1.5)], split) == iog(split, [(0.1, 1.5)]) == 1.0


# A hull of 3.4e308 s is more than the largest float: a part of it is nothing, all of it is one.
def test_lengths_beyond_the_largest_float() -> None:
    all_time, clue = [(-1.7e308, 1.7e308)], [(2.0, 5.0)]
    assert iou(all_time, clue) == iop(all_time, clue) == iog(clue, all_time) == 0.0
    assert iou(all_time, all_time) == iop(all_time, all_time) == 1.0


# One end at +-1e308, all else near zero: the centres lie half a hull apart, DIoU = 0 - (1/2)^2.
@pytest.mark.parametrize("huge", [(-1e308, 1e-3), (1e-3, 1e308)])
def test_a_hull_of_almost_all_time(huge: Interval) -> None:
    clue = [(1e-4, 2e-4)] if huge[0] > 0 else [(2e-3, 3e-3)]
    assert diou([huge], clue) == diou(clue, [huge]) == pytest.approx(-0.25)
