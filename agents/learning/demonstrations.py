"""Demonstrations of needle tasks: what a careful agent would write, from the task's truth.

The first thought states its goal and goes through the overview pair by pair: what each shows, and a
verdict on whether it is what is looked for. A verdict stands behind a token of its own, which has
what it is about just before it: a small model learns it in about half the steps. Where the goal
leaves a colour open, the verdict is followed by it, and is repeated where that colour is needed: a
small model finds what comes behind a word, not what came before it. The thought then says which
card to open, between which times it was seen, and crops it.
The next thought goes through the crop in the same words, and opens another card, the same one again
if its face did not show, or answers. No thought tells what a clip shows before it was shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Final

import numpy as np

from agents.learning.needle_truth import Seen, describe_pairs, holds, name_of, truth_of
from agents.llm.vision import pair_times
from videoseek_env.action import write_answer, write_crop
from videoseek_env.datasets.needle_scene import COLOURS
from videoseek_env.errors import ConfigError
from videoseek_env.segment import Segment
from videoseek_env.session import Observation
from videoseek_env.task import VideoTask
from videoseek_env.video.clip import ClipRef

EDGE_SHARE: Final = 0.22
"""How far a card reaches beyond the first and last overview frame that show it, on average, in
spacings of the overview."""

AGAIN: Final = "again"
"""How a thought goes on after a crop that did not show what it was for."""

_COLOUR: Final = re.compile(rf"\b({'|'.join(COLOURS)})\b")
_MISS_SHARES: Final = (0.6, 2.5)
"""How far off a crop is that misses, in spacings of the overview."""
_LOOSE_SHARE: Final = 0.7
"""How far off an end of a loose crop is, at most."""
_TRIES: Final = 10
_OPEN_COLOUR: Final = ("hop_card_digit", "hop_banner_letter", "banner_colour", "banner_order")
"""The questions that do not tell the colour of what they ask for."""
_COUNT: Final = ("none", "one", "two", "three", "four")
"""In words: a numeral could be a time, or a digit on a card."""


def _counted(events: Sequence[int]) -> dict[int, str]:
    return {place: _count(number) for number, place in enumerate(events, 1)}


def _count(number: int) -> str:
    if number >= len(_COUNT):
        raise ConfigError(
            f"a demonstration counts up to {_COUNT[-1]}, not to {number}; use needle videos with "
            "at most four cards and four banners"
        )
    return _COUNT[number]


def restate_options(task: VideoTask) -> str:
    """The options on one line, as the last thought begins its end.

    >>> task = VideoTask("1", "v", "Which?", "B", "clue_single_wo_tool", options=("7", "5", "2"))
    >>> restate_options(task)
    'A 7, B 5, C 2'
    """
    options = zip(ascii_uppercase, task.options, strict=False)
    return ", ".join(f"{letter} {option}" for letter, option in options)


class Demonstrator:
    """Plays needle tasks by their truth, as a policy that learns from it should play them.

    It may slip: learn from what comes after a slip, not from it. Half of the slips go for something
    else; of the others, which mean the right card, half miss its face and half are off by a little.
    Crops that do not show the face are corrected.
    """

    def __init__(self, *, slip_probability: float = 0.0, guess_probability: float = 0.0) -> None:
        """Make a demonstrator.

        Args:
            slip_probability: How often the first crop of a card is a slip, in [0, 1].
            guess_probability: How often it answers after the overview where a crop is needed, and
                is right all the same, in [0, 1]. From that a model learns to guess, each option as
                often as it is right.
        """
        for name, share in (("slip", slip_probability), ("guess", guess_probability)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name}_probability must lie in [0, 1], got {share}")
        self._slip_probability, self._guess_probability = slip_probability, guess_probability
        self.reset()

    def reset(self, *, seed: int | None = None) -> None:
        """Begin an episode."""
        self._rng = np.random.default_rng(seed)
        self._guesses = self._guess_probability > 0 and self._rng.random() < self._guess_probability
        self.slip = ""
        """The end of the last reply that is wrong on purpose."""

    def reveal(self, task: VideoTask) -> None:
        """Learn the truth.

        Raises:
            ConfigError: If the task is of another dataset, or of a kind without options.
        """
        metadata = truth_of(task)
        self._task = task
        self._events: list[Mapping[str, Any]] = list(metadata["events"])
        self._template: str = metadata["template"]
        self._waiting = self._cards_to_open()
        self._opened: list[int] = []

    def act(self, observation: Observation) -> str:
        """The next crop, or the answer."""
        ref = observation.clip_ref
        think = ""
        if ref is not None and ref.strategy == "overview":
            think = self._look_over(ref) + self._after_overview()
        elif ref is not None:
            think = self._look_at(ref) + self._after_crop(ref)
        if self._waiting:
            return self._crop(think)
        self.slip = ""
        return write_answer(think, self._task.answer)

    # What the question is about

    def _clues(self) -> list[int]:
        clues: list[int] = self._task.metadata["clue_events"]
        return clues

    def _cards_to_open(self) -> list[int]:
        """In the order in which the question names them."""
        cards = [place for place in self._clues() if self._events[place]["kind"] == "card"]
        named = _COLOUR.findall(self._task.question)
        if len(cards) > 1:
            cards.sort(key=lambda place: named.index(self._events[place]["colour"]))
        return cards

    def _goal(self) -> str:
        """What to look for, in the tokens in which it will be seen: with the same spaces."""
        clues = [self._events[place] for place in self._clues()]
        if self._template.startswith("hop"):
            kind = "card" if self._template == "hop_card_digit" else "banner"
            which = "last {} before" if self._is_before else "first {} after"
            return f"{which.format(kind)} {name_of(self._events[self._landmark()])}"
        if self._template == "shape_count":
            return f"number {clues[0]['symbol']}"
        if self._template == "banner_order":
            return f"{self._end} banner"
        if self._template == "banner_colour":
            return f"banner {clues[0]['symbol']}"
        if self._template == "banner_letter":
            return f"{clues[0]['colour']} banner"
        return ", ".join(name_of(self._events[place]) for place in self._cards_to_open())

    @property
    def _end(self) -> str:
        """Which of the banners is asked for."""
        return "first" if self._task.question.endswith("first?") else "last"

    def _verdicts(self) -> dict[int, str]:
        """What is said of an event, where it is not "no".

        It follows from what was read so far. What comes before a landmark is known to be asked for
        only when the landmark is seen, so all that may be are counted until then.
        """
        if self._template in ("shape_count", "banner_order"):
            return _counted(self._clues())
        landmark = {self._landmark(): "found"} if self._template.startswith("hop") else {}
        if self._is_before:
            return _counted(self._candidates()) | landmark
        return dict.fromkeys(self._clues(), "yes") | landmark

    def _mark(self, place: int | None) -> str:
        """What is written behind an event: a verdict, and the colour if the goal leaves it open."""
        verdict = "no" if place is None else self._said.get(place, "no")
        if place is None or verdict in ("no", "found") or self._template not in _OPEN_COLOUR:
            return verdict
        return f"{verdict} {self._events[place]['colour']}"

    def _refer(self, place: int, text: str) -> str:
        """A text about an event, behind the verdict on it if its colour was open."""
        return f"{self._said[place]} {text}" if self._template in _OPEN_COLOUR else text

    @property
    def _is_before(self) -> bool:
        """Whether the question is about the last thing before a landmark."""
        return self._template.startswith("hop") and " before " in self._task.question

    def _candidates(self) -> list[int]:
        """The things of the asked kind before the landmark; the last of them is meant."""
        kind = "card" if self._template == "hop_card_digit" else "banner"
        before = range(self._landmark())
        return [place for place in before if self._events[place]["kind"] == kind]

    def _landmark(self) -> int:
        return next(place for place in self._clues() if self._events[place]["kind"] == "shape")

    # Thoughts

    def _look_over(self, ref: ClipRef) -> str:
        """How the first thought begins."""
        self._overview, self._said = ref, self._verdicts()
        return f"{self._goal()}: {self._scan(ref, lambda seen: self._mark(seen.event))}"

    def _look_at(self, ref: ClipRef) -> str:
        """How a thought after a crop begins."""
        found = self._name_when_found(self._waiting[0])
        return self._scan(ref, lambda seen: "yes" if seen.text == found else "no")

    def _name_when_found(self, place: int) -> str:
        event = self._events[place]
        return name_of(event, is_face=event["kind"] == "card")

    def _scan(self, ref: ClipRef, verdict: Callable[[Seen], str]) -> str:
        """Every pair of a clip: its time as the model reads it, what it shows, the verdict."""

        def text_of(seen: Seen) -> str:
            return seen.text if seen.event is None else f"{seen.text}: {verdict(seen)}"

        times = pair_times(np.asarray(ref.timestamps_seconds)).tolist()
        return ", ".join(
            f"{time:.0f} {text_of(seen)}"
            for time, seen in zip(times, describe_pairs(ref, self._task), strict=True)
        )

    def _after_overview(self) -> str:
        """What follows from the overview, up to which card to open, or the answer."""
        if self._waiting and self._guesses:
            self._waiting = []
            return self._choice(self._landmark_text())
        if self._waiting:
            return self._landmark_text()
        return self._choice(f"{self._landmark_text()}. {self._shown()}")

    def _shown(self) -> str:
        """What a question is about that needs no crop, and what follows from it."""
        clues = self._clues()
        if self._template == "shape_count":
            return f"{_count(len(clues))} {len(clues)}"
        if self._template in ("banner_order", "banner_colour"):
            place = clues[0 if self._end == "first" else -1]
            return self._refer(place, self._events[place]["colour"])
        place = next(place for place in clues if self._events[place]["kind"] == "banner")
        return self._refer(place, name_of(self._events[place]))

    def _landmark_text(self) -> str:
        """The landmark and when it was seen, where the question has one."""
        if not self._template.startswith("hop"):
            return ""
        landmark = self._landmark()
        return f". {name_of(self._events[landmark])} {self.times_of(landmark)[0]}"

    def _choice(self, conclusion: str) -> str:
        """The options, what was found, and the letter of the option that is equal to it.

        A letter stands before its option: to look it up is easier where both are near.
        """
        return f". {restate_options(self._task)}{conclusion} {self._task.answer}"

    def _after_crop(self, ref: ClipRef) -> str:
        """What the last crop told, up to which card to open next, or the answer."""
        face = self._name_when_found(self._waiting[0])
        if all(seen.text != face for seen in describe_pairs(ref, self._task)):
            return f". {AGAIN}"
        self._opened.append(self._waiting.pop(0))
        if self._waiting:
            return f". {face}"
        return self._choice(f". {face}{self._result()}")

    def _result(self) -> str:
        """What the digits of two cards make together."""
        if len(self._opened) < 2:
            return ""
        first, second = (self._events[place]["symbol"] for place in self._opened)
        if self._template == "card_sum":
            return f". {first} {second} sum {int(first) + int(second)}"
        return f". {first} {second} number {first}{second}"

    # Crops

    def _plan(self, name: str, event: int) -> str:
        """What to open next, and between which pairs of the overview an event was seen."""
        times = self.times_of(event)
        return f". {self._refer(self._waiting[0], name)} {times[0]} {times[-1]}"

    def times_of(self, event: int) -> list[str]:
        """The times, as the model reads them, of the overview's pairs that show an event."""
        times = pair_times(np.asarray(self._overview.timestamps_seconds)).tolist()
        seen = describe_pairs(self._overview, self._task)
        return [f"{t:.0f}" for t, pair in zip(times, seen, strict=True) if pair.event == event]

    def _crop(self, think: str) -> str:
        """The thought goes on with a plan, and a crop follows it. Now and then that is a slip."""
        card = self._waiting[0]
        right = name_of(self._events[card]), card
        may_slip, self.slip = not self.slip, ""
        slips = may_slip and self._rng.random() < self._slip_probability
        goes_astray = slips and self._rng.random() < 0.5
        name, event = self._something_else() if goes_astray else right
        segment = self.segment_of(event)
        if slips and not goes_astray:
            is_loose = self._rng.random() < 0.5
            segment = self._loosened(segment) if is_loose else self._missed(segment)
        plan = self._plan(name, event)
        plan = plan.removeprefix(".") if think.endswith(AGAIN) else plan
        reply = write_crop(think + plan, segment, "fine")
        if (name, event) != right:
            self.slip = reply[reply.rindex(plan) :]
        elif segment != self.segment_of(card):
            self.slip = reply[reply.index("<grounding>") :]
        return reply

    def _something_else(self) -> tuple[str, int]:
        """What to go for by mistake: a name and an event, of which half of the names are right.

        The others are in the colour of the event. Nothing is mistaken if nothing else was seen.
        """
        card = self._waiting[0]
        pairs = describe_pairs(self._overview, self._task)
        others = {pair.event for pair in pairs if pair.event is not None} - {card}
        other = int(self._rng.choice(sorted(others) or [card]))
        colour = self._events[card if self._rng.random() < 0.5 else other]["colour"]
        return name_of({**self._events[card], "colour": colour}), other

    def segment_of(self, card: int) -> Segment:
        """Whole seconds around the overview frames that show a card."""
        times = np.asarray(self._overview.timestamps_seconds)
        shown = [t for t in times.tolist() if holds(self._events[card]["span"], t)]
        edge = EDGE_SHARE * self._spacing_seconds()
        start = max(0, round(shown[0] - edge))
        end = min(self._last_second, round(shown[-1] + edge))
        return Segment(start, max(end, start + 1))

    @property
    def _last_second(self) -> int:
        """The last whole second that the overview shows."""
        return math.floor(self._overview.timestamps_seconds[-1])

    def _spacing_seconds(self) -> float:
        times = self._overview.timestamps_seconds
        return (times[-1] - times[0]) / max(1, len(times) - 1)

    def _loosened(self, segment: Segment) -> Segment:
        """A crop as an agent that is still learning makes it: each end a little off."""
        reach = _LOOSE_SHARE * self._spacing_seconds()
        off = self._rng.uniform(-reach, reach, 2)
        start = max(0, round(segment.start_seconds + off[0]))
        end = min(self._last_second, round(segment.end_seconds + off[1]))
        return Segment(start, max(end, start + 1))

    def _missed(self, segment: Segment) -> Segment:
        """A crop of the same length that does not meet the card's face, if one is found."""
        event = self._events[self._waiting[0]]
        begin, finish = event["reveal"] or event["span"]
        for _ in range(_TRIES):
            shift = self._rng.uniform(*_MISS_SHARES) * self._spacing_seconds()
            start = round(segment.start_seconds + shift * self._rng.choice([-1, 1]))
            end = start + round(segment.duration_seconds)
            if start >= 0 and end <= self._last_second and (end < begin or start > finish):
                return Segment(start, end)
        return segment
