"""A question about a video, with its answer and the moments that prove it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from string import ascii_uppercase
from typing import Any

from videoseek_env.errors import SegmentError, TaskError
from videoseek_env.segment import Segment


class TaskKind(StrEnum):
    """What a question asks for; it decides the reward's formula (arXiv 2601.23224).

    The four quadrants carry the names of the published data.
    """

    SINGLE_CLUE_TOOL = "clue_single_w_tool"
    """One clue, which only a crop shows."""
    MULTI_CLUE_TOOL = "clue_multi_w_tool"
    """Several clues, which only crops show."""
    SINGLE_CLUE_DIRECT = "clue_single_wo_tool"
    """One clue, visible in the overview."""
    MULTI_CLUE_DIRECT = "clue_multi_wo_tool"
    """Several clues, visible in the overview."""
    OPEN_ENDED = "open_ended"
    """A free-text answer."""
    TEMPORAL_GROUNDING = "temporal_grounding"
    """The answer is a time segment."""

    @property
    def is_multiple_choice(self) -> bool:
        """Whether the answer is an option's letter."""
        return self not in (TaskKind.OPEN_ENDED, TaskKind.TEMPORAL_GROUNDING)


@dataclass(frozen=True, slots=True)
class VideoTask:
    """One question about one video.

    Raises:
        TaskError: On an empty id, video or question, an unknown kind, an answer that is none of the
            options, more than 26 options, a length or rate that is not above zero, and a
            temporal-grounding task without a clue.
    """

    id: str
    """Unique within its dataset."""
    video: str
    """Path of a video file, or of a folder of frames."""
    question: str
    answer: str
    """The option's letter, the free text, or empty for temporal grounding."""
    kind: TaskKind
    options: tuple[str, ...] = ()
    """The options' texts, without letters; empty where the question lists them itself."""
    clues: tuple[Segment, ...] = ()
    """The moments that prove the answer; for temporal grounding they are the answer."""
    duration_seconds: float | None = None
    """Length as the dataset states it; None if it does not. The decoder's word wins."""
    frame_fps: float | None = None
    """Frames per second of a folder of frames; None for a video file."""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Whatever else the dataset knows, JSON-serialisable."""

    def __post_init__(self) -> None:
        for name in ("id", "video", "question", "answer"):
            if not isinstance(getattr(self, name), str):
                raise TaskError(
                    f"task {self.id!r}: {name} must be text, got {getattr(self, name)!r}"
                )
        for name in ("id", "video", "question"):
            if not getattr(self, name):
                raise TaskError(f"task {self.id!r}: {name} is empty")
        object.__setattr__(self, "kind", self._read_kind())
        for name in ("options", "clues"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise TaskError(f"task {self.id!r}: {name} must be a list, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        if not all(isinstance(option, str) for option in self.options):
            raise TaskError(f"task {self.id!r}: options must be texts, got {self.options}")
        if not all(isinstance(clue, Segment) for clue in self.clues):
            raise TaskError(f"task {self.id!r}: clues must be segments, got {self.clues}")
        for name in ("duration_seconds", "frame_fps"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise TaskError(f"task {self.id!r}: {name} must be above zero, got {value}")
        self._check_answer()

    def _read_kind(self) -> TaskKind:
        try:
            return TaskKind(self.kind)
        except ValueError as error:
            kinds = ", ".join(TaskKind)
            raise TaskError(f"task {self.id!r}: {error}; choose one of {kinds}") from error

    def _check_answer(self) -> None:
        if self.kind is TaskKind.TEMPORAL_GROUNDING:
            if not self.clues:
                raise TaskError(f"task {self.id!r}: temporal grounding needs at least one clue")
        elif not self.answer:
            raise TaskError(f"task {self.id!r}: answer is empty")
        if len(self.options) > len(ascii_uppercase):
            raise TaskError(
                f"task {self.id!r}: {len(self.options)} options; at most 26 have letters"
            )
        if self.kind.is_multiple_choice and self.options:
            letters = ascii_uppercase[: len(self.options)]
            if len(self.answer) != 1 or self.answer not in letters:
                raise TaskError(
                    f"task {self.id!r}: answer is {self.answer!r}, expected one letter of {letters}"
                )

    @property
    def lettered_options(self) -> tuple[str, ...]:
        """The options as they are shown: "A. red", "B. blue", ..."""
        return tuple(
            f"{letter}. {text}" for letter, text in zip(ascii_uppercase, self.options, strict=False)
        )

    def to_dict(self) -> dict[str, Any]:
        """The task as JSON-serialisable fields; `from_dict` reads them back."""
        return {
            "id": self.id,
            "video": self.video,
            "question": self.question,
            "options": list(self.options),
            "answer": self.answer,
            "clues": [[clue.start_seconds, clue.end_seconds] for clue in self.clues],
            "kind": self.kind.value,
            "duration_seconds": self.duration_seconds,
            "frame_fps": self.frame_fps,
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> VideoTask:
        """Read a task from the fields that `to_dict` writes; all but the first five may be absent.

        Raises:
            TaskError: If a field is missing, unknown, or of the wrong type.
        """
        name = fields.get("id", "?")
        required = {"id", "video", "question", "answer", "kind"}
        optional = {"options", "clues", "duration_seconds", "frame_fps", "metadata"}
        if missing := sorted(required - fields.keys()):
            raise TaskError(f"task {name!r}: missing {', '.join(missing)}")
        if unknown := sorted(fields.keys() - required - optional):
            raise TaskError(f"task {name!r}: unknown {', '.join(map(str, unknown))}")
        try:
            return cls(
                id=str(name) if type(name) is int else name,
                video=fields["video"],
                question=fields["question"],
                answer=fields["answer"],
                kind=fields["kind"],
                options=fields.get("options") or (),
                clues=tuple(Segment(float(s), float(e)) for s, e in fields.get("clues") or ()),
                duration_seconds=_optional_float(fields.get("duration_seconds")),
                frame_fps=_optional_float(fields.get("frame_fps")),
                metadata=dict(fields.get("metadata") or {}),
            )
        except TaskError:
            raise
        except (SegmentError, TypeError, ValueError, OverflowError) as error:
            raise TaskError(f"task {name!r}: {error}") from error


def _optional_float(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]
