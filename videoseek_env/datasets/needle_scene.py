"""What a procedural video shows, and when: planned without drawing a pixel.

Everything that a question asks about is an `Event`. Cards are the point of it: a card lies face
down for so long that the overview surely shows it, and face up only between two overview frames.
So the overview says *where* to look, and only a crop says *what* is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.datasets.needle_sizes import EventKind, Sizes, plan_sizes
from videoseek_env.datasets.needle_timeline import TURN_FRAMES, Timeline
from videoseek_env.errors import DatasetError
from videoseek_env.segment import Segment

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

    @property
    def keyframes(self) -> frozenset[int]:
        """Frames coded by themselves: at regular distances, and whenever a card has turned back.

        The latter wipe out what compression would leave of the digit in the frames that follow.
        """
        turned = (event.reveal_frames for event in self.of_kind("card"))
        wiped = {frames[1] + TURN_FRAMES for frames in turned if frames is not None}
        timeline = self.timeline
        return frozenset(wiped | set(range(0, timeline.frame_count, timeline.gop_frames)))

    def of_kind(self, kind: EventKind) -> list[Event]:
        """Its events of one kind, in order of time."""
        return [event for event in self.events if event.kind == kind]

    def describe(self, event: Event) -> dict[str, Any]:
        """The event as a task's metadata holds it.

        `kind`, `colour` and `symbol` are those of `Event`; `span` and `reveal` are [start, end) in
        seconds, `reveal` None unless it is a card; `box` and `glyph_box` are [x, y, width, height]
        in pixels of the video, `glyph_box` the 5 x 7 dots of the digit or letter, None for a shape.
        """
        fps = self.timeline.fps
        span, reveal = event.span(fps), event.reveal(fps)
        width, height = self.sizes.box(event.kind)
        glyph = self.sizes.glyph_box(event.kind)
        return {
            "kind": event.kind,
            "colour": event.colour,
            "symbol": event.symbol,
            "span": [span.start_seconds, span.end_seconds],
            "reveal": None if reveal is None else [reveal.start_seconds, reveal.end_seconds],
            "box": [event.x_px, event.y_px, width, height],
            "glyph_box": None
            if glyph is None
            else [event.x_px + glyph[0], event.y_px + glyph[1], *glyph[2:]],
        }


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
            f"{counts['card']} cards, {counts['banner']} banners and {counts['shape']} shapes "
            f"don't fit between the {timeline.samples} frames of the overview; ask for fewer"
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
