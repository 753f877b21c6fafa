"""Arithmetic of time intervals: sets of [start, end) ranges, in any order, overlapping or not."""

from __future__ import annotations

import math
from collections.abc import Iterable

Interval = tuple[float, float]
"""Start and end in seconds, start < end."""


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """The union as disjoint ascending intervals; touching ones are joined, empty ones dropped.

    >>> merge([(5, 8), (1, 3), (3, 4), (2, 2)])
    [(1, 4), (5, 8)]
    """
    merged: list[Interval] = []
    for start, end in sorted(interval for interval in intervals if interval[0] < interval[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def length(intervals: Iterable[Interval]) -> float:
    """Seconds that the union covers.

    >>> length([(0, 4), (2, 6)])
    6.0
    """
    return float(sum(end - start for start, end in merge(intervals)))


def overlap(first: Iterable[Interval], second: Iterable[Interval]) -> float:
    """Seconds that both unions cover.

    >>> overlap([(0, 4)], [(3, 5), (1, 2)])
    2.0
    """
    a, b = merge(first), merge(second)
    total, i, j = 0.0, 0, 0
    while i < len(a) and j < len(b):
        total += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return total


def iou(predicted: Iterable[Interval], truth: Iterable[Interval]) -> float:
    """Intersection over union, in [0, 1]; 0 if either side is empty.

    >>> iou([(0, 4)], [(2, 6)])
    0.3333333333333333
    """
    predicted, truth = merge(predicted), merge(truth)
    both = overlap(predicted, truth)
    return _ratio(both, length(predicted) + length(truth) - both)


def iop(predicted: Iterable[Interval], truth: Iterable[Interval]) -> float:
    """Intersection over the predicted length (precision), in [0, 1]; 0 if either side is empty.

    >>> iop([(0, 4)], [(2, 6)])
    0.5
    """
    predicted = merge(predicted)
    return _ratio(overlap(predicted, truth), length(predicted))


def iog(predicted: Iterable[Interval], truth: Iterable[Interval]) -> float:
    """Intersection over the true length (recall, coverage), in [0, 1]; 0 if either side is empty.

    >>> iog([(0, 4)], [(2, 10)])
    0.25
    """
    truth = merge(truth)
    return _ratio(overlap(predicted, truth), length(truth))


def diou(predicted: Iterable[Interval], truth: Iterable[Interval]) -> float:
    """Distance IoU, in (-1, 1]: how far off, also where nothing overlaps.

    DIoU = IoU - (distance of the hulls' centres)^2 / (length of the joint hull)^2; 0 if a side is
    empty.

    >>> diou([(0, 4)], [(2, 6)])
    0.2222222222222222
    """
    predicted, truth = merge(predicted), merge(truth)
    if not predicted or not truth:
        return 0.0
    (p0, p1), (t0, t1) = _hull(predicted), _hull(truth)
    # In units of the farthest end, so that times near the largest float don't overflow.
    unit = max(abs(p0), abs(p1), abs(t0), abs(t1))
    distance = abs((p0 / unit + p1 / unit) - (t0 / unit + t1 / unit)) / 2
    hull = max(p1, t1) / unit - min(p0, t0) / unit
    return iou(predicted, truth) - (distance / hull) ** 2


def _hull(merged: list[Interval]) -> Interval:
    return merged[0][0], merged[-1][1]


def _ratio(numerator: float, denominator: float) -> float:
    if not math.isfinite(denominator):  # times near the largest float
        return 0.0 if math.isfinite(numerator) else 1.0
    return min(1.0, numerator / denominator) if denominator > 0 else 0.0
