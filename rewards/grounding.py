"""Which stretches of the video an agent pointed at, and how well they meet the clues."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from rewards.intervals import Interval, diou, iog, iop, iou, merge
from rewards.reward import Reward
from videoseek_env.action import read_json, tag_blocks
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory
from videoseek_env.video.clip import ClipRef


def clue_intervals(task: VideoTask) -> list[Interval]:
    """The clues of a task."""
    return [(clue.start_seconds, clue.end_seconds) for clue in task.clues]


def grounded_intervals(replies: Iterable[str]) -> list[Interval]:
    """Every segment that the replies ground, as the reward reads them.

    Of each `<grounding>` that is strict JSON with a list of two finite numbers; reversed ends are
    swapped, nothing is clamped, zero length is kept out.

    Source: arXiv 2601.23224.

    >>> grounded_intervals(['<grounding>{"temporal_segment": [9, 5]}</grounding>', "no tag"])
    [(5.0, 9.0)]
    """
    found = (
        read_interval(content) for reply in replies for content in tag_blocks(reply, "grounding")
    )
    return [interval for interval in found if interval is not None]


def answered_interval(answer: str) -> Interval | None:
    """The segment that a temporal-grounding answer names, or None.

    >>> answered_interval('{"temporal_segment": [2, 4.5]}')
    (2.0, 4.5)
    """
    return read_interval(answer)


def read_interval(content: str) -> Interval | None:
    """The segment of a strict JSON object with the key "temporal_segment", or None."""
    fields = read_json(content)
    times = fields.get("temporal_segment") if isinstance(fields, dict) else None
    if not (isinstance(times, list) and len(times) == 2):
        return None
    first, second = _seconds(times[0]), _seconds(times[1])
    if first is None or second is None or first == second:
        return None
    return min(first, second), max(first, second)


def ordered_interval(times: Any) -> Interval | None:
    """A ground truth's [start, end], or None unless both are finite numbers and start < end."""
    if not (isinstance(times, Sequence) and len(times) == 2):
        return None
    start, end = _seconds(times[0]), _seconds(times[1])
    return None if start is None or end is None or start >= end else (start, end)


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None


def single_clue_quality(predicted: Iterable[Interval], truth: Iterable[Interval]) -> float:
    """How well crops meet one clue: g1 = (IoU + IoP + IoG + (DIoU + 1) / 2) / 4, in [0, 1].

    An empty side makes it 0. Source: arXiv 2601.23224.

    >>> single_clue_quality([(2, 4)], [(2, 4)])
    1.0
    """
    predicted, truth = merge(predicted), merge(truth)
    if not predicted or not truth:
        return 0.0
    distance = (diou(predicted, truth) + 1) / 2
    return (iou(predicted, truth) + iop(predicted, truth) + iog(predicted, truth) + distance) / 4


def multi_clue_quality(predicted: Iterable[Interval], truth: Iterable[Interval]) -> float:
    """How well crops meet several clues: g2 = (2 IoU + IoP + IoG) / 4, in [0, 1].

    An empty side makes it 0. Source: arXiv 2601.23224.

    >>> multi_clue_quality([(0, 4)], [(0, 2), (2, 4)])
    1.0
    """
    predicted, truth = merge(predicted), merge(truth)
    return (2 * iou(predicted, truth) + iop(predicted, truth) + iog(predicted, truth)) / 4


def coverage(shown: Iterable[Interval], truth: Iterable[Interval]) -> float:
    """The mean share of each clue that is covered, in [0, 1]: every clue counts the same.

    >>> coverage([(0, 5)], [(0, 5), (10, 100)])
    0.5
    """
    shown = merge(shown)
    shares = [iog(shown, [clue]) for clue in truth]
    return sum(shares) / len(shares) if shares else 0.0


def shown_intervals(clips: Iterable[ClipRef]) -> list[Interval]:
    """The stretches of the crops that were carried out, the overview left out."""
    return [
        (clip.segment.start_seconds, clip.segment.end_seconds)
        for clip in clips
        if clip.strategy != "overview"
    ]


METRICS = MappingProxyType(
    {
        "iou": iou,
        "iop": iop,
        "iog": iog,
        "diou": diou,
        "coverage": coverage,
        "single": single_clue_quality,
        "multi": multi_clue_quality,
    }
)
"""Ways to compare crops with clues, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounding:
    """How well the crops meet the clues, in [0, 1]; in (-1, 1] for "diou".

    Raises:
        ValueError: If the metric or the source is unknown.
    """

    metric: str = "iou"
    """A name in `METRICS`."""
    source: Literal["written", "shown"] = "shown"
    """Crops as the replies write them, or as they were carried out."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")
        if self.source not in ("written", "shown"):
            raise ValueError(f'source must be "written" or "shown", got {self.source!r}')

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
        predicted = (
            shown_intervals(trajectory.clips)
            if self.source == "shown"
            else grounded_intervals(trajectory.replies)
        )
        return Reward(METRICS[self.metric](predicted, clue_intervals(trajectory.task)))
