"""Seeing needle videos with plain numpy: colours by distance, glyphs by template matching.

Nothing here knows a task's truth. It knows the rules of the game: which colours and glyphs there
are, that cards have a lattice on their backs, that banners carry a pale panel with a letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from videoseek_env.datasets.needle_scene import COLOURS, DIGITS, LETTERS
from videoseek_env.datasets.needle_sprites import PAPER
from videoseek_env.glyphs import glyph
from videoseek_env.video.clip import Clip

Frame = npt.NDArray[np.uint8]
"""RGB, [H, W, 3]."""
Mask = npt.NDArray[np.bool_]
"""[H, W]."""

_COLOUR_TOLERANCE = 45
"""Largest difference in any channel that still is the colour, of 255."""
_SHADE = 0.78
"""The lattice of a card's back is that much darker."""
_MIN_SHARE = 0.01
"""Smallest share of a frame that counts as a thing."""
_GLYPH_PX = (21, 15)
"""Height and width at which glyphs are compared."""
_MIN_LIKENESS = 0.6
"""Smallest correlation with a glyph that counts as reading it."""


@dataclass(frozen=True, slots=True)
class Thing:
    """What one frame shows."""

    kind: str
    """card, banner or the shape's name."""
    colour: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """A thing over consecutive frames of the overview."""

    thing: Thing
    first_seconds: float
    """Time of the first frame that shows it."""
    last_seconds: float
    """Time of the last frame that shows it."""
    symbol: str | None
    """The letter, where one could be read."""


def find_sightings(overview: Clip) -> list[Sighting]:
    """Everything that the overview shows, in order of time."""
    found: list[Sighting] = []
    previous: Thing | None = None
    for frame, time in zip(overview.frames, overview.timestamps_seconds.tolist(), strict=True):
        thing = find_thing(frame)
        if thing is not None and thing == previous:
            before = found.pop()
            symbol = before.symbol or _banner_letter(frame, thing)
            found.append(Sighting(thing, before.first_seconds, time, symbol))
        elif thing is not None:
            found.append(Sighting(thing, time, time, _banner_letter(frame, thing)))
        previous = thing
    return found


def find_thing(frame: Frame) -> Thing | None:
    """The card, banner or shape in a frame, or None."""
    names = _name_colours(frame)
    counts = np.bincount(names.ravel(), minlength=len(COLOURS) + 1)[: len(COLOURS)]
    number, area = int(counts.argmax()), int(counts.max())
    if area < _MIN_SHARE * names.size:
        return None
    colour = list(COLOURS)[number]
    box = _bounding_box(names == number)
    inside = frame[box]
    if _is_near(inside, PAPER, 60).sum() > 0.5 * area:
        return Thing("banner", colour)
    dark = _is_near(inside, np.array(COLOURS[colour]) * _SHADE, 30)
    if dark.sum() > 0.25 * area:
        return Thing("card", colour)
    return Thing(_shape_name((names == number)[box]), colour)


def read_card(clip: Clip, colour: str) -> str | None:
    """The digit on the face of the card of that colour, from the clip's clearest frame, or None."""
    best: tuple[float, str] | None = None
    number = list(COLOURS).index(colour)
    for frame in clip.frames:
        rim = _name_colours(frame) == number
        if rim.mean() < _MIN_SHARE / 4:
            continue
        reading = read_glyph(frame[_bounding_box(rim)], DIGITS)
        if reading is not None and (best is None or reading > best):
            best = reading
    return best[1] if best else None


def read_glyph(patch: Frame, alphabet: Sequence[str]) -> tuple[float, str] | None:
    """The likeliest glyph on a pale panel, with its correlation; None where none is like it.

    >>> from videoseek_env.glyphs import draw_text
    >>> patch = np.full((60, 50, 3), 248, np.uint8)
    >>> draw_text(patch, "7", x=10, y=8, scale=6, colour=(24, 26, 34))
    >>> read_glyph(patch, "0123456789")[1]
    '7'
    """
    paper = _is_near(patch, PAPER, 60)
    if paper.mean() < 0.15:
        return None
    height, width = paper.shape
    middle = patch[height // 8 : height - height // 8, width // 5 : width - width // 5]
    darkness = 255 - middle.mean(axis=-1)
    ink = darkness > 128
    if not 0.02 < ink.mean() < 0.7:
        return None
    seen = _resample(darkness[_bounding_box(ink)])
    likeness = {char: _correlation(seen, _template(char)) for char in alphabet}
    char = max(likeness, key=lambda char: likeness[char])
    return (likeness[char], char) if likeness[char] >= _MIN_LIKENESS else None


def _banner_letter(frame: Frame, thing: Thing) -> str | None:
    if thing.kind != "banner":
        return None
    box = _bounding_box(_is_near(frame, COLOURS[thing.colour]))
    panel = _is_near(frame[box], PAPER, 60)
    reading = read_glyph(frame[box][_bounding_box(panel)], LETTERS)
    return reading[1] if reading else None


def _shape_name(mask: Mask) -> str:
    """A shape by how it fills its box, and by where it is widest."""
    fill = float(mask.mean())
    if fill > 0.9:
        return "square"
    if fill > 0.68:
        return "circle"
    widest = int(np.argmax(mask.sum(axis=1))) / len(mask)
    return "triangle" if widest > 0.7 else "star"


@cache
def _colour_table() -> npt.NDArray[np.uint8]:
    """The number of the named colour of each colour in 5 bits a channel; the last is none."""
    level = np.arange(32) * 8 + 4
    colours = np.stack(np.meshgrid(level, level, level, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    distance = np.abs(colours - np.array(list(COLOURS.values()))).max(axis=-1)
    nearest = distance.argmin(axis=1)
    is_named = distance.min(axis=1) < _COLOUR_TOLERANCE
    return np.where(is_named, nearest, len(COLOURS)).astype(np.uint8)


def _name_colours(frame: Frame) -> npt.NDArray[np.uint8]:
    """The number of each pixel's named colour, [H, W]."""
    red, green, blue = (frame[..., channel].astype(np.uint16) >> 3 for channel in range(3))
    names: npt.NDArray[np.uint8] = _colour_table()[red << 10 | green << 5 | blue]
    return names


def _is_near(
    frame: Frame, rgb: Sequence[float] | npt.NDArray[np.float64], tolerance: int = _COLOUR_TOLERANCE
) -> Mask:
    distance = np.abs(frame.astype(np.int16) - np.asarray(rgb, np.int16)).max(axis=-1)
    near: Mask = distance < tolerance
    return near


def _bounding_box(mask: Mask) -> tuple[slice, slice]:
    """The box that holds all but stray pixels."""
    rows, columns = mask.sum(axis=1), mask.sum(axis=0)
    return _extent(rows), _extent(columns)


def _extent(counts: npt.NDArray[np.int64]) -> slice:
    inside = np.flatnonzero(counts > 0.1 * counts.max())
    if len(inside) == 0:
        return slice(0, len(counts))
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _template(char: str) -> npt.NDArray[np.float64]:
    mask = glyph(char)
    return _resample(mask[_bounding_box(mask)].astype(np.float64))


def _resample(picture: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A picture at the size at which glyphs are compared, bilinear, keeping its aspect ratio."""
    height, width = _GLYPH_PX
    rows = (np.arange(height) + 0.5) * picture.shape[0] / height - 0.5
    scale = picture.shape[0] / height
    columns = (np.arange(width) + 0.5 - width / 2) * scale + picture.shape[1] / 2 - 0.5
    row, column = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, across = (rows - row)[:, None], (columns - column)[None, :]

    def at(i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        inside = (j >= 0) & (j < picture.shape[1])
        picked = picture[np.clip(i, 0, picture.shape[0] - 1)][
            :, np.clip(j, 0, picture.shape[1] - 1)
        ]
        within: npt.NDArray[np.float64] = picked * inside
        return within

    top = at(row, column) * (1 - across) + at(row, column + 1) * across
    bottom = at(row + 1, column) * (1 - across) + at(row + 1, column + 1) * across
    resampled: npt.NDArray[np.float64] = top * (1 - down) + bottom * down
    return resampled


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0
