"""Trajectories written by hand, for tests that read trajectories and need no video."""

from __future__ import annotations

from collections.abc import Sequence

from videoseek_env.action import FinalAnswer, parse_reply
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason, Trajectory, Turn
from videoseek_env.video.clip import ClipRef

DURATION_SECONDS = 100.0


def crop_reply(start: float, end: float, strategy: str = "fine") -> str:
    return (
        f"<think>look</think><grounding>"
        f'{{"temporal_segment": [{start}, {end}], "sampling_strategy": "{strategy}"}}</grounding>'
    )


def answer_reply(answer: str) -> str:
    return f"<think>so</think><answer>{answer}</answer>"


def make_task(
    kind: TaskKind = TaskKind.SINGLE_CLUE_TOOL,
    clues: Sequence[tuple[float, float]] = ((10.0, 20.0),),
    answer: str = "B",
) -> VideoTask:
    return VideoTask(
        id=f"task-{kind}",
        video="video.mp4",
        question="Which digit does the red card show?",
        answer=answer,
        kind=kind,
        options=("1", "2", "3", "4") if kind.is_multiple_choice else (),
        clues=tuple(Segment(*clue) for clue in clues),
    )


def make_trajectory(
    replies: Sequence[str],
    task: VideoTask | None = None,
    end_reason: EndReason | None = None,
) -> Trajectory:
    """What an episode with these replies looks like; the ending follows from the last one."""
    actions = [parse_reply(reply, duration_seconds=DURATION_SECONDS) for reply in replies]
    if end_reason is None:
        answered = bool(actions) and isinstance(actions[-1], FinalAnswer)
        end_reason = EndReason.ANSWERED if answered else EndReason.TURNS_EXHAUSTED
    return Trajectory(
        task=task or make_task(),
        turns=tuple(
            Turn(f"observation {number}", make_ref() if number == 0 else None, reply, action)
            for number, (reply, action) in enumerate(zip(replies, actions, strict=True))
        ),
        end_reason=end_reason,
        duration_seconds=DURATION_SECONDS,
        context_tokens=123,
        max_turns=6,
    )


def make_ref() -> ClipRef:
    return ClipRef(
        video="video.mp4",
        indices=(0, 50, 99),
        timestamps_seconds=(0.0, 50.0, 99.0),
        height=32,
        width=64,
        segment=Segment(0.0, DURATION_SECONDS),
        strategy="overview",
        visual_tokens=4,
    )
