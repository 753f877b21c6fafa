"""Is the answer right?"""

from __future__ import annotations

from rewards.grounding import answered_interval, clue_intervals
from rewards.intervals import iou
from videoseek_env.task import TaskKind
from videoseek_env.trajectory import Trajectory


def accuracy(trajectory: Trajectory) -> float:
    """1 for a right answer, 0 for another or none; the IoU for temporal grounding; in [0, 1].

    Source: arXiv 2601.23224.
    """
    answer, task = trajectory.answer, trajectory.task
    if answer is None:
        return 0.0
    if task.kind is TaskKind.TEMPORAL_GROUNDING:
        predicted = answered_interval(answer)
        return iou([predicted] if predicted else [], clue_intervals(task))
    if task.kind is TaskKind.OPEN_ENDED:
        return float(is_same_text(answer, task.answer))
    return float(is_choice(answer, task.answer))


def is_choice(answer: str, letter: str) -> bool:
    """Whether an answer chooses the option: "B", "(B) ..." or "B. ...".

    Lower case, "B)" and "Option B" do not count, as published.

    >>> [is_choice(answer, "B") for answer in ("B", "(B)", "B. blue", "b", "B)", "Option B")]
    [True, True, True, False, False, False]
    """
    answer = answer.strip()
    return answer == letter or answer.startswith((f"({letter})", f"{letter}."))


def is_same_text(answer: str, expected: str) -> bool:
    """Whether two texts agree up to case, white space and a final full stop.

    >>> is_same_text(" Two  cards. ", "two cards")
    True
    """
    return _normalise(answer) == _normalise(expected)


def _normalise(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".")
