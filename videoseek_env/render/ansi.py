"""An episode as terminal text."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import numpy.typing as npt

from videoseek_env.action import Action, Crop, FinalAnswer
from videoseek_env.render.text import clock, shorten
from videoseek_env.segment import Segment
from videoseek_env.trajectory import Trajectory, Turn
from videoseek_env.video.clip import Clip, ClipRef

_BAR_COLUMNS = 72
_QUESTION_CHARACTERS = 600
_LINE_CHARACTERS = 160
_RESET = "\x1b[0m"
_STYLES = {
    "bold": "\x1b[1m",
    "dim": "\x1b[2m",
    "clue": "\x1b[32m",
    "crop": "\x1b[34m",
    "hit": "\x1b[1;33m",
    "error": "\x1b[31m",
    "plain": "",
}


def render_ansi(
    trajectory: Trajectory,
    clip: Clip | None = None,
    *,
    observation_text: str | None = None,
    colour: bool = True,
    show_clues: bool = True,
) -> str:
    """Draw an episode, finished or running, as terminal text.

    No character of the question, the observations or the replies reaches the terminal as a command.

    Args:
        trajectory: The episode; only its finished turns are listed.
        clip: The frames on view, if there are any.
        observation_text: The text on view, shown where there are no frames: an error's message.
        colour: Whether to write ANSI colours; the signs tell clues and crops apart without them.
        show_clues: Whether to show where the answer is. A human player should not see it.

    Returns:
        Lines that end in a newline each.
    """
    clues = trajectory.task.clues if show_clues else ()
    lines = [
        *_question_lines(trajectory),
        "",
        *_timeline_lines(trajectory, clues, clip),
        "",
        *(line for number, turn in enumerate(trajectory.turns, 1) for line in _turn(number, turn)),
    ]
    if clip is not None:
        lines.append(_paint("on view  ", "bold") + _describe_frames(clip))
    elif observation_text is not None:
        lines.append(_paint("on view  ", "bold") + _line(observation_text))
    lines.append(_ending(trajectory))
    text = "\n".join(lines) + "\n"
    return text if colour else _without_colour(text)


def _question_lines(trajectory: Trajectory) -> list[str]:
    task = trajectory.task
    question = shorten(task.question, max_characters=_QUESTION_CHARACTERS)
    options = [f"  {_line(option)}" for option in task.lettered_options]
    return [_paint(question, "bold"), *options]


def _timeline_lines(
    trajectory: Trajectory, clues: tuple[Segment, ...], clip: Clip | None
) -> list[str]:
    duration = trajectory.duration_seconds
    is_clue = _covered(clues, duration)
    is_crop = _covered(tuple(crop.segment for crop in trajectory.crops), duration)
    start, end = clock(0), clock(duration)
    columns = zip(is_clue.tolist(), is_crop.tolist(), strict=True)
    bar = "".join(_cells(*kind, sum(1 for _ in run)) for kind, run in groupby(columns))
    lines = [f"{start}{end:>{_BAR_COLUMNS - len(start)}}", bar]
    if clip is not None and len(clip.timestamps_seconds):
        has_frame = np.zeros(_BAR_COLUMNS, bool)
        has_frame[_columns(clip.timestamps_seconds, duration)] = True
        lines.append("".join("'" if here else " " for here in has_frame.tolist()).rstrip())
    signs = [_paint("▄", "crop") + " crop", "' frame on view"]
    if clues:
        signs = [_paint("▀", "clue") + " clue", *signs, _paint("█", "hit") + " clue and crop"]
    return [*lines, "   ".join(signs)]


def _columns(
    seconds: npt.NDArray[np.float64] | float, duration_seconds: float
) -> npt.NDArray[np.int64]:
    column = np.asarray(seconds) / max(duration_seconds, 1e-9) * _BAR_COLUMNS
    return np.clip(column, 0, _BAR_COLUMNS - 1).astype(np.int64)


def _covered(segments: tuple[Segment, ...], duration_seconds: float) -> npt.NDArray[np.bool_]:
    """Which columns of the bar some segment touches."""
    covered = np.zeros(_BAR_COLUMNS, bool)
    for segment in segments:
        first = int(_columns(segment.start_seconds, duration_seconds))
        # Half-open: a segment that ends where a column starts does not touch it.
        last = int(_columns(segment.end_seconds - 1e-6, duration_seconds))
        covered[first : last + 1] = True
    return covered


def _cells(is_clue: bool, is_crop: bool, count: int) -> str:
    if is_clue and is_crop:
        return _paint("█" * count, "hit")
    if is_clue:
        return _paint("▀" * count, "clue")
    return _paint("▄" * count, "crop") if is_crop else _paint("·" * count, "dim")


def _turn(number: int, turn: Turn) -> list[str]:
    if turn.clip is None:
        seen = _paint(_line(turn.observation), "error")
    else:
        seen = _describe_reference(turn.clip)
    return [
        _paint(f"turn {number:<3} ", "bold") + f"saw   {seen}",
        f"          wrote {_paint(_line(turn.reply), 'dim')}",
        f"          {_describe_action(turn.action)}",
    ]


def _describe_action(action: Action) -> str:
    if isinstance(action, Crop):
        return _paint(f"-> crop   {action.segment}, {action.strategy}", "crop")
    if isinstance(action, FinalAnswer):
        return _paint(f"-> answer {_line(action.text) or '(empty)'}", "bold")
    return _paint(f"-> error  {action.fault}: {_line(action.message)}", "error")


def _describe_reference(clip: ClipRef) -> str:
    return (
        f"{clip.strategy}, {len(clip.indices)} frames of {clip.width} x {clip.height} px, "
        f"{clip.segment}, {clip.visual_tokens} visual tokens"
    )


def _describe_frames(clip: Clip) -> str:
    count, height, width, _ = clip.frames.shape
    return f"{clip.strategy}, {count} frames of {width} x {height} px, {clip.segment}"


def _ending(trajectory: Trajectory) -> str:
    if trajectory.end_reason is None:
        limit = f" of {trajectory.max_turns}" if trajectory.max_turns else ""
        return _paint(f"running, turn {len(trajectory.turns) + 1}{limit}", "dim")
    return _paint(f"ended: {trajectory.end_reason}", "bold")


def _line(text: str) -> str:
    return shorten(text, max_characters=_LINE_CHARACTERS)


def _paint(text: str, style: str) -> str:
    return f"{_STYLES[style]}{text}{_RESET}" if text else ""


def _without_colour(text: str) -> str:
    # Only our own sequences are left: foreign ones were neutralised.
    for code in (*_STYLES.values(), _RESET):
        text = text.replace(code, "") if code else text
    return text
