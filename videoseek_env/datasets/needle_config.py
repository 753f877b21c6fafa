"""What a set of procedural videos is like."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from videoseek_env.budget import Budget, get_budget
from videoseek_env.errors import DatasetError
from videoseek_env.task import TaskKind

GENERATOR_VERSION: Final = 1
"""Raised whenever the same configuration would give other tasks or other pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedleConfig:
    """A set of procedural videos and the questions about them.

    Raises:
        DatasetError: If a field is outside its range.
        BudgetError: If no preset has the budget's name.
    """

    videos: int = 4
    """Number of videos; a larger set starts with the videos of a smaller one."""
    tasks_per_video: int = 6
    """Questions about each video, going round the kinds; some may repeat where they are many."""
    kinds: tuple[TaskKind, ...] = tuple(TaskKind)
    """Kinds of question to ask."""
    width: int = 640
    """Pixels, even."""
    height: int = 360
    """Pixels, even."""
    fps: int = 5
    """Frames per second, at least 1."""
    duration_seconds: tuple[float, float] = (210.0, 240.0)
    """Shortest and longest video in seconds, both included."""
    gop_frames: int = 50
    """Frames from one keyframe to the next; each card adds one more when it turns back."""
    budget: str | Budget = "laptop"
    """A preset's name or a budget: what its overview shows decides when digits are face up."""
    cards: int | None = None
    """Cards in each video, at most 8; None takes up to 5, as many as the overview has room for."""
    banners: int | None = None
    """Banners in each video, at most 8; None takes up to 4."""
    shapes: int | None = None
    """Stars, circles, triangles and squares in each video, at most 16; None takes up to 5."""
    clutter: float = 1.0
    """Contrast of the background and number of small moving things, in [0, 1]; 0 is plain."""
    jitter: float = 1.0
    """How far from the centre things may appear, in [0, 1]; 0 is the centre."""
    quantiser: int = 24
    """Quality of H.264 in [0, 40]; lower is better and larger."""
    seed: int = 0
    """Another seed gives other videos; at least 0."""
    split: str = "train"
    """Name of the split; the same seed gives other videos in another split."""

    def __post_init__(self) -> None:
        get_budget(self.budget)
        if isinstance(self.kinds, str):
            raise DatasetError(
                f"kinds must be a tuple, got {self.kinds!r}; write ({self.kinds!r},)"
            )
        try:
            kinds = tuple(TaskKind(kind) for kind in self.kinds)
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{error}; choose from {', '.join(TaskKind)}") from error
        object.__setattr__(self, "kinds", kinds)
        try:
            shortest, longest = self.duration_seconds
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"duration_seconds must be (shortest, longest), got {self.duration_seconds}"
            ) from error
        object.__setattr__(self, "duration_seconds", (shortest, longest))
        for wrong, message in self._rules():
            if wrong:
                raise DatasetError(message)

    def _rules(self) -> list[tuple[bool, str]]:
        """Each rule: whether it is broken, and what to say then."""
        sides = (self.width, self.height)
        shortest, longest = self.duration_seconds
        counts = {
            "cards": (self.cards, 8),
            "banners": (self.banners, 8),
            "shapes": (self.shapes, 16),
        }
        at_least_one = ("videos", "tasks_per_video", "fps", "gop_frames")
        return [
            *((getattr(self, name) < 1, f"{name} must be at least 1, got {getattr(self, name)}")
              for name in at_least_one),
            (not self.kinds, "kinds is empty; name at least one kind of question"),
            (any(side < 64 or side % 2 for side in sides),
             f"width and height must be even and at least 64 pixels, got {sides}"),
            (not 0 < shortest <= longest < float("inf"),
             f"duration_seconds must be (shortest, longest) above 0, got {self.duration_seconds}"),
            *((count is not None and not 0 <= count <= most,
               f"{name} must lie in [0, {most}], got {count}")
              for name, (count, most) in counts.items()),
            (not 0 <= self.clutter <= 1, f"clutter must lie in [0, 1], got {self.clutter}"),
            (not 0 <= self.jitter <= 1, f"jitter must lie in [0, 1], got {self.jitter}"),
            (not 0 <= self.quantiser <= 40,
             f"quantiser must lie in [0, 40], got {self.quantiser}"),
            (self.seed < 0, f"seed must be at least 0, got {self.seed}"),
            (not self.split.replace("-", "").replace("_", "").isalnum(),
             f"split must be letters, digits, '-' and '_', got {self.split!r}"),
        ]  # fmt: skip

    @property
    def design_budget(self) -> Budget:
        """The budget itself, where `budget` may be a name."""
        return get_budget(self.budget)

    def rng(self, index: int, stream: str) -> np.random.Generator:
        """The randomness of one video, the same whatever other videos there are.

        Args:
            index: Number of the video, from 0.
            stream: What it is for; streams are independent.
        """
        words = [self.seed, *map(_word, (self.split, stream)), index]
        return np.random.default_rng(words)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values, the budget spelled out."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        budget = self.design_budget
        spelled = dataclasses.asdict(budget)
        return fields | {
            "budget": spelled,
            "kinds": [kind.value for kind in self.kinds],
            "duration_seconds": list(self.duration_seconds),
            "generator_version": GENERATOR_VERSION,
        }

    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell configurations apart."""
        return hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()[:16]


def canonical_json(value: object) -> str:
    """The one way to write a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _word(text: str) -> int:
    return zlib.crc32(text.encode())
