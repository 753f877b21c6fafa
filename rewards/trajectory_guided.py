"""The Verifiable Trajectory-Guided Reward of Video-o3 (arXiv 2601.23224)."""

from __future__ import annotations

from dataclasses import dataclass

from rewards.accuracy import accuracy
from rewards.format import check_format
from rewards.grounding import (
    clue_intervals,
    grounded_intervals,
    multi_clue_quality,
    single_clue_quality,
)
from rewards.intervals import iou
from rewards.reward import Reward
from videoseek_env.task import TaskKind
from videoseek_env.trajectory import Trajectory


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

    Returns parts: `acc`, `format`, `bonus`, and for logs `iou` (of crops and clues) and
    `tool_turns`.
    """

    accuracy_weight: float = 1.0
    format_weight: float = 1.0
    turn_penalty: float = 0.05
    """Lambda: what a tool call costs, as a share of the bonus."""

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
        right = accuracy(trajectory)
        form = check_format(trajectory.replies)
        truth = clue_intervals(trajectory.task)
        predicted = grounded_intervals(trajectory.replies)
        bonus = 0.0
        if right == 1 and form.score == 1:
            bonus = self._bonus(trajectory.task.kind, form.tool_turns, predicted, truth)
        value = self.accuracy_weight * right + self.format_weight * form.score + bonus
        parts = {
            "acc": right,
            "format": form.score,
            "bonus": bonus,
            "iou": iou(predicted, truth),
            "tool_turns": float(form.tool_turns),
        }
        return Reward(value, parts)

    def _bonus(
        self,
        kind: TaskKind,
        tool_turns: int,
        predicted: list[tuple[float, float]],
        truth: list[tuple[float, float]],
    ) -> float:
        if kind is TaskKind.SINGLE_CLUE_TOOL and tool_turns > 0:
            patience = 1 - self.turn_penalty * (tool_turns - 1)
            return patience * (single_clue_quality(predicted, truth) + 1) / 2
        if kind is TaskKind.MULTI_CLUE_TOOL and tool_turns > 0:
            return (multi_clue_quality(predicted, truth) + 1) / 2
        if kind is TaskKind.MULTI_CLUE_DIRECT:
            return 0.5
        if kind is TaskKind.SINGLE_CLUE_DIRECT:
            return 0.75 * (1 - 2 * self.turn_penalty * tool_turns)
        return 0.0
