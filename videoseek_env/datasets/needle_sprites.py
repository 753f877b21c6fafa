"""How cards, banners and shapes look: small pictures with soft edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from videoseek_env.datasets.needle_scene import COLOURS, Event
from videoseek_env.datasets.needle_sizes import Sizes
from videoseek_env.glyphs import GLYPH_HEIGHT, GLYPH_WIDTH, draw_text

PAPER: Final = (248, 246, 238)
"""Colour behind digits and letters, as red, green, blue in 0..255."""
INK: Final = (24, 26, 34)
"""Colour of digits and letters."""

_SUPERSAMPLING: Final = 4
_MASKS_KEPT: Final = 64

FloatImage = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Inside = Callable[[FloatImage, FloatImage], Mask]
"""Whether each point (x, y) lies inside."""


@dataclass(frozen=True, slots=True)
class Sprite:
    """A picture to lay over a frame."""

    rgb: npt.NDArray[np.uint8]
    """[H, W, 3]."""
    alpha: FloatImage
    """How much it covers, 0..1, [H, W]."""


def card_back(event: Event, sizes: Sizes) -> Sprite:
    """A card face down: its colour, a pale rim and a lattice in a darker tint."""
    width, height = sizes.card_width, sizes.card_height
    alpha, inner = _card_masks(width, height)
    colour = np.array(COLOURS[event.colour])
    x, y = _grid(width, height)
    pitch = max(8.0, height / 9)
    lattice = (np.abs((x + y) % pitch - pitch / 2) < pitch * 0.14) | (
        np.abs((x - y) % pitch - pitch / 2) < pitch * 0.14
    )
    panel = _rounded(width, height, inset=height * 0.1, radius=height * 0.04)
    rgb = np.where((lattice * panel > 0.5)[..., None], colour * 0.78, colour)
    return Sprite(_mix(np.array(PAPER), rgb, inner), alpha)


def card_face(event: Event, sizes: Sizes) -> Sprite:
    """A card face up: a rim of its colour around a pale panel with the digit."""
    width, height = sizes.card_width, sizes.card_height
    alpha, inner = _card_masks(width, height)
    colour = np.array(COLOURS[event.colour])
    panel = _rounded(width, height, inset=_rim(height) + height * 0.055, radius=height * 0.04)
    rgb = _mix(_mix(np.array(PAPER), colour, inner), np.array(PAPER), panel)
    _draw_symbol(rgb, event, sizes)
    return Sprite(rgb, alpha)


def card_edge(event: Event, sizes: Sizes) -> Sprite:
    """A card half turned: its back, squeezed to a third of its width."""
    back = card_back(event, sizes)
    width = sizes.card_width
    columns = ((np.arange(width) - width / 2) * 3 + width / 2).astype(int)
    inside = (columns >= 0) & (columns < width)
    columns = np.clip(columns, 0, width - 1)
    return Sprite(back.rgb[:, columns], back.alpha[:, columns] * inside)


def banner(event: Event, sizes: Sizes) -> Sprite:
    """A hanging cloth of its colour, notched at the bottom, with a letter on a pale panel."""
    width, height, dot = sizes.banner_width, sizes.banner_height, sizes.letter_scale
    colour = np.array(COLOURS[event.colour])
    x, y = _grid(width, height)
    alpha = _cloth(width, height)
    hem = (y < height * 0.045) | (y > height * 0.955 - _notch(x, width, height))
    rgb = np.where(hem[..., None], colour * 0.68, colour)
    middle = height * 0.46
    across = np.abs(x - width / 2) < GLYPH_WIDTH * dot / 2 + 0.9 * dot
    down = np.abs(y - middle) < GLYPH_HEIGHT * dot / 2 + 0.8 * dot
    rgb = np.where((across & down)[..., None], np.array(PAPER), rgb)
    drawn = rgb.astype(np.uint8)
    _draw_symbol(drawn, event, sizes)
    return Sprite(drawn, alpha)


def shape(event: Event, sizes: Sizes) -> Sprite:
    """A large landmark of its colour with a pale outline."""
    side = sizes.shape_side
    outline = max(0.03, 1.5 / side)
    outer = _silhouette(event.symbol, side, 1.0)
    inner = _silhouette(event.symbol, side, 1 - 4 * outline)
    rgb = _mix(np.array(PAPER), np.array(COLOURS[event.colour]), inner)
    return Sprite(rgb, outer)


def mote(kind: int, side: int, grey: int) -> Sprite:
    """A small distractor: a ring, a cross or a diamond of a dull grey, unlike any landmark."""
    half = side / 2

    def inside(x: FloatImage, y: FloatImage) -> Mask:
        across, down = np.abs(x - half) / half, np.abs(y - half) / half
        ring: Mask = np.abs(np.hypot(across, down) - 0.75) < 0.2
        cross: Mask = (np.minimum(across, down) < 0.28) & (np.maximum(across, down) < 0.95)
        diamond: Mask = across + down < 0.9
        return (ring, cross, diamond)[kind]

    rgb = np.full((side, side, 3), grey, np.uint8)
    return Sprite(rgb, _smooth(inside, side, side) * 0.7)


def _draw_symbol(rgb: npt.NDArray[np.uint8], event: Event, sizes: Sizes) -> None:
    box = sizes.glyph_box(event.kind)
    if box is not None:
        draw_text(rgb, event.symbol, x=box[0], y=box[1], scale=box[3] // GLYPH_HEIGHT, colour=INK)


def _rim(height: int) -> float:
    return max(2.0, height * 0.035)


def _card_masks(width: int, height: int) -> tuple[FloatImage, FloatImage]:
    """The card, and the card without its rim."""
    radius = height * 0.08
    rim = _rim(height)
    return (
        _rounded(width, height, inset=0, radius=radius),
        _rounded(width, height, inset=rim, radius=radius - rim / 2),
    )


@lru_cache(_MASKS_KEPT)
def _rounded(width: int, height: int, *, inset: float, radius: float) -> FloatImage:
    def inside(x: FloatImage, y: FloatImage) -> Mask:
        across = np.abs(x - width / 2) - (width / 2 - inset - radius)
        down = np.abs(y - height / 2) - (height / 2 - inset - radius)
        corner = np.hypot(np.maximum(across, 0), np.maximum(down, 0)) <= radius
        body: Mask = corner & (np.maximum(across, down) <= radius)
        return body

    return _smooth(inside, width, height)


@lru_cache(_MASKS_KEPT)
def _cloth(width: int, height: int) -> FloatImage:
    return _smooth(lambda x, y: y < height - _notch(x, width, height), width, height)


def _notch(x: FloatImage, width: int, height: int) -> FloatImage:
    notch: FloatImage = height * 0.07 * (1 - np.abs(x - width / 2) / (width / 2))
    return notch


@lru_cache(_MASKS_KEPT)
def _silhouette(name: str, side: int, scale: float) -> FloatImage:
    return _smooth(lambda x, y: _is_inside(name, x, y, side, scale), side, side)


def _is_inside(name: str, x: FloatImage, y: FloatImage, side: int, scale: float) -> Mask:
    across, down = (x / side - 0.5) * 2 / scale, (y / side - 0.5) * 2 / scale
    masks: dict[str, Callable[[], Mask]] = {
        "circle": lambda: np.hypot(across, down) < 0.95,
        "square": lambda: np.maximum(np.abs(across), np.abs(down)) < 0.86,
        # The centre of mass lies below the box's centre.
        "triangle": lambda: (down < 0.75) & (np.abs(across) < (down + 0.95) * 0.56),
        "star": lambda: _in_star(across, down),
    }
    return masks[name]()


def _in_star(across: FloatImage, down: FloatImage) -> Mask:
    """A five-pointed star: below the edge from a point to the next inner corner, by symmetry."""
    outer, inner, step = 0.98, 0.44, np.pi / 5
    angle = np.abs((np.arctan2(across, -down) + step) % (2 * step) - step)
    radius = np.hypot(across, down)
    # The line from (outer, 0) to (inner, step) in polar coordinates.
    corner_x, corner_y = inner * np.cos(step), inner * np.sin(step)
    cross = (corner_x - outer) * radius * np.sin(angle) - corner_y * (
        radius * np.cos(angle) - outer
    )
    inside: Mask = cross > 0
    return inside


def _smooth(inside: Inside, width: int, height: int) -> FloatImage:
    """The share of each pixel that lies inside, from 4 x 4 points."""
    steps = _SUPERSAMPLING
    x, y = _grid(width * steps, height * steps)
    points = inside(x / steps, y / steps)
    share: FloatImage = points.reshape(height, steps, width, steps).mean((1, 3))
    share.flags.writeable = False
    return share


def _grid(width: int, height: int) -> tuple[FloatImage, FloatImage]:
    x = np.arange(width) + 0.5
    y = np.arange(height) + 0.5
    return np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))


def _mix(below: npt.ArrayLike, above: npt.ArrayLike, alpha: FloatImage) -> npt.NDArray[np.uint8]:
    cover = alpha[..., None]
    mixed = np.asarray(below) * (1 - cover) + np.asarray(above) * cover
    return np.rint(mixed).clip(0, 255).astype(np.uint8)
