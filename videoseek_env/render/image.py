"""An episode as an image of fixed size, drawn with numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from videoseek_env.action import Action, Crop, FinalAnswer
from videoseek_env.render.canvas import (
    ADVANCE_PX,
    LINE_PX,
    Colour,
    Image,
    fill,
    outline,
    resize,
    text_width,
    wrap,
    write,
)
from videoseek_env.render.text import clock, shorten
from videoseek_env.render.timeline import spread, tick_seconds
from videoseek_env.segment import Segment
from videoseek_env.trajectory import Trajectory
from videoseek_env.video.clip import Clip, ClipStrategy

_BACKGROUND: Colour = (14, 17, 23)
_PANEL: Colour = (27, 32, 43)
_LINE: Colour = (62, 71, 89)
_TEXT: Colour = (234, 238, 245)
_MUTED: Colour = (148, 160, 179)
_ERROR: Colour = (248, 113, 113)
_CLUE: Colour = (45, 196, 130)
_CLUE_BAND: Colour = (22, 71, 56)
# Okabe and Ito's palette, told apart by colour-blind eyes too.
_STRATEGY: dict[ClipStrategy, Colour] = {
    "overview": (148, 160, 179),
    "coarse": (86, 180, 233),
    "medium": (240, 173, 40),
    "fine": (221, 132, 180),
}
_LANES_PX = 36
_MARKS_PX = 14
_MAX_THUMBNAILS = 64
_FEW_THUMBNAILS = 24
_GAP_PX = 6
_MAX_ENLARGEMENT = 6.0


@dataclass(frozen=True, slots=True)
class _Page:
    """A canvas and what holds everywhere on it."""

    canvas: Image
    margin_px: int
    scale: int
    """Of text."""

    @property
    def inner_px(self) -> int:
        return int(self.canvas.shape[1]) - 2 * self.margin_px

    @property
    def line_px(self) -> int:
        return LINE_PX * self.scale

    def columns(self, scale: int) -> int:
        return self.inner_px // (ADVANCE_PX * scale)

    def write(self, text: str, y: int, colour: Colour, *, scale: int | None = None) -> None:
        write(self.canvas, text, x=self.margin_px, y=y, scale=scale or self.scale, colour=colour)

    def write_right(self, text: str, y: int, colour: Colour) -> None:
        x = self.margin_px + self.inner_px - text_width(text, scale=self.scale)
        write(self.canvas, text, x=max(x, self.margin_px), y=y, scale=self.scale, colour=colour)


def render_rgb(
    trajectory: Trajectory,
    clip: Clip | None = None,
    *,
    observation_text: str | None = None,
    width: int = 960,
    height: int = 720,
    show_clues: bool = True,
) -> Image:
    """Draw an episode, finished or running: question, timeline, frames on view, last reply.

    Args:
        trajectory: The episode.
        clip: The frames on view, if there are any.
        observation_text: The text on view, shown where there are no frames: an error's message.
        width: Pixels, at least 320.
        height: Pixels, at least 320.
        show_clues: Whether to show where the answer is. A human player should not see it.

    Returns:
        RGB, uint8 [height, width, 3], whatever the episode holds.

    Raises:
        ValueError: If the image is asked to be under 320 pixels a side.
    """
    if min(width, height) < 320:
        raise ValueError(f"an image needs at least 320 x 320 pixels, got {width} x {height}")
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = _BACKGROUND
    page = _Page(canvas, margin_px=width // 40, scale=2 if width >= 640 else 1)
    clues = trajectory.task.clues if show_clues else ()
    y = _draw_question(page, trajectory, page.margin_px)
    y = _draw_timeline(page, trajectory, clues, clip, y + page.line_px // 2)
    bottom = _draw_last_reply(page, trajectory)
    if clip is not None and len(clip.frames):
        _draw_frames(page, clip, clues, y + page.line_px // 2, bottom)
    elif observation_text is not None:
        _draw_text_on_view(page, observation_text, y + page.line_px, bottom)
    return canvas


def _draw_question(page: _Page, trajectory: Trajectory, y: int) -> int:
    question, scale = trajectory.task.question, page.scale + 1
    lines = wrap(question, max_characters=page.columns(scale), max_lines=3)
    if len(lines) > 2:
        scale = page.scale
        lines = wrap(question, max_characters=page.columns(scale), max_lines=3)
    for line in lines:
        page.write(line, y, _TEXT, scale=scale)
        y += LINE_PX * scale
    options = "   ".join(
        shorten(option, max_characters=60) for option in trajectory.task.lettered_options
    )
    y += page.scale * 2
    for line in wrap(options, max_characters=page.columns(page.scale), max_lines=2):
        page.write(line, y, _MUTED)
        y += page.line_px
    return y


def _draw_timeline(
    page: _Page, trajectory: Trajectory, clues: tuple[Segment, ...], clip: Clip | None, y: int
) -> int:
    pixels_per_second = page.inner_px / max(trajectory.duration_seconds, 1e-9)
    left = page.margin_px

    def box(segment: Segment, colour: Colour, y: float, height: float) -> None:
        x = left + segment.start_seconds * pixels_per_second
        width = max(segment.duration_seconds * pixels_per_second, 2)
        width = min(width, left + page.inner_px - x)
        fill(page.canvas, colour, x=x, y=y, width=width, height=height)

    _draw_legend(page, bool(clues), y)
    y += page.line_px
    fill(page.canvas, _PANEL, x=left, y=y, width=page.inner_px, height=_LANES_PX + _MARKS_PX + 4)
    for clue in clues:
        box(clue, _CLUE_BAND, y, _LANES_PX + _MARKS_PX + 4)
        box(clue, _CLUE, y, 4)
    crops = trajectory.crops
    lane = min(_LANES_PX / max(len(crops), 1), 12.0)
    for number, crop in enumerate(crops):
        box(crop.segment, _STRATEGY[crop.strategy], y + 5 + number * lane, max(lane - 2, 1))
    y += _LANES_PX + 4
    if clip is not None:
        for moment in clip.timestamps_seconds.tolist():
            x = left + min(moment * pixels_per_second, page.inner_px - 2)
            fill(page.canvas, _TEXT, x=x, y=y + 2, width=2, height=_MARKS_PX - 4)
    return _draw_axis(page, trajectory.duration_seconds, y + _MARKS_PX)


def _draw_axis(page: _Page, duration_seconds: float, y: int) -> int:
    ticks = tick_seconds(duration_seconds, max_ticks=9)
    for moment in ticks:
        offset = page.inner_px * moment / max(duration_seconds, 1e-9)
        x = round(page.margin_px + min(offset, page.inner_px - 1))
        fill(page.canvas, _LINE, x=x, y=y, width=1, height=5)
        label = clock(moment)
        centred = x - text_width(label, scale=page.scale) // 2
        rightmost = page.margin_px + page.inner_px - text_width(label, scale=page.scale)
        x = min(max(centred, page.margin_px), rightmost)
        write(page.canvas, label, x=x, y=y + 7, scale=page.scale, colour=_MUTED)
    return y + 7 + page.line_px


def _draw_legend(page: _Page, has_clues: bool, y: int) -> None:
    entries = [(name, colour) for name, colour in _STRATEGY.items() if name != "overview"]
    x = page.margin_px
    named: list[tuple[str, Colour]] = [(f"{name} crop", colour) for name, colour in entries]
    for name, colour in [*([("clue", _CLUE)] if has_clues else []), *named, ("frame", _TEXT)]:
        side = 5 * page.scale
        fill(page.canvas, colour, x=x, y=y + page.scale, width=side, height=side)
        x += side + 3 * page.scale
        write(page.canvas, name, x=x, y=y, scale=page.scale, colour=_MUTED)
        x += text_width(name, scale=page.scale) + 6 * page.scale


def _draw_frames(
    page: _Page, clip: Clip, clues: tuple[Segment, ...], top: int, bottom: int
) -> None:
    total, source_height, source_width, _ = clip.frames.shape
    caption = f"{clip.strategy}: {total} frames of {source_width} x {source_height}, {clip.segment}"
    page.write(caption, top, _STRATEGY[clip.strategy])
    top += page.line_px + 4
    picked = spread(total, max_count=_MAX_THUMBNAILS)
    label_scale = page.scale if len(picked) <= _FEW_THUMBNAILS else 1
    label_px = LINE_PX * label_scale + _GAP_PX
    columns, factor = _best_grid(
        len(picked), (source_height, source_width), (bottom - top, page.inner_px), label_px
    )
    height, width = max(int(source_height * factor), 1), max(int(source_width * factor), 1)
    thumbnails = resize(clip.frames[picked], height=height, width=width)
    for number, (thumbnail, index) in enumerate(zip(thumbnails, picked, strict=True)):
        row, column = divmod(number, columns)
        x = page.margin_px + column * (width + _GAP_PX)
        y = top + row * (height + label_px)
        moment = float(clip.timestamps_seconds[index])
        inside = any(clue.start_seconds <= moment < clue.end_seconds for clue in clues)
        _draw_thumbnail(page.canvas, thumbnail, x, y, inside)
        write(
            page.canvas[:, : x + width],
            clock(moment, tenths=True),
            x=x,
            y=y + height + 3,
            scale=label_scale,
            colour=_CLUE if inside else _MUTED,
        )


def _draw_thumbnail(canvas: Image, thumbnail: Image, x: int, y: int, shows_clue: bool) -> None:
    height, width, _ = thumbnail.shape
    target = canvas[y : y + height, x : x + width]
    target[:] = thumbnail[: target.shape[0], : target.shape[1]]
    if shows_clue:
        outline(canvas, _CLUE, x=x, y=y, width=width, height=height)


def _best_grid(
    count: int, frame: tuple[int, int], area: tuple[int, int], label_px: int
) -> tuple[int, float]:
    """Columns and scale that show `count` frames (height, width) largest in an area."""
    best = (1, 0.0)
    for columns in range(1, count + 1):
        rows = -(-count // columns)
        cell_height = area[0] / rows - label_px
        cell_width = (area[1] + _GAP_PX) / columns - _GAP_PX
        factor = min(cell_height / frame[0], cell_width / frame[1], _MAX_ENLARGEMENT)
        if factor > best[1]:
            best = (columns, factor)
    return best


def _draw_text_on_view(page: _Page, text: str, top: int, bottom: int) -> None:
    max_lines = max((bottom - top) // page.line_px - 1, 1)
    for line in wrap(text, max_characters=page.columns(page.scale), max_lines=max_lines):
        page.write(line, top, _ERROR)
        top += page.line_px


def _draw_last_reply(page: _Page, trajectory: Trajectory) -> int:
    """Draw the footer from below; returns its upper edge."""
    top = int(page.canvas.shape[0]) - page.margin_px // 2 - 3 * page.line_px
    fill(page.canvas, _LINE, x=page.margin_px, y=top - 8, width=page.inner_px, height=1)
    limit = f" of {trajectory.max_turns}" if trajectory.max_turns else ""
    if trajectory.end_reason is None:
        state = f"turn {len(trajectory.turns) + 1}{limit}"
    else:
        state = f"ended: {trajectory.end_reason}"
    page.write_right(state, top, _TEXT)
    if trajectory.turns:
        turn = trajectory.turns[-1]
        room = max(page.columns(page.scale) - len(state) - 2, 8)
        page.write(shorten(_describe(turn.action), max_characters=room), top, _colour(turn.action))
        lines = wrap(turn.reply, max_characters=page.columns(page.scale), max_lines=2)
        for number, line in enumerate(lines, start=1):
            page.write(line, top + number * page.line_px, _MUTED)
    return top - 12


def _describe(action: Action) -> str:
    if isinstance(action, Crop):
        return f"crop {action.segment}, {action.strategy}"
    if isinstance(action, FinalAnswer):
        return f"answer {action.text}"
    return f"error {action.fault}"


def _colour(action: Action) -> Colour:
    if isinstance(action, Crop):
        return _STRATEGY[action.strategy]
    return _TEXT if isinstance(action, FinalAnswer) else _ERROR
