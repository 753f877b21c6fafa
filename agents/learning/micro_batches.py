"""Samples cut into portions that fit into memory, those that share a prompt together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agents.learning.sample import Sample


def micro_batches(samples: Sequence[Sample], max_tokens: int) -> Iterator[list[int]]:
    """Cut samples into portions of at most `max_tokens` tokens, but of one sample at least.

    A prompt counts once in a portion; padding does not count.

    Args:
        samples: In any order.
        max_tokens: At least 1.

    Yields:
        Indices, each of them once.
    """
    order: dict[object, list[int]] = {}
    for index, sample in enumerate(samples):
        order.setdefault(sample.prompt_key, []).append(index)
    portion: list[int] = []
    prompts: set[object] = set()
    tokens = 0
    for key, members in order.items():
        for index in members:
            sample = samples[index]
            response = len(sample.tokens) - sample.prompt_tokens
            cost = response + (0 if key in prompts else sample.prompt_tokens)
            if portion and tokens + cost > max_tokens:
                yield portion
                portion, prompts, tokens = [], set(), 0
                cost = len(sample.tokens)
            portion.append(index)
            prompts.add(key)
            tokens += cost
    if portion:
        yield portion
