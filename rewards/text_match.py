"""Do two free texts say the same? Matchers give a score in [0, 1]."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from videoseek_env.task import VideoTask

Matcher = Callable[[str, VideoTask], float]
"""Scores an answer to a task in [0, 1]."""

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_LONGEST_NUMBER_CHARS = 100
_ARTICLES = {"a", "an", "the"}
_WORD = re.compile(r"\w+")


def exact(answer: str, task: VideoTask) -> float:
    """1 if the texts agree up to case, white space and a final full stop, else 0."""
    return float(_normalise(answer) == _normalise(task.answer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Numeric:
    """1 if the answer's only number lies within a tolerance of the expected one, else 0.

    |answer - expected| <= max(absolute, relative * |expected|). An answer with several numbers is
    wrong, so listing guesses does not pay.

    Raises:
        ValueError: If a tolerance is negative or not finite.
    """

    absolute_tolerance: float = 1e-9
    relative_tolerance: float = 0.0

    def __post_init__(self) -> None:
        for tolerance in (self.absolute_tolerance, self.relative_tolerance):
            if not (math.isfinite(tolerance) and tolerance >= 0):
                raise ValueError(f"tolerances must be finite and at least 0, got {self}")

    def __call__(self, answer: str, task: VideoTask, /) -> float:
        """Score an answer."""
        got, expected = read_number(answer), read_number(task.answer)
        if got is None or expected is None:
            return 0.0
        slack = max(self.absolute_tolerance, self.relative_tolerance * abs(expected))
        return float(abs(got - expected) <= slack)


def read_number(text: str) -> float | None:
    """The only number in a text, thousands separated by commas or not; None unless it is one.

    >>> read_number("about 1,250.5 metres"), read_number("3 or 4"), read_number("many")
    (1250.5, None, None)
    """
    found = _NUMBER.findall(text[: 10 * _LONGEST_NUMBER_CHARS])
    if len(found) != 1 or len(found[0]) > _LONGEST_NUMBER_CHARS:
        return None
    number = float(found[0].replace(",", ""))
    return number if math.isfinite(number) else None


def token_f1(answer: str, task: VideoTask) -> float:
    """The harmonic mean of word precision and recall, articles and punctuation apart; in [0, 1].

    Where the expected text is nothing else, it is `exact`.

    Source: SQuAD (arXiv 1606.05250).
    """
    got, expected = Counter(_words(answer)), Counter(_words(task.answer))
    if not expected:  # "A", say
        return exact(answer, task)
    return 2 * (got & expected).total() / (got.total() + expected.total())


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if word not in _ARTICLES]


def _normalise(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()
