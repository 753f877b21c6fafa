"""A trajectory's timeline, ready to be drawn: who looked where, and where the clues are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videoseek_env.action import Crop
from videoseek_env.render.text import clock
from videoseek_env.render.timeline import tick_seconds
from videoseek_env.segment import Segment
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video.clip import ClipRef

UNITS = 1000
"""Width of the drawing: positions are thousandths of the video."""
LANE_PX = 18
_TICK_TOP, _TICK_BOTTOM = 5, 13
_MAX_TICK_LABELS = 9


@dataclass(frozen=True, slots=True)
class Box:
    """A stretch of the timeline, in thousandths of the video."""

    left: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One clip: its stretch and its frames."""

    label: str
    strategy: str
    box: Box
    ticks: str
    """SVG path data: a stroke per frame."""
    top_px: int
    is_refused: bool = False
    """Whether the crop was asked for and not carried out."""


@dataclass(frozen=True, slots=True)
class Label:
    """A moment on the axis."""

    percent: float
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Everything that a template needs to draw."""

    clues: tuple[Box, ...]
    lanes: tuple[Lane, ...]
    labels: tuple[Label, ...]
    height_px: int
    description: str
    """The same in words, for those who can't see it."""


def draw_timeline(trajectory: Trajectory) -> Timeline:
    """Lay out a trajectory: a lane for each clip seen, one more for a crop that a limit refused."""
    duration = max(trajectory.duration_seconds, 1e-9)
    lanes: list[Lane] = []
    for number, turn in enumerate(trajectory.turns, start=1):
        if turn.clip is not None:
            lanes.append(_lane(turn.clip, number, duration, top_px=LANE_PX * len(lanes)))
    refused = _refused_crop(trajectory)
    if refused is not None:
        lanes.append(_refused_lane(refused, duration, top_px=LANE_PX * len(lanes)))
    clues = trajectory.task.clues
    return Timeline(
        clues=tuple(_box(clue, duration, f"Clue: {clue}") for clue in clues),
        lanes=tuple(lanes),
        labels=tuple(
            Label(100 * moment / duration, clock(moment))
            for moment in tick_seconds(duration, max_ticks=_MAX_TICK_LABELS)
        ),
        height_px=LANE_PX * max(len(lanes), 1),
        description=_describe(clues, lanes),
    )


def _refused_crop(trajectory: Trajectory) -> Crop | None:
    """The crop that ended the episode: every earlier one was followed by its frames.

    So was the last one where the policy failed, or the host stopped the episode.
    """
    is_open = trajectory.end_reason in (None, EndReason.POLICY_FAILED, EndReason.ABANDONED)
    if not trajectory.turns or is_open:
        return None
    action = trajectory.turns[-1].action
    return action if isinstance(action, Crop) else None


def _lane(clip: ClipRef, turn: int, duration_seconds: float, *, top_px: int) -> Lane:
    title = (
        f"Turn {turn}, {clip.strategy}: {clip.segment}, {len(clip.indices)} frames of "
        f"{clip.width} x {clip.height} px, {clip.visual_tokens} visual tokens"
    )
    strokes = (
        f"M{UNITS * moment / duration_seconds:.1f} {top_px + _TICK_TOP}V{top_px + _TICK_BOTTOM}"
        for moment in clip.timestamps_seconds
    )
    return Lane(
        label=f"{turn} {clip.strategy}",
        strategy=clip.strategy,
        box=_box(clip.segment, duration_seconds, title),
        ticks="".join(strokes),
        top_px=top_px,
    )


def _refused_lane(crop: Crop, duration_seconds: float, *, top_px: int) -> Lane:
    title = f"Asked for and not shown: {crop.segment}, {crop.strategy}"
    return Lane(
        label="refused",
        strategy=crop.strategy,
        box=_box(crop.segment, duration_seconds, title),
        ticks="",
        top_px=top_px,
        is_refused=True,
    )


def _box(segment: Segment, duration_seconds: float, title: str) -> Box:
    left = min(UNITS * segment.start_seconds / duration_seconds, UNITS - 2)
    right = min(UNITS * segment.end_seconds / duration_seconds, UNITS)
    return Box(round(left, 1), round(max(right - left, 2), 1), title)


def _describe(clues: Sequence[Segment], lanes: Sequence[Lane]) -> str:
    where = ", ".join(str(clue) for clue in clues) or "none marked"
    return f"Timeline. Clues: {where}. {'. '.join(lane.box.title for lane in lanes)}"
