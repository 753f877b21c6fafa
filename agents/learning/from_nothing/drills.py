"""Look-ups by the dozen: a thought that goes on to name everything the question could be about.

A demonstration looks up one card and one option. To learn that from demonstrations takes ten times
as many: here cards, banners, shapes and options of a task are looked up by the dozen, in the same
words. What is asked for is drawn with replacement. Were each asked for once, a model could tell the
answers by what has not been said yet, which is easier than to look, and learn that instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Final, NamedTuple

import numpy as np

from agents.learning.demonstrations import Demonstrator, restate_options
from videoseek_env.action import write_crop
from videoseek_env.task import VideoTask

SUMS: Final = 4
"""Pairs of random digits that a drill may ask to put together."""
OPTION_QUERIES: Final = 8
"""Options of which a drill asks for the letter."""


class Piece(NamedTuple):
    """A part of a text that is tokenised by itself."""

    text: str
    is_trained: bool
    """False for what is looked up, which nothing foretells; True for what is found."""


def drill(
    thought: str, demonstrator: Demonstrator, task: VideoTask, *, rng: np.random.Generator
) -> list[Piece]:
    """A reply that no episode asks for: the first thought, then look-ups of all kinds.

    Args:
        thought: The demonstrator's first, as far as it is right.
        demonstrator: Who has seen the overview.
        task: What it plays.
        rng: Of what is asked for.
    """
    queries: list[tuple[str, str]] = []
    events: Sequence[Mapping[str, Any]] = task.metadata["events"]
    for place, event in enumerate(events):
        colour, symbol, times = event["colour"], event["symbol"], demonstrator.times_of(place)
        if event["kind"] == "card":
            crop = write_crop(f" {times[0]} {times[-1]}", demonstrator.segment_of(place), "fine")
            queries.append((f"{colour} card", crop.removeprefix("<think>")))
        elif event["kind"] == "shape":
            queries.append((f"{colour} {symbol}", f" {times[0]}"))
        else:
            queries.append((f"{colour} banner", f" {symbol}"))
            if symbol not in task.options:  # else its letter is looked up
                queries.append((symbol, f" {colour}"))
    for first, second in rng.integers(0, 10, (SUMS, 2)).tolist():
        queries.append((f"{first} {second} sum", f" {first + second}"))
        queries.append((f"{first} {second} number", f" {first}{second}"))
    pieces = [Piece(thought, True)]
    for i in rng.integers(len(queries), size=len(queries)).tolist():
        pieces += [Piece(f". {queries[i][0]}", False), Piece(queries[i][1], True)]
    pieces.append(Piece(f". {restate_options(task)}", True))
    for i in rng.integers(len(task.options), size=OPTION_QUERIES).tolist():
        pieces += [Piece(f". {task.options[i]}", False), Piece(f" {ascii_uppercase[i]}", True)]
    return pieces
