"""Hypothesis strategies: tasks, what a model writes, and the episodes that come of it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection
from typing import Any

from rewards.grounding import clue_intervals
from rewards.intervals import Interval
from rewards.testing._backend import strategies as st
from rewards.testing.episodes import BUDGET, RULES, play
from rewards.testing.exploits import ALL_KINDS, EXPLOITS
from rewards.testing.scripts import (
    Look,
    Script,
    WriteJson,
    answer,
    crop,
    duration_of,
    letters,
    right_answer,
    wrong_answer,
)
from videoseek_env.action import MIN_CROP_SECONDS
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video.clip import STRATEGIES

_COLOURS = ("red", "blue", "green", "yellow", "white")
_TEXTS = ("a red card", "two dogs", "12 metres", "in the kitchen")
_FRAGMENTS = (
    "A", "B. blue", "(C)", "<think>", "</think>", "<grounding>", "</grounding>", "<answer>",
    "</answer>", "<answer", '{"temporal_segment": ', '"sampling_strategy": ', "[3, 9]", "[9, 3]",
    "[-1e999, 4]", "[NaN, 5]", "[true, false]", "[null, {}]", "[" * 2000, "{" * 2000, "9" * 5000,
    ', "sampling_strategy": "fine"}', ', "sampling_strategy": "ultra"}', "'", '"', "}", "]", ",",
    "\\", "\n", "\r\n", "\x00", "\u202e", "🎬", "\ud800", " ", "<|video_pad|>", "{question}",
)  # fmt: skip


@st.composite
def tasks(
    draw: st.DrawFn, *, kinds: Collection[TaskKind] = ALL_KINDS, hostile: bool = False
) -> VideoTask:
    """Tasks on videos of 20 s to 600 s, their clues apart, each of a second or more.

    Together the clues take at most 30 % of the video. Single-clue kinds and temporal grounding have
    one clue, multi-clue kinds two to four, open-ended tasks one to three.

    Args:
        draw: Filled in by Hypothesis.
        kinds: Kinds to draw from.
        hostile: Also tasks as a careless dataset has them: clues that overlap, that fill the video
            or pass its end, no clues at all, no options.
    """
    kind = draw(st.sampled_from(sorted(kinds, key=ALL_KINDS.index)))
    duration = float(draw(_DURATIONS))
    answer_of, options = draw(_CHOICES if kind.is_multiple_choice else _OPEN)
    clues = draw(_clues(duration, *_CLUE_COUNTS.get(kind, (1, 1))))
    if hostile and draw(st.booleans()):
        fewest = int(kind is TaskKind.TEMPORAL_GROUNDING)
        clues = tuple(draw(st.lists(_segments(2 * duration), min_size=fewest, max_size=4)))
    return VideoTask(
        id="task",
        video="video.mp4",
        question="Which is it?",
        answer="" if kind is TaskKind.TEMPORAL_GROUNDING else answer_of,
        kind=kind,
        options=options,
        clues=clues,
        duration_seconds=duration,
        metadata={"labels": [1, 2], "nested": {"scores": []}},
    )


_DURATIONS = st.integers(20, 600)
_CHOICES = st.sampled_from(
    [
        *((letter, _COLOURS[:count]) for count in (2, 3, 5) for letter in "ABCDE"[:count]),
        *((letter, ()) for letter in "ABCD"),
    ]
)
"""The right letter and the options; none where the question lists them itself."""
_OPEN = st.sampled_from([(text, ()) for text in _TEXTS])
_CLUE_COUNTS = {
    TaskKind.MULTI_CLUE_TOOL: (2, 4),
    TaskKind.MULTI_CLUE_DIRECT: (2, 4),
    TaskKind.OPEN_ENDED: (1, 3),
}
"""Fewest and most clues; one for the other kinds."""


@st.composite
def _clues(draw: st.DrawFn, duration: float, fewest: int, most: int) -> tuple[Segment, ...]:
    """Clues in equal windows, a second free at each window's end."""
    count = draw(st.integers(fewest, most)) if fewest < most else most
    window = duration / count
    found = []
    for place in range(count):
        seconds = draw(_quarters(1.0, 0.3 * window))
        first = place * window
        start = draw(_quarters(first, first + window - 1 - seconds))
        found.append(Segment(start, start + seconds))
    return tuple(found)


def _quarters(low: float, high: float) -> st.SearchStrategy[float]:
    """Multiples of a quarter second in [low, high]: exact in floats, and easy to read."""
    return st.integers(math.ceil(4 * low), math.floor(4 * high)).map(lambda quarter: quarter / 4)


@st.composite
def _segments(draw: st.DrawFn, limit: float) -> Segment:
    """Any segment of a second or more in [0, limit]."""
    start = draw(_quarters(0.0, limit - 1))
    return Segment(start, draw(_quarters(start + 1, limit)))


@st.composite
def scripts(draw: st.DrawFn, task: VideoTask) -> Script:
    """Up to five crops that are carried out, near the clues or anywhere; an answer or none."""
    duration = duration_of(task)
    known = [
        (start, min(end, duration))
        for start, end in clue_intervals(task)
        if min(end, duration) - start >= MIN_CROP_SECONDS
    ]
    known.append((0.0, duration))
    looks = []
    for _ in range(draw(_UP_TO_FIVE)):
        place = draw(st.integers(0, len(known)))
        if place < len(known):
            start, end = known[place]
        else:
            part = draw(_segments(duration))
            start, end = part.start_seconds, part.end_seconds
        looks.append(Look(start, end, draw(_STRATEGIES)))
    told = draw(st.sampled_from([right_answer(task), wrong_answer(task), None]))
    return Script(task, tuple(looks), told)


_UP_TO_FIVE = st.integers(0, 5)
_STRATEGIES = st.sampled_from(STRATEGIES[::-1])


@st.composite
def replies(draw: st.DrawFn, task: VideoTask | None = None) -> str:
    """What a model may write in one turn, from a clean answer to rubble.

    Args:
        draw: Filled in by Hypothesis.
        task: Whose answers, clues and duration the reply is about; None for those of a minute.
    """
    shape = draw(_SHAPES)
    if shape == "clean answer":
        return answer(draw(st.sampled_from(_spoken(task))))
    if shape == "clean crop":
        clues = clue_intervals(task) if task else []
        return crop(*draw(st.sampled_from([*clues, (3.0, 9.0)])))
    if shape == "rubble":
        return draw(_RUBBLE)
    times = _quarters(-10, 120.0 if task is None else 2 * duration_of(task)) | st.floats()
    start, end = draw(times), draw(times)
    if shape == "timed answer":
        return answer((start, end), write=draw(json_writers()))
    reply = crop(
        start, end, draw(st.sampled_from([*STRATEGIES, "ultra"])), write=draw(json_writers())
    )
    return reply if shape == "any crop" else reply + draw(_RUBBLE)


_SHAPES = st.sampled_from(
    ["clean answer", "clean crop", "any crop", "timed answer", "sloppy crop", "rubble"]
)
_RUBBLE = st.lists(st.sampled_from(_FRAGMENTS) | st.text(max_size=20), max_size=8).map("".join)


def _spoken(task: VideoTask | None) -> list[str | Interval]:
    loose = ["(C)", "D. red", "b", "A. or B. or C.", "two dogs", ""]
    if task is None:
        return ["A", "B", *loose]
    exact = letters(task) if task.kind.is_multiple_choice else [task.answer]
    return [right_answer(task), wrong_answer(task), *exact, *loose]


def json_writers() -> st.SearchStrategy[WriteJson]:
    """Ways to write the same JSON with other white space; the first is the usual one."""
    return _WRITERS


def _tight(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))


def _indented(fields: dict[str, Any]) -> str:
    return json.dumps(fields, indent=2)


def _padded(fields: dict[str, Any]) -> str:
    return "\n " + json.dumps(fields, separators=(" ,\t", " : ")) + " \n"


_WRITERS: st.SearchStrategy[WriteJson] = st.sampled_from([json.dumps, _tight, _indented, _padded])

_RULES = st.sampled_from(
    [
        RULES,
        RULES,
        RULES,
        dataclasses.replace(RULES, max_turns=12),
        dataclasses.replace(RULES, max_turns=2),
        dataclasses.replace(RULES, max_clips=2),
        dataclasses.replace(RULES, force_answer=True),
        *(
            dataclasses.replace(RULES, budget=dataclasses.replace(BUDGET, context_tokens=tokens))
            for tokens in (20, 330)
        ),
        dataclasses.replace(RULES, budget=dataclasses.replace(BUDGET, max_reply_tokens=12)),
    ]
)
"""Limits of an episode: the usual ones, else few turns, clips or tokens."""
_ENDINGS = st.sampled_from(
    [None, EndReason.ABANDONED, EndReason.POLICY_FAILED, EndReason.VIDEO_FAILED]
)
"""How the host ends an episode that still runs."""


@st.composite
def trajectories(
    draw: st.DrawFn,
    task: st.SearchStrategy[VideoTask] | None = None,
    *,
    kinds: Collection[TaskKind] = ALL_KINDS,
) -> Trajectory:
    """Episodes as a real session leaves them, clean and hostile, with every ending.

    Args:
        draw: Filled in by Hypothesis.
        task: Tasks that state their duration; None for `tasks(kinds=kinds, hostile=True)`.
        kinds: Kinds of task, where `task` is None.
    """
    one = draw(tasks(kinds=kinds, hostile=True) if task is None else task)
    shape = draw(_EPISODES)
    if shape == "script":
        spoken = draw(scripts(one)).replies()
    elif shape == "exploit" and one.clues:
        spoken = draw(_exploits(one))
    else:
        spoken = tuple(draw(st.lists(replies(one), max_size=6)))
    return play(one, spoken, rules=draw(_RULES), ending=draw(_ENDINGS))


_EPISODES = st.sampled_from(["script", "replies", "exploit"])


def _exploits(task: VideoTask) -> st.SearchStrategy[tuple[str, ...]]:
    fitting = [exploit for exploit in EXPLOITS.values() if task.kind in exploit.kinds]
    return (
        st.sampled_from(fitting)
        .map(lambda exploit: [comparison.exploit for comparison in exploit.variants(task)])
        .flatmap(lambda found: st.sampled_from(found or [()]))
    )
