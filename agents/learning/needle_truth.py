"""What a clip of a needle video shows, in words, by the task's truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from videoseek_env.errors import ConfigError
from videoseek_env.task import VideoTask
from videoseek_env.video.clip import ClipRef

TEMPLATES: Final = (
    "card_digit", "card_sum", "card_pair", "hop_card_digit", "banner_letter", "banner_colour",
    "shape_count", "banner_order", "hop_banner_letter",
)  # fmt: skip
"""The questions with options, as `VideoTask.metadata` names them."""

_NOTHING: Final = "none"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a pair of frames shows."""

    event: int | None
    """Its place among the scene's events; None where there is nothing."""
    text: str
    """Such as "red card", "red 5" for its face, "blue banner K", "green star" or "none"."""


def describe_pairs(ref: ClipRef, task: VideoTask) -> list[Seen]:
    """What each pair of a clip's frames shows, by the task's truth; a face before anything else.

    Args:
        ref: A clip of the task's video.
        task: Of the needle set.

    Raises:
        ConfigError: If the task is of another dataset.
    """
    events = truth_of(task)["events"]
    frames = [_describe_time(seconds, events) for seconds in ref.timestamps_seconds]
    pairs = [frames[start : start + 2] for start in range(0, len(frames), 2)]
    return [max(pair, key=_importance) for pair in pairs]


def _importance(seen: Seen) -> int:
    return 0 if seen.event is None else 2 if seen.text[-1].isdigit() else 1


def _describe_time(seconds: float, events: Sequence[Mapping[str, Any]]) -> Seen:
    for place, event in enumerate(events):
        if holds(event["span"], seconds):
            return Seen(place, name_of(event, is_face=holds(event["reveal"], seconds)))
    return Seen(None, _NOTHING)


def holds(span: Sequence[float] | None, seconds: float) -> bool:
    """Whether a time lies in a half-open span, whose ends are times of frames."""
    return span is not None and span[0] - 1e-6 <= seconds < span[1] - 1e-6


def name_of(event: Mapping[str, Any], *, is_face: bool = False) -> str:
    """An event in the words of a thought.

    Args:
        event: As in a task's metadata.
        is_face: Of a card: whether its digit shows.
    """
    if event["kind"] == "banner":
        return f"{event['colour']} banner {event['symbol']}"
    if event["kind"] == "shape" or is_face:
        return f"{event['colour']} {event['symbol']}"
    return f"{event['colour']} card"


def truth_of(task: VideoTask) -> Mapping[str, Any]:
    """The metadata of a task of the needle set.

    Raises:
        ConfigError: If the task is of another dataset, or of a kind without options.
    """
    if task.metadata.get("template") not in TEMPLATES:
        raise ConfigError(
            f"task {task.id!r} has no demonstration: expected a multiple-choice task of the needle "
            f"set, of a template among {', '.join(TEMPLATES)}"
        )
    return task.metadata
