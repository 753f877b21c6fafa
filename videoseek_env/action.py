"""The reply grammar: what a model writes, and what it means.

A reply is `<think>..</think>` and then either
`<grounding>{"temporal_segment": [t0, t1], "sampling_strategy": "fine"}</grounding>` or
`<answer>..</answer>` (arXiv 2601.23224). Reading is lenient, because a slip costs the agent a turn
and not the episode; whether the form was strictly right is the format reward's business.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from videoseek_env.segment import Segment
from videoseek_env.video.clip import STRATEGIES, Strategy

MIN_CROP_SECONDS = 1.0
"""The shortest crop, after clamping to the video."""
_ROUNDING_SECONDS = 1e-6
"""[0.2, 1.2] spans a second, though its floats do not."""


class Fault(StrEnum):
    """Why a reply could not be carried out."""

    NO_ACTION = "no_action"
    """Neither a complete grounding nor a complete answer."""
    BAD_JSON = "bad_json"
    """The grounding holds no JSON object."""
    MISSING_KEY = "missing_key"
    """The grounding lacks one of its two keys."""
    BAD_SEGMENT = "bad_segment"
    """The segment is not a list of two finite numbers."""
    EMPTY_SEGMENT = "empty_segment"
    """The segment is shorter than a second once it is clamped to the video."""
    BAD_STRATEGY = "bad_strategy"
    """The strategy is none of coarse, medium, fine."""


@dataclass(frozen=True, slots=True)
class Crop:
    """Look at a segment again, at a visual-token quota."""

    segment: Segment
    """Clamped to the video."""
    strategy: Strategy


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The answer; it ends the episode."""

    text: str
    """Stripped of surrounding white space."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A reply that can't be carried out."""

    fault: Fault
    message: str
    """What was expected and what was got, in words that help the agent."""


Action = Crop | FinalAnswer | Malformed


def tag_blocks(text: str, tag: str) -> Iterator[str]:
    """The contents of every `<tag>..</tag>`, first opening to next closing, in linear time.

    >>> list(tag_blocks("<a>1</a> <a>2", "a"))
    ['1']
    """
    opening, closing = f"<{tag}>", f"</{tag}>"
    position = 0
    while (start := text.find(opening, position)) >= 0:
        start += len(opening)
        end = text.find(closing, start)
        if end < 0:
            return
        yield text[start:end]
        position = end + len(closing)


def last_block(text: str, tag: str) -> str | None:
    """The content of the last complete `<tag>..</tag>`, or None."""
    content = None
    for content in tag_blocks(text, tag):  # noqa: B007
        pass
    return content


def parse_reply(text: str, *, duration_seconds: float, start_seconds: float = 0.0) -> Action:
    """Read a reply. It never raises, whatever the text.

    An answer wins over a grounding in the same reply. Of several blocks the last one counts.

    Args:
        text: The whole reply.
        duration_seconds: End of the video's timeline, in seconds; segments are clamped to it.
        start_seconds: Start of the timeline: zero but for videos whose first frame comes late.

    >>> parse_reply("<think>done</think><answer> B </answer>", duration_seconds=60.0)
    FinalAnswer(text='B')
    """
    answer = last_block(text, "answer")
    if answer is not None:
        return FinalAnswer(answer.strip())
    grounding = last_block(text, "grounding")
    if grounding is None:
        return Malformed(
            Fault.NO_ACTION,
            "Expected <grounding>{...}</grounding> or <answer>...</answer>, found neither.",
        )
    return _parse_grounding(grounding, start_seconds, duration_seconds)


def _parse_grounding(content: str, first_seconds: float, last_seconds: float) -> Crop | Malformed:
    fields = _lenient_json_object(content)
    if fields is None:
        return Malformed(Fault.BAD_JSON, "Expected one JSON object inside <grounding>.")
    for key in ("temporal_segment", "sampling_strategy"):
        if key not in fields:
            return Malformed(Fault.MISSING_KEY, f'The grounding lacks the key "{key}".')
    times = fields["temporal_segment"]
    if not (isinstance(times, list) and len(times) == 2 and all(map(_is_finite_number, times))):
        return Malformed(
            Fault.BAD_SEGMENT, '"temporal_segment" must be a list of two finite numbers of seconds.'
        )
    # Clamp before converting: a huge integer does not fit a float. And no minus zero.
    start, end = (float(min(max(time, first_seconds), last_seconds)) + 0.0 for time in times)
    if start > end - MIN_CROP_SECONDS + _ROUNDING_SECONDS:
        return Malformed(
            Fault.EMPTY_SEGMENT,
            f"The segment must span at least {MIN_CROP_SECONDS:g} s inside the video "
            f"({first_seconds:.1f} s to {last_seconds:.1f} s), "
            f"but runs from {start:.1f} s to {end:.1f} s.",
        )
    strategy = fields["sampling_strategy"]
    for known in STRATEGIES:
        if strategy == known:
            return Crop(Segment(start, end), known)
    return Malformed(Fault.BAD_STRATEGY, f'"sampling_strategy" must be one of {STRATEGIES}.')


def _lenient_json_object(content: str) -> dict[str, Any] | None:
    """The object between the first `{` and the last `}`, single quotes forgiven."""
    candidate = content[content.find("{") : content.rfind("}") + 1]
    for attempt in (candidate, candidate.replace("'", '"')):
        value = read_json(attempt)
        if isinstance(value, dict):
            return value
    return None


def read_json(text: str) -> Any:
    """The JSON value of a model's text, or None where it is not JSON.

    A model can write what breaks a parser in other ways than by a syntax error: thousands of
    brackets (RecursionError), or an integer of thousands of digits (ValueError).
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def write_crop(think: str, segment: Segment, strategy: Strategy) -> str:
    """The reply that thinks and then crops, in the strict form.

    >>> write_crop("A card!", Segment(3.0, 9.5), "fine").partition("</think>")[2]
    '<grounding>{"temporal_segment": [3.0, 9.5], "sampling_strategy": "fine"}</grounding>'
    """
    fields = {
        "temporal_segment": [segment.start_seconds, segment.end_seconds],
        "sampling_strategy": strategy,
    }
    return f"<think>{think}</think><grounding>{json.dumps(fields)}</grounding>"


def write_answer(think: str, answer: str) -> str:
    """The reply that thinks and then answers, in the strict form.

    >>> write_answer("It is red.", "B")
    '<think>It is red.</think><answer>B</answer>'
    """
    return f"<think>{think}</think><answer>{answer}</answer>"
