"""Questions about a procedural video, worded and answered from its plan.

The text alone must not tell the answer. So digits, letters, colours and counts are uniform; options
are drawn so that the right one is exchangeable with the others; letters are shuffled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from types import MappingProxyType
from typing import Final, TypeVar

import numpy as np

from videoseek_env.datasets.needle_scene import COLOURS, DIGITS, LETTERS, Event, Scene
from videoseek_env.datasets.needle_sizes import EventKind
from videoseek_env.task import TaskKind

OPTIONS: Final = 4
"""Options of each multiple-choice question."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene."""

    template: str
    """What is asked for, such as "card_digit"."""
    text: str
    options: tuple[str, ...]
    """Shuffled; empty unless it is multiple choice."""
    answer: str
    """The option's letter, the free text, or empty for temporal grounding."""
    clues: tuple[Event, ...]
    """What must be seen to answer, in order of time.

    A card's clue is its whole span, not the reveal: the span is what the overview lets one find.
    """


Maker = Callable[[Scene, np.random.Generator], Question | None]
"""Makes a question of its template, or None where the scene gives none."""


def ask(scene: Scene, kind: TaskKind, rng: np.random.Generator) -> Question | None:
    """A question of that kind; None where the scene gives none.

    Every template is as likely as the next, among those that the scene allows.
    """
    makers = MAKERS[kind]
    for number in rng.permutation(len(makers)).tolist():
        maker: Maker = makers[number]
        question = maker(scene, rng)
        if question is not None:
            return question
    return None


def _card_digit(scene: Scene, rng: np.random.Generator) -> Question | None:
    cards = scene.of_kind("card")
    if not cards:
        return None
    card = _choice(rng, cards)
    text = _choice(rng, [
        "Which digit does the {} card show when it turns over?",
        "The {} card turns over for a moment. Which digit is on its face?",
        "What digit is written on the face of the {} card?",
        "Which digit appears when the {} card is face up?",
    ]).format(card.colour)  # fmt: skip
    return _choose_symbol("card_digit", text, [card], scene, rng)


def _after_shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The digit of the card next to a landmark: find one to know which other to look at."""
    found = _neighbour(scene, rng, "card")
    if found is None:
        return None
    shape, card, when = found
    text = _choice(rng, [
        "Which digit is on the {} card that appears {} the {} {}?",
        "Find the {} card {} the {} {}. Which digit does it show when it turns over?",
    ]).format("first" if when == "after" else "last", when, shape.colour, shape.symbol)  # fmt: skip
    return _choose_symbol("hop_card_digit", text, [shape, card], scene, rng)


def _card_sum(scene: Scene, rng: np.random.Generator) -> Question | None:
    pair = _two_cards(scene, rng)
    if pair is None:
        return None
    total = sum(int(card.symbol) for card in pair)
    text = _choice(rng, [
        "What is the sum of the digits on the {} card and the {} card?",
        "Add the digit of the {} card to the digit of the {} card. What do you get?",
    ]).format(pair[0].colour, pair[1].colour)  # fmt: skip
    # The others are sums of digits too; drawn together, so that none stands out.
    while (
        len({total, *(others := rng.integers(0, 10, (OPTIONS - 1, 2)).sum(1).tolist())}) < OPTIONS
    ):
        pass
    options = [str(total), *map(str, others)]
    return _multiple_choice("card_sum", text, options, pair, rng)


def _card_pair(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Two digits in order; of a grid of 2 x 2 options, so half the clues give half the answer."""
    pair = _two_cards(scene, rng)
    if pair is None:
        return None
    text = _choice(rng, [
        "Write the digit of the {} card and then the digit of the {} card. Which number is it?",
        "Which number do you read if the {} card's digit comes first and the {} card's second?",
    ]).format(pair[0].colour, pair[1].colour)  # fmt: skip
    first, second = (
        [card.symbol, _choice(rng, [digit for digit in DIGITS if digit != card.symbol])]
        for card in pair
    )
    options = [a + b for a in first for b in second]
    return _multiple_choice("card_pair", text, options, pair, rng)


def _banner_letter(scene: Scene, rng: np.random.Generator) -> Question | None:
    banners = scene.of_kind("banner")
    if not banners:
        return None
    banner = _choice(rng, banners)
    text = _choice(rng, [
        "Which letter is on the {} banner?",
        "What letter does the {} banner carry?",
        "Read the {} banner. Which letter is on it?",
    ]).format(banner.colour)  # fmt: skip
    return _choose_symbol("banner_letter", text, [banner], scene, rng)


def _banner_colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    banners = scene.of_kind("banner")
    if not banners:
        return None
    banner = _choice(rng, banners)
    text = _choice(rng, [
        "What colour is the banner with the letter {}?",
        "On a banner of which colour is the letter {}?",
    ]).format(banner.symbol)  # fmt: skip
    return _choose_colour("banner_colour", text, banner, [banner], scene, rng)


def _shape_count(scene: Scene, rng: np.random.Generator) -> Question | None:
    shape = scene.counted_shape
    if shape is None:
        return None
    seen = [event for event in scene.of_kind("shape") if event.symbol == shape]
    text = _choice(rng, [
        "How many large {}s appear in the video, whatever their colour?",
        "Count the large {}s in the whole video. How many are there?",
    ]).format(shape)  # fmt: skip
    options = [str(len(seen)), *(str(n) for n in range(1, 5) if n != len(seen))]
    return _multiple_choice("shape_count", text, options, seen, rng)


def _banner_order(scene: Scene, rng: np.random.Generator) -> Question | None:
    banners = scene.of_kind("banner")
    if len(banners) < 2:
        return None
    which = _choice(rng, ["first", "last"])
    banner = banners[0 if which == "first" else -1]
    text = _choice(rng, [
        "What is the colour of the banner that appears {}?",
        "Of all the banners in the video, which one comes {}?",
    ]).format(which)  # fmt: skip
    return _choose_colour("banner_order", text, banner, banners, scene, rng)


def _banner_after_shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    found = _neighbour(scene, rng, "banner")
    if found is None:
        return None
    shape, banner, when = found
    text = _choice(rng, [
        "Which letter is on the {} banner that appears {} the {} {}?",
        "Find the {} banner {} the {} {}. Which letter does it carry?",
    ]).format("first" if when == "after" else "last", when, shape.colour, shape.symbol)  # fmt: skip
    return _choose_symbol("hop_banner_letter", text, [shape, banner], scene, rng)


def _when(scene: Scene, rng: np.random.Generator) -> Question | None:
    if not scene.events:
        return None
    event = _choice(rng, scene.events)
    name = f"{event.colour} {event.symbol if event.kind == 'shape' else event.kind}"
    text = _choice(rng, [
        "When is the {} on screen?",
        "From when to when is the {} visible?",
        "Find the stretch of the video that shows the {}.",
    ]).format(name)  # fmt: skip
    return Question("when", text, (), "", (event,))


def _open_digit(scene: Scene, rng: np.random.Generator) -> Question | None:
    question = _card_digit(scene, rng)
    if question is None:
        return None
    (card,) = question.clues
    text = f"{question.text} Answer with the digit."
    return Question("open_card_digit", text, (), card.symbol, (card,))


def _open_letter(scene: Scene, rng: np.random.Generator) -> Question | None:
    question = _banner_letter(scene, rng)
    if question is None:
        return None
    (banner,) = question.clues
    text = f"{question.text} Answer with the letter."
    return Question("open_banner_letter", text, (), banner.symbol, (banner,))


MAKERS: Final = MappingProxyType[TaskKind, tuple[Maker, ...]](
    {
        TaskKind.SINGLE_CLUE_TOOL: (_card_digit,),
        TaskKind.MULTI_CLUE_TOOL: (_card_sum, _card_pair, _after_shape),
        TaskKind.SINGLE_CLUE_DIRECT: (_banner_letter, _banner_colour),
        TaskKind.MULTI_CLUE_DIRECT: (_shape_count, _banner_order, _banner_after_shape),
        TaskKind.OPEN_ENDED: (_open_digit, _open_letter),
        TaskKind.TEMPORAL_GROUNDING: (_when,),
    }
)
"""The templates of each kind."""


def _two_cards(scene: Scene, rng: np.random.Generator) -> list[Event] | None:
    cards = scene.of_kind("card")
    if len(cards) < 2:
        return None
    return [cards[number] for number in rng.choice(len(cards), 2, replace=False)]


def _neighbour(
    scene: Scene, rng: np.random.Generator, kind: EventKind
) -> tuple[Event, Event, str] | None:
    """A shape, the event of that kind next to it, and "after" or "before"."""
    found: list[tuple[Event, Event, str]] = []
    for shape in scene.of_kind("shape"):
        things = scene.of_kind(kind)
        after = [thing for thing in things if thing.start_frame > shape.start_frame]
        before = [thing for thing in things if thing.start_frame < shape.start_frame]
        found += [(shape, after[0], "after")] if after else []
        found += [(shape, before[-1], "before")] if before else []
    return _choice(rng, found) if found else None


def _choose_symbol(
    template: str, text: str, clues: list[Event], scene: Scene, rng: np.random.Generator
) -> Question:
    """Which digit or letter: that of the last clue."""
    event = clues[-1]
    shown = [other.symbol for other in scene.of_kind(event.kind)]
    options = _options(event.symbol, shown, DIGITS if event.kind == "card" else LETTERS, rng)
    return _multiple_choice(template, text, options, clues, rng)


def _choose_colour(
    template: str,
    text: str,
    event: Event,
    clues: list[Event],
    scene: Scene,
    rng: np.random.Generator,
) -> Question:
    shown = [other.colour for other in scene.of_kind(event.kind)]
    options = _options(event.colour, shown, list(COLOURS), rng)
    return _multiple_choice(template, text, options, clues, rng)


def _options(
    right: str, shown: Sequence[str], all_of_them: Sequence[str], rng: np.random.Generator
) -> list[str]:
    """The right one and three others, those that the video shows elsewhere first."""
    others = [text for text in dict.fromkeys(shown) if text != right]
    rest = [text for text in all_of_them if text != right and text not in others]
    mixed = [others[i] for i in rng.permutation(len(others))]
    mixed += [rest[i] for i in rng.permutation(len(rest))]
    return [right, *mixed[: OPTIONS - 1]]


def _multiple_choice(
    template: str, text: str, options: list[str], clues: Sequence[Event], rng: np.random.Generator
) -> Question:
    """Shuffle the options, of which the first is right, and put the clues in order of time."""
    order = rng.permutation(len(options)).tolist()
    shuffled = tuple(options[number] for number in order)
    in_order = tuple(sorted(clues, key=lambda event: event.start_frame))
    return Question(template, text, shuffled, ascii_uppercase[order.index(0)], in_order)


def _choice(rng: np.random.Generator, items: Sequence[_T]) -> _T:
    return items[int(rng.integers(len(items)))]
