"""Examples side by side, of similar length, in random order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from agents.learning.from_nothing.examples import Example

_BATCHES_SORTED = 8
"""Batches whose examples are sorted by length together: more would mix less."""


def batches(
    examples: Sequence[Example], *, tokens: int, rng: np.random.Generator
) -> Iterator[list[Example]]:
    """Batches without end, each example as often as any other.

    Args:
        examples: At least one.
        tokens: Of a batch at most, padding included; a longer example is a batch of its own.
        rng: Shuffles.
    """
    longest = max(len(example.tokens) for example in examples)
    size = max(1, _BATCHES_SORTED * tokens // longest)
    while True:
        order = rng.permutation(len(examples))
        for start in range(0, len(order), size):
            part = sorted((examples[i] for i in order[start : start + size]), key=_length)
            cut = list(_cut(part, tokens))
            for i in rng.permutation(len(cut)):
                yield cut[i]


def _cut(examples: Sequence[Example], tokens: int) -> Iterator[list[Example]]:
    batch: list[Example] = []
    for example in examples:
        if batch and (len(batch) + 1) * _length(example) > tokens:
            yield batch
            batch = []
        batch.append(example)
    yield batch


def _length(example: Example) -> int:
    return len(example.tokens)
