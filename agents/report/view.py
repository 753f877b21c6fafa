"""Episodes as the page shows them: tasks, under each its trajectories, under each its turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from string import ascii_uppercase

from agents.episode import Episode
from agents.report.images import MissingStrip, Strip, StripMaker
from agents.report.reply import Span, leave_out_middle, reply_spans
from agents.report.timeline import Timeline, draw_timeline
from rewards.accuracy import accuracy, is_choice
from videoseek_env.action import Action, Crop, FinalAnswer
from videoseek_env.render.text import clock, shorten
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import Turn


@dataclass(frozen=True, slots=True)
class FrameView:
    """One frame of a strip."""

    percent: float
    """Where it lies in the strip, as CSS counts a background's position."""
    label: str
    shows_clue: bool


@dataclass(frozen=True, slots=True)
class StripView:
    """A strip of frames, or why there is none."""

    caption: str
    number: int | None
    """Of the picture; None if it is missing."""
    frames: tuple[FrameView, ...]
    width: int
    height: int
    missing: str = ""


@dataclass(frozen=True, slots=True)
class TurnView:
    """What was read, seen, written and meant."""

    number: int
    observation: str
    strip: StripView | None
    """None for an error observation."""
    spans: tuple[Span, ...]
    action: str
    action_style: str
    """One of crop, answer, error."""


@dataclass(frozen=True, slots=True)
class TrajectoryView:
    """One policy's way through a task."""

    episode: Episode
    outcome: str
    """One of right, partial, wrong, unanswered."""
    score: float
    answer: str | None
    ending: str
    parts: tuple[tuple[str, float], ...]
    timeline: Timeline
    turns: tuple[TurnView, ...]


@dataclass(frozen=True, slots=True)
class OptionView:
    """An option, and who chose it."""

    letter: str
    text: str
    is_right: bool
    chosen_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskView:
    """A question, and every trajectory that tried it."""

    task: VideoTask
    kind: str
    video_name: str
    duration: str
    options: tuple[OptionView, ...]
    overview: StripView | None
    trajectories: tuple[TrajectoryView, ...]


def view_tasks(episodes: Iterable[Episode], strips: StripMaker, *, limit: int) -> list[TaskView]:
    """Bring the trajectories of a task together, in order of its first appearance.

    Args:
        episodes: What to show.
        strips: Where the frames come from.
        limit: Trajectories at most.
    """
    groups: dict[tuple[str, str, str], list[Episode]] = {}
    for episode in episodes:
        task = episode.trajectory.task
        groups.setdefault((task.id, task.video, task.question), []).append(episode)
    views = []
    for group in groups.values():
        if limit <= 0:
            break
        views.append(_view_task(group[:limit], strips))
        limit -= len(group)
    return views


def kind_name(kind: TaskKind) -> str:
    """A kind of task in words, such as "single clue tool"."""
    return kind.name.lower().replace("_", " ")


def _view_task(episodes: Sequence[Episode], strips: StripMaker) -> TaskView:
    trajectory = episodes[0].trajectory
    task = trajectory.task
    trajectories = tuple(_view_trajectory(episode, strips) for episode in episodes)
    first_strips = (view.turns[0].strip for view in trajectories if view.turns)
    return TaskView(
        task=task,
        kind=kind_name(task.kind),
        video_name=PurePath(task.video).name,
        duration=clock(trajectory.duration_seconds),
        options=tuple(
            OptionView(
                letter, text, task.answer == letter, tuple(dict.fromkeys(_chose(letter, episodes)))
            )
            for letter, text in zip(ascii_uppercase, task.options, strict=False)
        ),
        overview=next((strip for strip in first_strips if strip is not None), None),
        trajectories=trajectories,
    )


def _chose(letter: str, episodes: Sequence[Episode]) -> Iterable[str]:
    for episode in episodes:
        answer = episode.trajectory.answer
        if answer is not None and is_choice(answer, letter):
            yield episode.policy


def _view_trajectory(episode: Episode, strips: StripMaker) -> TrajectoryView:
    trajectory = episode.trajectory
    answer, reason, score = trajectory.answer, trajectory.end_reason, accuracy(trajectory)
    return TrajectoryView(
        episode=episode,
        outcome=_outcome(answer, score),
        score=score,
        answer=None if answer is None else shorten(answer, max_characters=120),
        ending="running" if reason is None else reason.value.replace("_", " "),
        parts=tuple(episode.reward.parts.items()),
        timeline=draw_timeline(trajectory),
        turns=tuple(
            _view_turn(number, turn, trajectory.task, strips)
            for number, turn in enumerate(trajectory.turns, start=1)
        ),
    )


def _outcome(answer: str | None, score: float) -> str:
    if answer is None:
        return "unanswered"
    if score >= 1:
        return "right"
    return "partial" if score > 0 else "wrong"


def _view_turn(number: int, turn: Turn, task: VideoTask, strips: StripMaker) -> TurnView:
    action, style = _describe(turn.action)
    return TurnView(
        number=number,
        observation=leave_out_middle(turn.observation),
        strip=_view_strip(turn, task, strips),
        spans=tuple(reply_spans(turn.reply)),
        action=action,
        action_style=style,
    )


def _view_strip(turn: Turn, task: VideoTask, strips: StripMaker) -> StripView | None:
    clip = turn.clip
    if clip is None:
        return None
    caption = (
        f"{clip.strategy}, {clip.segment}: {len(clip.indices)} frames of "
        f"{clip.width} x {clip.height} px, {clip.visual_tokens} visual tokens"
    )
    strip = strips.strip(clip, frame_fps=task.frame_fps)
    if isinstance(strip, MissingStrip):
        return StripView(caption, None, (), 0, 0, missing=strip.reason)
    shown = len(strip.timestamps_seconds)
    if shown < len(clip.indices):
        caption += f", {shown} of them shown"
    frames = tuple(_view_frames(strip, task.clues))
    return StripView(caption, strip.number, frames, strip.width, strip.height)


def _view_frames(strip: Strip, clues: Sequence[Segment]) -> Iterable[FrameView]:
    last = max(len(strip.timestamps_seconds) - 1, 1)
    for position, moment in enumerate(strip.timestamps_seconds):
        yield FrameView(
            percent=round(100 * position / last, 3),
            label=clock(moment, tenths=True),
            shows_clue=any(clue.start_seconds <= moment < clue.end_seconds for clue in clues),
        )


def _describe(action: Action) -> tuple[str, str]:
    if isinstance(action, Crop):
        return f"crop {action.segment}, {action.strategy}", f"crop {action.strategy}"
    if isinstance(action, FinalAnswer):
        return f"answer {shorten(action.text, max_characters=120)}", "answer"
    return f"{action.fault.value.replace('_', ' ')}: {action.message}", "error"
