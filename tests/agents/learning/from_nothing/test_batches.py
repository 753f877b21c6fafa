from __future__ import annotations

import itertools

import numpy as np
import pytest

from agents.learning.from_nothing.batches import batches
from agents.learning.from_nothing.examples import Example
from agents.llm.context import TOKEN


def example(length: int) -> Example:
    return Example(np.zeros(length, TOKEN), np.zeros((0, 3), np.int64), ())


@pytest.mark.parametrize("limit", [1, 40, 100, 1000])
def test_every_example_comes_once_an_epoch_within_the_limit(limit: int) -> None:
    rng = np.random.default_rng(0)
    examples = [example(length) for length in rng.integers(5, 60, 57)]
    seen: list[int] = []
    for batch in batches(examples, tokens=limit, rng=rng):
        longest = max(len(one.tokens) for one in batch)
        assert len(batch) == 1 or len(batch) * longest <= limit
        seen += map(id, batch)
        if len(seen) >= 57:
            break
    assert sorted(seen) == sorted(map(id, examples))


def test_examples_of_a_batch_are_of_similar_length() -> None:
    examples = [example(length) for length in [10, 50] * 100]
    stream = batches(examples, tokens=500, rng=np.random.default_rng(0))
    sizes = [{len(one.tokens) for one in batch} for batch in itertools.islice(stream, 20)]
    # At most one batch in eight holds the border between short and long.
    assert sum(len(lengths) == 1 for lengths in sizes) >= 15


def test_the_same_generator_gives_the_same_order() -> None:
    examples = [example(length) for length in range(1, 30)]

    def order(seed: int) -> list[list[int]]:
        stream = batches(examples, tokens=60, rng=np.random.default_rng(seed))
        return [[len(one.tokens) for one in batch] for batch in itertools.islice(stream, 30)]

    assert order(3) == order(3) != order(4)
