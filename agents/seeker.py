"""A policy that really looks: finds cards by colour, crops them, reads their digits."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agents.baselines import read_options, write_segment
from agents.needle_eyes import Sighting, find_sightings, read_card
from videoseek_env.action import MIN_CROP_SECONDS, write_answer, write_crop
from videoseek_env.datasets.needle_scene import COLOURS, SHAPES
from videoseek_env.segment import Segment
from videoseek_env.session import Observation
from videoseek_env.video.clip import Clip

_COLOUR = "|".join(COLOURS)
_SHAPE = "|".join(SHAPES)
_CARDS = re.compile(rf"\b({_COLOUR}) card\b")
_HOP = re.compile(rf"(first|last) (card|banner) .*?(after|before) the ({_COLOUR}) ({_SHAPE})")
_BANNER = re.compile(rf"\b({_COLOUR}) banner\b")
_LETTER = re.compile(r"\bletter ([A-Z])\b")
_COUNT = re.compile(rf"\blarge ({_SHAPE})s\b")
_ORDER = re.compile(r"banners?\b.*\b(first|last)\?")
_WHEN = re.compile(rf"\b({_COLOUR}) (card|banner|{_SHAPE})\b")
_ABOUT_TIME = re.compile(r"[Ww]hen is|when to when|stretch of the video")
_EDGE_SHARE = 0.22
"""How far a thing reaches beyond its first and last overview frame, in overview spacings."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read, and what the readings answer."""

    cards: tuple[Sighting, ...]
    """Cards to crop, in the order in which the question names them."""
    answer: Callable[[Sequence[str]], str]
    """From the digits of the cards to the answer's text."""


class PixelSeeker:
    """Plays needle tasks from pixels alone, with plain numpy.

    It crops each card that the question is about, once more and wider if the digit did not show,
    and guesses what it could not see.
    """

    def __init__(self, *, may_crop: bool = True) -> None:
        """Make a seeker.

        Args:
            may_crop: False answers at once from the overview's evenly spaced frames: the
                single-turn baseline with the same eyes.
        """
        self._may_crop = may_crop
        self.reset()

    def reset(self, *, seed: int | None = None) -> None:
        """Begin an episode."""
        self._rng = np.random.default_rng(seed)
        self._question = ""
        self._options: dict[str, str] = {}
        self._sightings: list[Sighting] = []
        self._spacing_seconds = 0.0
        self._end_seconds = 0.0
        self._digits: dict[Sighting, str] = {}
        self._looks: dict[Sighting, int] = {}
        self._looking_at: Sighting | None = None

    def act(self, observation: Observation) -> str:
        """Crop the next card, or answer."""
        if observation.clip is not None and observation.clip.strategy == "overview":
            self._look_over(observation.text, observation.clip)
        elif observation.clip is not None and self._looking_at is not None:
            digit = read_card(observation.clip, self._looking_at.thing.colour)
            if digit is not None:
                self._digits[self._looking_at] = digit
        plan = make_plan(self._question, self._sightings, self._when)
        if plan is None:
            return self._guess("I can't find what the question is about.")
        for card in plan.cards:
            if self._may_crop and card not in self._digits and self._looks.get(card, 0) < 2:
                return self._crop(card)
        if any(card not in self._digits for card in plan.cards):
            return self._guess("I did not see every digit.")
        return self._answer(plan.answer([self._digits[card] for card in plan.cards]))

    def _look_over(self, text: str, overview: Clip) -> None:
        times = overview.timestamps_seconds
        self._question = text.partition("\n")[0]
        self._options = read_options(text)
        self._sightings = find_sightings(overview)
        self._spacing_seconds = float(times[-1] - times[0]) / max(1, len(times) - 1)
        self._end_seconds = overview.segment.end_seconds

    def _crop(self, card: Sighting) -> str:
        looks = self._looks.get(card, 0)
        self._looks[card], self._looking_at = looks + 1, card
        think = f"The {card.thing.colour} card is at {card.first_seconds:.1f} s; I want its face."
        return write_crop(think, self._span(card, widen=float(looks)), "fine")

    def _span(self, sighting: Sighting, *, widen: float = 0.0) -> Segment:
        """Where the thing is on screen, by the overview; wider by `widen` overview spacings."""
        margin = self._spacing_seconds * (_EDGE_SHARE + widen)
        start = max(0.0, sighting.first_seconds - margin)
        end = min(self._end_seconds, sighting.last_seconds + margin)
        missing = max(0.0, MIN_CROP_SECONDS + 0.1 - (end - start))
        start = max(0.0, start - missing)
        return Segment(round(start, 1), round(max(end, start + MIN_CROP_SECONDS + 0.1), 1))

    def _when(self, sighting: Sighting) -> str:
        return write_segment(self._span(sighting))

    def _answer(self, text: str) -> str:
        for letter, option in self._options.items():
            if option == text:
                return write_answer(f"It is {text}.", letter)
        if self._options:
            return self._guess(f"It looks like {text}, which is no option.")
        return write_answer("I have seen it.", text)

    def _guess(self, think: str) -> str:
        letters = list(self._options) or [str(digit) for digit in range(10)]
        return write_answer(think, str(self._rng.choice(letters)))


def make_plan(
    question: str, sightings: Sequence[Sighting], when: Callable[[Sighting], str]
) -> Plan | None:
    """What a question asks for, given what the overview shows; None where that was not found.

    Args:
        question: The question's text, without options.
        sightings: What the overview shows, in order of time.
        when: Writes down when a thing is on screen.
    """
    if match := _HOP.search(question):
        thing = _neighbour(sightings, *match.groups())
        return _read(thing)
    if match := _COUNT.search(question):
        count = sum(sighting.thing.kind == match[1] for sighting in sightings)
        return Plan((), lambda _: str(count))
    if _CARDS.search(question) and not _ABOUT_TIME.search(question):
        return _plan_cards(question, sightings)
    if "letter" in question or "banner" in question:
        plan = _plan_banner(question, sightings)
        if plan is not None:
            return plan
    if match := _WHEN.search(question):
        seen = _first(sightings, match[2], match[1])
        return Plan((), lambda _: when(seen)) if seen else None
    return None


def _plan_cards(question: str, sightings: Sequence[Sighting]) -> Plan | None:
    cards = [_first(sightings, "card", colour) for colour in _CARDS.findall(question)]
    if not cards or None in cards:
        return None
    found = tuple(card for card in cards if card is not None)
    if len(found) > 1 and re.search(r"\b(sum|add)\b", question, re.IGNORECASE):
        return Plan(found, lambda digits: str(sum(map(int, digits))))
    return Plan(found, "".join)


def _plan_banner(question: str, sightings: Sequence[Sighting]) -> Plan | None:
    banners = [sighting for sighting in sightings if sighting.thing.kind == "banner"]
    if match := _ORDER.search(question):
        return _tell(banners[0 if match[1] == "first" else -1].thing.colour) if banners else None
    if match := _LETTER.search(question):
        colours = [banner.thing.colour for banner in banners if banner.symbol == match[1]]
        return _tell(colours[0]) if colours else None
    if "letter" in question and (match := _BANNER.search(question)):
        return _read(_first(sightings, "banner", match[1]))
    return None


def _read(sighting: Sighting | None) -> Plan | None:
    """Read a card by cropping it, or a banner as the overview shows it."""
    if sighting is None:
        return None
    if sighting.thing.kind == "card":
        return Plan((sighting,), "".join)
    return _tell(sighting.symbol) if sighting.symbol else None


def _tell(text: str) -> Plan:
    return Plan((), lambda _: text)


def _first(sightings: Sequence[Sighting], kind: str, colour: str) -> Sighting | None:
    return next((s for s in sightings if s.thing.kind == kind and s.thing.colour == colour), None)


def _neighbour(
    sightings: Sequence[Sighting], which: str, kind: str, side: str, colour: str, shape: str
) -> Sighting | None:
    """The first thing of a kind after a landmark, or the last one before it."""
    landmark = _first(sightings, shape, colour)
    if landmark is None:
        return None
    if side == "after":
        things = [s for s in sightings if s.first_seconds > landmark.last_seconds]
    else:
        things = [s for s in sightings if s.last_seconds < landmark.first_seconds]
    things = [s for s in things if s.thing.kind == kind]
    return things[0 if which == "first" else -1] if things else None
