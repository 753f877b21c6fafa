"""The figures behind the plots of docs/rewards.md: episodes played in real sessions, and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rewards import Format, OverlongPenalty, TrajectoryGuidedReward, TurnEfficiency
from rewards.intervals import Interval
from rewards.testing.episodes import RULES, play
from rewards.testing.scripts import answer, crop
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import Trajectory

VIDEO_SECONDS = 600.0
CLUE_SECONDS = 10.0
ONE_CLUE: list[Interval] = [(295.0, 305.0)]
THREE_CLUES: list[Interval] = [(95.0, 105.0), (295.0, 305.0), (495.0, 505.0)]
RULESETS = {
    "published": TrajectoryGuidedReward(),
    "hardened": TrajectoryGuidedReward.hardened(),
}
MANY_CALLS = replace(RULES, max_turns=40, max_clips=50)


def task(kind: TaskKind) -> VideoTask:
    """A question of a kind about ten minutes of video, with one clue of ten seconds or three."""
    is_multi = kind in (TaskKind.MULTI_CLUE_TOOL, TaskKind.MULTI_CLUE_DIRECT)
    return VideoTask(
        id=f"plot-{kind}",
        video="video.mp4",
        question="Which digit does the card show?",
        answer="" if kind is TaskKind.TEMPORAL_GROUNDING else "B",
        kind=kind,
        options=("1", "2") if kind.is_multiple_choice else (),
        clues=tuple(Segment(*clue) for clue in (THREE_CLUES if is_multi else ONE_CLUE)),
        duration_seconds=VIDEO_SECONDS,
    )


def around(clue: Interval, width_seconds: float, offset_seconds: float = 0.0) -> Interval:
    """A crop of some width, its centre this far from the clue's, moved into the video."""
    start = (clue[0] + clue[1]) / 2 + offset_seconds - width_seconds / 2
    start = min(max(start, 0.0), VIDEO_SECONDS - width_seconds)
    return start, start + width_seconds


def looked(kind: TaskKind, crops: Sequence[Interval]) -> Trajectory:
    """An episode that crops and then gives the right answer."""
    return play(task(kind), [*(crop(*look) for look in crops), answer("B")], rules=MANY_CALLS)


def bonus(rules: str, kind: TaskKind, crops: Sequence[Interval]) -> float:
    """The bonus of a right answer after these crops."""
    return RULESETS[rules](looked(kind, crops)).parts["bonus"]


def grounding_score(interval: Interval) -> float:
    """The published score of a temporal-grounding answer."""
    told = play(task(TaskKind.TEMPORAL_GROUNDING), [answer(interval)])
    return RULESETS["published"](told).value


def format_score(turns: int, faults: int) -> float:
    """The format score of an episode whose first groundings name an unknown strategy."""
    unknown: Any = "ultra"
    crops = [crop(*ONE_CLUE[0], unknown if turn < faults else "fine") for turn in range(turns - 1)]
    return Format()(play(task(TaskKind.SINGLE_CLUE_TOOL), [*crops, answer("B")])).value


def overlong_penalty(penalty: OverlongPenalty, tokens: int) -> float:
    """The penalty of two replies that have so many tokens together, four bytes each."""
    bare = sum(len(reply) for reply in (crop(*ONE_CLUE[0], think=""), answer("B", think="")))
    half = (4 * tokens - bare) // 2 - 4
    replies = [crop(*ONE_CLUE[0], think="x" * half), answer("B", think="x" * half)]
    return penalty(play(task(TaskKind.SINGLE_CLUE_TOOL), replies)).value


def turn_efficiency(calls: int) -> float:
    """What is left of the score after so many calls."""
    return TurnEfficiency()(looked(TaskKind.SINGLE_CLUE_TOOL, ONE_CLUE * calls)).value
