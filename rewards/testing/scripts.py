"""What an agent does, apart from how it writes it: crops and an answer, which can be rewritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from rewards.grounding import clue_intervals
from rewards.intervals import Interval, merge
from videoseek_env.action import MIN_CROP_SECONDS, write_answer
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.video.clip import Strategy

WRONG_TEXT = "none of these"
TOOL_KINDS = (TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL)

WriteJson = Callable[[dict[str, Any]], str]
"""Writes the fields of a grounding as JSON."""


class Look(NamedTuple):
    """One crop."""

    start_seconds: float
    end_seconds: float
    strategy: Strategy = "fine"


@dataclass(frozen=True, slots=True)
class Script:
    """An agent's crops and its answer."""

    task: VideoTask
    looks: tuple[Look, ...]
    answer: str | Interval | None
    """A text, a segment in seconds, or None to stop without an answer."""

    def replies(self, write: WriteJson = json.dumps) -> tuple[str, ...]:
        """The replies, in the strict form."""
        crops = tuple(crop(*look, write=write) for look in self.looks)
        return crops if self.answer is None else (*crops, answer(self.answer, write=write))

    def on_another_clock(self, clock: Callable[[float], float]) -> Script:
        """The same crops and answer of a video whose clues lie elsewhere on the timeline."""
        clues = (Segment(clock(s), clock(e)) for s, e in clue_intervals(self.task))
        looks = (Look(clock(start), clock(end), how) for start, end, how in self.looks)
        told = self.answer
        if isinstance(told, tuple):
            told = clock(told[0]), clock(told[1])
        return Script(replace(self.task, clues=tuple(clues)), tuple(looks), told)

    @property
    def times(self) -> list[float]:
        """Every time in seconds that the task or the replies name."""
        told = [self.answer] if isinstance(self.answer, tuple) else []
        looks = [look[:2] for look in self.looks]
        return [time for pair in (*clue_intervals(self.task), *looks, *told) for time in pair]


def crop(
    start: float,
    end: float,
    strategy: Strategy = "fine",
    *,
    think: str = "I look.",
    write: WriteJson = json.dumps,
) -> str:
    """A reply that crops, in the strict form, whatever the times: also where they make no sense."""
    fields = {"temporal_segment": [start, end], "sampling_strategy": strategy}
    return f"<think>{think}</think><grounding>{write(fields)}</grounding>"


def answer(told: str | Interval, *, think: str = "So.", write: WriteJson = json.dumps) -> str:
    """A reply that answers, in the strict form."""
    text = told if isinstance(told, str) else write({"temporal_segment": list(told)})
    return write_answer(think, text)


def right_answer(task: VideoTask) -> str | Interval:
    """What the task wants to hear; the first clue for temporal grounding."""
    return clue_intervals(task)[0] if task.kind is TaskKind.TEMPORAL_GROUNDING else task.answer


def wrong_answer(task: VideoTask) -> str | Interval:
    """Another letter, another text, or a segment that meets no clue."""
    if task.kind is TaskKind.TEMPORAL_GROUNDING:
        return next(iter(gaps(task)), WRONG_TEXT)
    return letters(task)[1] if task.kind.is_multiple_choice else WRONG_TEXT


def letters(task: VideoTask) -> list[str]:
    """The letters of a choice, the right one first; of four where the options are unknown."""
    known = [option[0] for option in task.lettered_options] or list("ABCD")
    return [task.answer, *(letter for letter in known if letter != task.answer)]


def gold_script(task: VideoTask) -> Script:
    """What no trajectory of the task should beat.

    Tool and open-ended questions: each clue cropped exactly, in order, and the right answer. Direct
    questions and temporal grounding: the right answer at once.
    """
    needs_crops = task.kind in TOOL_KINDS or task.kind is TaskKind.OPEN_ENDED
    looks = tuple(Look(*clue) for clue in clue_intervals(task)) if needs_crops else ()
    return Script(task, looks, right_answer(task))


def gaps(task: VideoTask) -> list[Interval]:
    """Stretches of at least a second that show no clue, the longest first."""
    clues = merge(clue_intervals(task))
    starts = [0.0, *(end for _, end in clues)]
    ends = [*(start for start, _ in clues), task.duration_seconds or 0.0]
    found = [
        (start, end)
        for start, end in zip(starts, ends, strict=True)
        if end - start >= MIN_CROP_SECONDS
    ]
    return sorted(found, key=lambda gap: gap[0] - gap[1])


def duration_of(task: VideoTask) -> float:
    """Length of a task's video as the task states it, in seconds.

    Raises:
        ValueError: If it states none.
    """
    if task.duration_seconds is None:
        raise ValueError(f"task {task.id!r} states no duration_seconds")
    return task.duration_seconds


def example_task(kind: TaskKind) -> VideoTask:
    """A typical task: 100 s of video, the clue at 40 s to 50 s, or two at 20 s and 60 s."""
    single, several = (Segment(40.0, 50.0),), (Segment(20.0, 30.0), Segment(60.0, 70.0))
    is_multi = kind in (TaskKind.MULTI_CLUE_TOOL, TaskKind.MULTI_CLUE_DIRECT)
    is_choice = kind.is_multiple_choice
    return VideoTask(
        id=f"example-{kind}",
        video="video.mp4",
        question="Which colour does the card have?",
        answer="B" if is_choice else "a blue card" if kind is TaskKind.OPEN_ENDED else "",
        kind=kind,
        options=("red", "blue", "green", "yellow") if is_choice else (),
        clues=several if is_multi else single,
        duration_seconds=100.0,
    )
