"""The published reward as other trainers call it: texts and a ground truth in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewards.accuracy import answer_score
from rewards.format import check_format
from rewards.grounding import grounded_intervals, ordered_interval
from rewards.intervals import Interval
from rewards.trajectory_guided import Findings, TrajectoryGuidedReward
from videoseek_env.action import last_block
from videoseek_env.errors import TaskError
from videoseek_env.task import TaskKind

_KINDS = {kind.value: kind for kind in TaskKind if kind is not TaskKind.OPEN_ENDED}


def compute_score(
    data_source: str,
    solution_str: str | Sequence[str],
    ground_truth: Mapping[str, Any],
    extra_info: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Score the agent's turns with the published preset.

    Args:
        data_source: A published kind, such as "clue_single_w_tool" or "temporal_grounding".
        solution_str: The agent's turns in order, or the only one. Malformed ones score low.
        ground_truth: `{"answer": "B", "clue": [{"timestamp": [start, end]}, ...]}`. A clue that is
            no pair of finite numbers with start < end is skipped.
        extra_info: Not read; trainers pass it.

    Returns:
        `score`, and its parts `acc`, `format`, `bonus`.

    Raises:
        TaskError: If the kind is unknown, or the ground truth has not that form.

    >>> gold = {"answer": "B", "clue": [{"timestamp": [2, 8]}]}
    >>> compute_score("clue_single_wo_tool", "<think>So.</think><answer>B</answer>", gold)
    {'score': 2.75, 'acc': 1.0, 'format': 1.0, 'bonus': 0.75}
    """
    if data_source not in _KINDS:
        raise TaskError(f"unknown data_source {data_source!r}; choose one of {', '.join(_KINDS)}")
    kind = _KINDS[data_source]
    replies = [solution_str] if isinstance(solution_str, str) else list(solution_str)
    truth, expected = _clues(ground_truth), _answer(ground_truth, kind)
    answer = last_block(replies[-1], "answer") if replies else None
    form = check_format(replies)
    found = Findings(
        right=0.0 if answer is None else answer_score(answer, expected, kind, truth),
        form=form.score,
        tool_turns=form.tool_turns,
        predicted=grounded_intervals(replies),
        truth=truth,
    )
    reward = TrajectoryGuidedReward().combine(kind, found)
    names = ("acc", "format", "bonus")
    return {"score": reward.value} | {name: reward.parts[name] for name in names}


def _answer(ground_truth: Mapping[str, Any], kind: TaskKind) -> str:
    if kind is TaskKind.TEMPORAL_GROUNDING:
        return ""
    answer = ground_truth.get("answer") if isinstance(ground_truth, Mapping) else None
    if not isinstance(answer, str) or not answer.strip():
        raise TaskError(f'expected ground_truth["answer"] to be a letter, got {answer!r}')
    return answer.strip()


def _clues(ground_truth: Mapping[str, Any]) -> list[Interval]:
    clues = ground_truth.get("clue") if isinstance(ground_truth, Mapping) else None
    if clues is None:
        return []
    if not isinstance(clues, Sequence) or isinstance(clues, str):
        raise TaskError(f'expected ground_truth["clue"] to be a list, got {clues!r}')
    found: list[Interval] = []
    for clue in clues:
        times = clue.get("timestamp") if isinstance(clue, Mapping) else None
        interval = ordered_interval(times)
        if interval is not None:
            found.append(interval)
    return found
