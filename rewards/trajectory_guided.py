"""The Verifiable Trajectory-Guided Reward of Video-o3 (arXiv 2601.23224), and a hardened form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rewards.accuracy import Accuracy, is_only_choice
from rewards.format import trajectory_format, unnested_format
from rewards.grounding import (
    clue_intervals,
    grounded_intervals,
    multi_clue_quality,
    shown_intervals,
    single_clue_quality,
)
from rewards.intervals import Interval, iou, length
from rewards.reward import Reward
from rewards.text_match import Matcher, exact
from videoseek_env.action import tag_blocks
from videoseek_env.task import TaskKind
from videoseek_env.trajectory import Trajectory

MULTI_DIRECT_BONUS = 0.5
SINGLE_DIRECT_BONUS = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryGuidedReward:
    """Score = w_acc * acc + w_fmt * fmt + bonus, by the kind of the task.

    The bonus is paid only if acc = 1 and fmt = 1. With k the number of tool-calling turns:

    ==================  =========  =======================================
    kind                needs k>0  bonus
    ==================  =========  =======================================
    single clue, tool   yes        (1 - lambda (k - 1)) * (g1 + 1) / 2
    multi clue, tool    yes        (g2 + 1) / 2
    multi clue, direct  no         0.5
    single clue, direct no         0.75 (1 - 2 lambda k)
    ==================  =========  =======================================

    Temporal grounding scores w_acc * IoU + w_fmt * fmt; an open-ended answer has no bonus either.

    Range: [0, w_acc + w_fmt + 1] with up to ten tool calls; each further one may take a little off.

    Source: arXiv 2601.23224. Differs from the paper: the published code tests the *weighted*
    accuracy and format for 1, so that any weight but 1 switches the bonus off.

    Parts: `acc`, `format`, `bonus`, and for logs `iou` (of crops and clues) and `tool_turns`.
    """

    accuracy_weight: float = 1.0
    format_weight: float = 1.0
    turn_penalty: float = 0.05
    """Lambda: what a tool call costs, as a share of the bonus."""
    open_ended: Matcher = exact
    """Scores free-text answers."""
    rules: Literal["published", "hardened"] = "published"
    """The published formulas, or those of `hardened`."""

    def __post_init__(self) -> None:
        if self.rules not in ("published", "hardened"):
            raise ValueError(f'rules must be "published" or "hardened", got {self.rules!r}')

    @classmethod
    def hardened(
        cls,
        *,
        accuracy_weight: float = 1.0,
        format_weight: float = 1.0,
        turn_penalty: float = 0.05,
        open_ended: Matcher = exact,
    ) -> TrajectoryGuidedReward:
        """The reward under which the known exploits of the published formulas do not pay.

        Differs from the paper: crops count as they were carried out, not as they are written; the
        bonus of tool questions is patience * max(0, (IoU - s) / (1 - s)), s the clues' share of the
        video, so that showing everything or the wrong thing pays nothing; patience is
        max(0, 1 - lambda * calls beyond one a clue). Temporal grounding counts its IoU as
        max(0, (IoU - s) / (1 - s)) too. An answer that hedges, or stands beside another one, is
        wrong; tags inside a thought break the form.

        Range: [0, w_acc + w_fmt + 1].
        """
        return cls(
            accuracy_weight=accuracy_weight,
            format_weight=format_weight,
            turn_penalty=turn_penalty,
            open_ended=open_ended,
            rules="hardened",
        )

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
        found = self._read(trajectory)
        return self.combine(trajectory.task.kind, found)

    def combine(self, kind: TaskKind, found: Findings) -> Reward:
        """The score of what was found."""
        earned = found.right == 1 and found.form == 1
        bonus = self._bonus(kind, found) if earned else 0.0
        value = self.accuracy_weight * found.right + self.format_weight * found.form + bonus
        parts = {
            "acc": found.right,
            "format": found.form,
            "bonus": bonus,
            "iou": iou(found.predicted, found.truth),
            "tool_turns": float(found.tool_turns),
        }
        return Reward(value, parts)

    def _read(self, trajectory: Trajectory) -> Findings:
        right = Accuracy(open_ended=self.open_ended)(trajectory).value
        truth = clue_intervals(trajectory.task)
        seconds = trajectory.duration_seconds - trajectory.start_seconds
        if self.rules == "published":
            form = trajectory_format(trajectory)
            predicted = grounded_intervals(trajectory.replies)
        else:
            form = unnested_format(trajectory)
            predicted = shown_intervals(trajectory.clips)
            right = _hardened_accuracy(right, trajectory, _share(truth, seconds))
            truth = _inside(truth, trajectory)
        return Findings(right, form.score, form.tool_turns, predicted, truth, seconds)

    def _bonus(self, kind: TaskKind, found: Findings) -> float:
        if kind is TaskKind.MULTI_CLUE_DIRECT:
            return MULTI_DIRECT_BONUS
        if kind is TaskKind.SINGLE_CLUE_DIRECT:
            share = 1 - 2 * self.turn_penalty * found.tool_turns
            return SINGLE_DIRECT_BONUS * (share if self.rules == "published" else max(0.0, share))
        if found.tool_turns == 0 or kind not in (
            TaskKind.SINGLE_CLUE_TOOL,
            TaskKind.MULTI_CLUE_TOOL,
        ):
            return 0.0
        if self.rules == "hardened":
            return self._hardened_tool_bonus(found)
        if kind is TaskKind.MULTI_CLUE_TOOL:
            return (multi_clue_quality(found.predicted, found.truth) + 1) / 2
        patience = 1 - self.turn_penalty * (found.tool_turns - 1)
        return patience * (single_clue_quality(found.predicted, found.truth) + 1) / 2

    def _hardened_tool_bonus(self, found: Findings) -> float:
        by_showing_all = _share(found.truth, found.duration_seconds)
        if by_showing_all == 1:
            return 0.0
        spare_calls = found.tool_turns - max(1, len(found.truth))
        patience = max(0.0, 1 - self.turn_penalty * max(0, spare_calls))
        return patience * _gain(iou(found.predicted, found.truth), by_showing_all)


def _hardened_accuracy(right: float, trajectory: Trajectory, share: float) -> float:
    answer = trajectory.answer
    if answer is None or len(list(tag_blocks(trajectory.replies[-1], "answer"))) > 1:
        return 0.0
    if trajectory.task.kind is TaskKind.TEMPORAL_GROUNDING:
        return _gain(right, share) if share < 1 else right
    if trajectory.task.kind.is_multiple_choice:
        return right * is_only_choice(answer, trajectory.task)
    return right


def _inside(truth: Sequence[Interval], trajectory: Trajectory) -> list[Interval]:
    """The clues as far as the video goes: nobody can show more."""
    first, last = trajectory.start_seconds, trajectory.duration_seconds
    cut = [(max(start, first), min(end, last)) for start, end in truth]
    return [(start, end) for start, end in cut if start < end]


def _share(truth: Sequence[Interval], seconds: float) -> float:
    """The clues' share of the video, in [0, 1]; 1 where the video has no length."""
    return min(1.0, length(truth) / seconds) if seconds > 0 else 1.0


def _gain(overlap: float, by_showing_all: float) -> float:
    """An IoU beyond what showing the whole video has, in [0, 1]."""
    return max(0.0, (overlap - by_showing_all) / (1 - by_showing_all))


@dataclass(frozen=True, slots=True)
class Findings:
    """What reading a trajectory found."""

    right: float
    """Accuracy, in [0, 1]."""
    form: float
    """Format score, in [0, 1]."""
    tool_turns: int
    predicted: Sequence[Interval]
    """Crops, in seconds."""
    truth: Sequence[Interval]
    """Clues, in seconds."""
    duration_seconds: float = 0.0
    """Length of the video; read by the hardened rules alone."""
