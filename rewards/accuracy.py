"""Is the answer right?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from rewards.grounding import answered_interval, clue_intervals
from rewards.intervals import Interval, iou
from rewards.reward import Reward
from rewards.text_match import Matcher, exact
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import Trajectory

_CHOICE_MARK = re.compile(r"\([A-Z]\)|\b[A-Z]\.|^(?:\W|\b(?:or|and|[A-Z])\b)*\b[A-Z]\W*$")
"""A further letter: "(C)", "C.", or nothing but letters, such as "or C or D"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """1 for a right choice, the IoU for temporal grounding, the matcher's score for free text.

    Range [0, 1]; 0 without an answer. Source: arXiv 2601.23224.
    """

    open_ended: Matcher = exact
    """Scores free-text answers."""

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
        answer, task = trajectory.answer, trajectory.task
        if answer is None:
            return Reward(0.0)
        if task.kind is TaskKind.OPEN_ENDED:
            return Reward(self.open_ended(answer, task))
        return Reward(answer_score(answer, task.answer, task.kind, clue_intervals(task)))


def accuracy(trajectory: Trajectory) -> float:
    """What `Accuracy()` pays, in [0, 1]."""
    return Accuracy()(trajectory).value


def answer_score(answer: str, expected: str, kind: TaskKind, truth: Sequence[Interval]) -> float:
    """The published accuracy of an answer that is a choice or a segment, in [0, 1].

    Args:
        answer: What the agent answered.
        expected: The right option's letter; not read for temporal grounding.
        kind: Not open-ended.
        truth: The clues; read for temporal grounding alone.
    """
    if kind is TaskKind.TEMPORAL_GROUNDING:
        predicted = answered_interval(answer)
        return iou([predicted] if predicted else [], truth)
    return float(is_choice(answer, expected))


def is_choice(answer: str, letter: str) -> bool:
    """Whether an answer chooses the option: "B", "(B) ..." or "B. ...".

    Lower case, "B)" and "Option B" do not count, as published.

    >>> [is_choice(answer, "B") for answer in ("B", "(B)", "B. blue", "b", "B)", "Option B")]
    [True, True, True, False, False, False]
    """
    answer = answer.strip()
    return answer == letter or answer.startswith((f"({letter})", f"{letter}."))


def is_only_choice(answer: str, task: VideoTask) -> bool:
    """Whether an answer chooses the right option and hedges with nothing else.

    After the letter stands nothing or that option's text; where the options are unknown, anything
    that marks no further letter.

    Differs from the paper: the published check reads a prefix, so "A. or B. or C." is a right A.
    """
    answer, letter = answer.strip(), task.answer
    rest = next(
        (
            answer[len(mark) :].strip()
            for mark in (f"({letter})", f"{letter}.", letter)
            if answer.startswith(mark)
        ),
        None,
    )
    if rest is None:
        return False
    place = ascii_uppercase.find(letter)
    if 0 <= place < len(task.options):
        return rest.casefold() in ("", task.options[place].strip().casefold())
    return answer == letter or (is_choice(answer, letter) and not _CHOICE_MARK.search(rest))
