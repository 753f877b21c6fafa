"""How large things are drawn, so that the design budget can read them where it should."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.datasets.needle_timeline import Timeline
from videoseek_env.errors import DatasetError
from videoseek_env.glyphs import GLYPH_HEIGHT, GLYPH_WIDTH

EventKind = Literal["card", "banner", "shape"]
"""What appears in a procedural video."""

OVERVIEW_THING_PX: Final = 28
"""Pixels that a card's height should have in an overview frame, if the frame has them."""
CROP_DIGIT_PX: Final = (8, 5)
"""Height and width that a digit has at least in a fine crop of its card's span."""
OVERVIEW_LETTER_PX: Final = (12, 8)
"""Height and width that a letter has at least in an overview frame; half more where it fits."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large things are drawn, in pixels of the source video; all even."""

    width: int
    """Of the video."""
    height: int
    """Of the video."""
    card_width: int
    card_height: int
    digit_scale: int
    """Pixels a side of each dot of a card's 5 x 7 digit."""
    banner_width: int
    banner_height: int
    letter_scale: int
    """Pixels a side of each dot of a banner's 5 x 7 letter."""
    shape_side: int

    def box(self, kind: EventKind) -> tuple[int, int]:
        """Width and height of an event."""
        return {
            "card": (self.card_width, self.card_height),
            "banner": (self.banner_width, self.banner_height),
            "shape": (self.shape_side, self.shape_side),
        }[kind]

    def glyph_box(self, kind: EventKind) -> tuple[int, int, int, int] | None:
        """Left, top, width and height of an event's digit or letter within its box."""
        if kind == "shape":
            return None
        dot = self.digit_scale if kind == "card" else self.letter_scale
        # A banner's notch takes some of its lower half.
        middle = 0.5 if kind == "card" else 0.46
        box, width, height = self.box(kind), GLYPH_WIDTH * dot, GLYPH_HEIGHT * dot
        return round((box[0] - width) / 2), round(box[1] * middle - height / 2), width, height


def plan_sizes(config: NeedleConfig, timeline: Timeline) -> Sizes:
    """Sizes at which the design budget can read digits in crops and letters in the overview.

    Raises:
        DatasetError: If a digit or letter had to be larger than the frame.
    """
    width, height = config.width, config.height
    overview, crop = timeline.overview_size, timeline.longest_card_crop_size
    share = min(0.8, max(0.46, OVERVIEW_THING_PX / overview.height))
    thing = round(share * height)
    digit = _dot_px(CROP_DIGIT_PX, crop.height / height, crop.width / width)
    letter = _dot_px(OVERVIEW_LETTER_PX, overview.height / height, overview.width / width)
    roomy = min(math.ceil(1.5 * letter), int(height * 0.96 / (7 * 1.4)))
    digit, letter = max(digit, thing * 58 // 700), max(letter, roomy, thing * 58 // 700)
    card_height = _even(max(thing, 7 * digit * 1.55))
    banner_height = _even(7 * letter * 1.4)
    sizes = Sizes(
        width=width,
        height=height,
        card_height=card_height,
        card_width=_even(max(card_height * 0.72, 5 * digit * 1.55)),
        digit_scale=digit,
        banner_height=banner_height,
        banner_width=_even(min(width * 0.96, banner_height * 1.4)),
        letter_scale=letter,
        shape_side=_even(thing * 0.8),
    )
    for kind in ("card", "banner"):
        box = sizes.box(kind)
        if box[0] > width or box[1] > height:
            raise DatasetError(
                f"a readable {kind} would take {box[0]} x {box[1]} pixels of a video of {width} x "
                f"{height} under the budget {config.design_budget.name!r}; use shorter videos, a "
                "larger budget, or a squarer frame"
            )
    return sizes


def _dot_px(least: tuple[int, int], vertical: float, horizontal: float) -> int:
    """Pixels of a glyph's dot so that it keeps `least` height and width after resizing."""
    return math.ceil(max(least[0] / (7 * vertical), least[1] / (5 * horizontal)) - 1e-9)


def _even(value: float) -> int:
    return 2 * round(value / 2)
