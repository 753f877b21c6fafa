"""Drawing on an array: boxes, wrapped text, resized frames."""

from __future__ import annotations

import textwrap

import numpy as np
import numpy.typing as npt

from videoseek_env.glyphs import draw_text
from videoseek_env.render.text import printable

Colour = tuple[int, int, int]
"""Red, green, blue in [0, 255]."""
Image = npt.NDArray[np.uint8]
"""RGB, [H, W, 3]."""

ADVANCE_PX = 6
"""From one character to the next at scale 1."""
LINE_PX = 10
"""From one line of text to the next at scale 1."""


def fill(canvas: Image, colour: Colour, *, x: float, y: float, width: float, height: float) -> None:
    """Fill a box of at least one pixel a side; what lies outside the canvas is left out."""
    left, top = max(round(x), 0), max(round(y), 0)
    right, bottom = max(round(x + width), left + 1), max(round(y + height), top + 1)
    canvas[top:bottom, left:right] = colour


def outline(canvas: Image, colour: Colour, *, x: int, y: int, width: int, height: int) -> None:
    """Frame a box with a line of two pixels outside it."""
    fill(canvas, colour, x=x - 2, y=y - 2, width=width + 4, height=2)
    fill(canvas, colour, x=x - 2, y=y + height, width=width + 4, height=2)
    fill(canvas, colour, x=x - 2, y=y, width=2, height=height)
    fill(canvas, colour, x=x + width, y=y, width=2, height=height)


def write(canvas: Image, text: str, *, x: int, y: int, scale: int, colour: Colour) -> None:
    """Write one line, cut at the right edge of the canvas; the font knows ASCII."""
    room = (canvas.shape[1] - x) // (ADVANCE_PX * scale)
    if room > 0:
        line = text[:room].replace("…", "~").encode("ascii", errors="replace").decode("ascii")
        draw_text(canvas, line, x=x, y=y, scale=scale, colour=colour)


def text_width(text: str, *, scale: int) -> int:
    """Pixels that a line of text takes."""
    return len(text) * ADVANCE_PX * scale


def wrap(text: str, *, max_characters: int, max_lines: int) -> list[str]:
    """Break text into lines; an ellipsis ends what does not fit."""
    # No more than fits is looked at: a text may be of any length.
    text = printable(text[: max_characters * max_lines * 2])
    return textwrap.wrap(text, max(max_characters, 4), max_lines=max_lines, placeholder=" ...")


def resize(frames: Image, *, height: int, width: int) -> Image:
    """Resize frames [N, H, W, 3]: boxes are averaged to shrink, pixels repeated to enlarge."""
    for axis, target in ((1, height), (2, width)):
        source = frames.shape[axis]
        if source == target:
            continue
        edges = np.arange(target) * source // target
        counts = np.maximum(np.diff(np.append(edges, source)), 1)
        sums = np.add.reduceat(frames, edges, axis=axis, dtype=np.uint32)
        shape = [1, 1, 1, 1]
        shape[axis] = target
        frames = (sums // counts.astype(np.uint32).reshape(shape)).astype(np.uint8)
    return frames
