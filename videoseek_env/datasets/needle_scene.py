"""What a procedural video shows, and when: planned without drawing a pixel.

Everything that a question asks about is an `Event`. Cards are the point of it: a card lies face down
for so long that the overview surely shows it, and face up only between two overview frames. So the
overview says *where* to look, and only a crop says *what* is there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np

from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.datasets.needle_timeline import Timeline
from videoseek_env.errors import DatasetError
from videoseek_env.segment import Segment

EventKind = Literal["card", "banner", "shape"]

COLOURS: Final = MappingProxyType(
    {
        "red": (214, 40, 40),
        "orange": (255, 130, 20),
        "yellow": (250, 218, 50),
        "green": (46, 160, 67),
        "cyan": (35, 200, 215),
        "blue": (40, 84, 222),
        "purple": (128, 48, 176),
        "pink": (246, 132, 190),
    }
)
"""The colours of cards, banners and shapes, as red, green, blue in 0..255. A rule of the game."""

SHAPES: Final = ("star", "circle", "triangle", "square")
"""The landmarks' shapes."""
LETTERS: Final = "ACEHJKLPTXYZ"
"""The letters on banners: those that are hard to confuse."""
DIGITS: Final = "0123456789"
"""The digits on cards."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that appears once, stands still and disappears."""

    kind: EventKind
    colour: str
    """A name in `COLOURS`."""
    symbol: str
    """A card's digit, a banner's letter, or the shape's name."""
    start_frame: int
    """First frame that shows it."""
    end_frame: int
    """First frame after it."""
    reveal_frames: tuple[int, int] | None = None
    """A card is face up in [first, end); its turning takes one more frame on either side."""
    x_px: int = 0
    """Left edge, even."""
    y_px: int = 0
    """Top edge, even."""

    def span(self, fps: int) -> Segment:
        """When it is on screen."""
        return Segment(self.start_frame / fps, self.end_frame / fps)

    def reveal(self, fps: int) -> Segment | None:
        """When its digit is readable; None unless it is a card."""
        frames = self.reveal_frames
        return None if frames is None else Segment(frames[0] / fps, frames[1] / fps)


@dataclass(frozen=True, slots=True)
class Scene:
    """One planned video."""

    index: int
    """Number within the set."""
    timeline: Timeline
    sizes: Sizes
    events: tuple[Event, ...]
    """In order of time, one overview spacing or more apart."""
    counted_shape: str | None
    """The shape whose number of appearances is uniform on 1..4, so fit to be asked for."""

    def of_kind(self, kind: EventKind) -> list[Event]:
        """Its events of one kind, in order of time."""
        return [event for event in self.events if event.kind == kind]

    def describe(self, event: Event) -> dict[str, Any]:
        """The event as a task's metadata holds it."""
        fps = self.timeline.fps
        span, reveal = event.span(fps), event.reveal(fps)
        width, height = self.sizes.box(event.kind)
        return {
            "kind": event.kind,
            "colour": event.colour,
            "symbol": event.symbol,
            "span": [span.start_seconds, span.end_seconds],
            "reveal": None if reveal is None else [reveal.start_seconds, reveal.end_seconds],
            "box": [event.x_px, event.y_px, width, height],
        }


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


OVERVIEW_THING_PX: Final = 28
"""Pixels that a card's height should have in an overview frame, if the frame has them."""
CROP_DIGIT_PX: Final = (8, 5)
"""Height and width that a digit has at least in a fine crop of its card's span."""
OVERVIEW_LETTER_PX: Final = (12, 8)
"""Height and width that a letter has at least in an overview frame; half as much again if it fits."""


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
    return int(np.ceil(max(least[0] / (7 * vertical), least[1] / (5 * horizontal)) - 1e-9))


def _even(value: float) -> int:
    return 2 * round(value / 2)


def plan_scene(config: NeedleConfig, index: int) -> Scene:
    """What video number `index` shows.

    Raises:
        DatasetError: If the overview is too dense to hide a digit, or too short for the events.
    """
    rng = config.rng(index, "scene")
    timeline = Timeline.of(config, float(rng.uniform(*config.duration_seconds)))
    sizes = plan_sizes(config, timeline)
    counts = _counts(config, timeline)
    looks, counted = _looks(rng, counts)
    order = rng.permutation(len(looks)).tolist()
    looks = [looks[i] for i in order]
    spans = timeline.place(rng, [kind == "card" for kind, _, _ in looks])
    events = [
        Event(
            kind, colour, symbol, span.start_frame, span.end_frame, span.reveal_frames,
            *_position(rng, config, sizes, kind),
        )
        for (kind, colour, symbol), span in zip(looks, spans, strict=True)
    ]  # fmt: skip
    return Scene(index, timeline, sizes, tuple(events), counted)


def _counts(config: NeedleConfig, timeline: Timeline) -> dict[EventKind, int]:
    """How many of each kind: what the configuration says, else as many as fit, shared out."""
    asked: dict[EventKind, int | None] = {
        "card": config.cards, "banner": config.banners, "shape": config.shapes,
    }  # fmt: skip
    most: dict[EventKind, int] = {"card": 5, "banner": 4, "shape": 5}
    counts: dict[EventKind, int] = {kind: asked[kind] or 0 for kind in most}
    growing = True
    while growing:
        growing = False
        for kind in most:
            more = counts | {kind: counts[kind] + 1}
            fits = timeline.has_room(more["card"], more["banner"] + more["shape"])
            if asked[kind] is None and counts[kind] < most[kind] and fits:
                counts, growing = more, True
    if not timeline.has_room(counts["card"], counts["banner"] + counts["shape"]):
        raise DatasetError(
            f"{counts['card']} cards, {counts['banner']} banners and {counts['shape']} shapes don't "
            f"fit between the {timeline.samples} frames of the overview; ask for fewer"
        )
    return counts


_Look = tuple[EventKind, str, str]
"""Kind, colour and symbol of an event."""


def _looks(
    rng: np.random.Generator, counts: dict[EventKind, int]
) -> tuple[list[_Look], str | None]:
    names = list(COLOURS)
    cards = rng.permutation(names)[: counts["card"]].tolist()
    banners = rng.permutation(names)[: counts["banner"]].tolist()
    # Digits may repeat: otherwise seeing one card would tell something about the others.
    digits = rng.choice(list(DIGITS), counts["card"]).tolist()
    letters = rng.permutation(list(LETTERS))[: counts["banner"]].tolist()
    shapes, counted = _shapes(rng, counts["shape"])
    looks: list[_Look] = [("card", *look) for look in zip(cards, digits, strict=True)]
    looks += [("banner", *look) for look in zip(banners, letters, strict=True)]
    looks += [("shape", *look) for look in shapes]
    return looks, counted


def _shapes(rng: np.random.Generator, count: int) -> tuple[list[tuple[str, str]], str | None]:
    """Colours and shapes, no pair twice, one shape 1 to 4 times with equal chance."""
    pairs = [(colour, shape) for shape in SHAPES for colour in COLOURS]
    pairs = [pairs[i] for i in rng.permutation(len(pairs))]
    if count < 4:
        return pairs[:count], None
    counted = str(rng.choice(SHAPES))
    times = int(rng.integers(1, 5))
    chosen = [pair for pair in pairs if pair[1] == counted][:times]
    return chosen + [pair for pair in pairs if pair[1] != counted][: count - times], counted


def _position(
    rng: np.random.Generator, config: NeedleConfig, sizes: Sizes, kind: EventKind
) -> tuple[int, int]:
    width, height = sizes.box(kind)
    free_x, free_y = config.width - width, config.height - height
    # Banners hang from the top edge.
    centre_y = 0.12 if kind == "banner" else 0.5
    across, down = 0.5 + config.jitter * (rng.uniform(0.04, 0.96, 2) - 0.5)
    down = centre_y if kind == "banner" else down
    return 2 * int(free_x * across / 2), 2 * int(free_y * down / 2)
