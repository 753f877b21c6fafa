"""Samples cut into portions that fit into memory, those that share a prompt together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agents.learning.sample import Sample


def micro_batches(
    samples: Sequence[Sample], max_tokens: int, *, share_prompts: bool = True
) -> Iterator[list[int]]:
    """Cut samples into portions of at most `max_tokens` tokens, but of one sample at least.

    Tokens are those that `reading.read` computes: rows are padded to the longest, and padding costs
    what a token costs. A shared prompt counts once in a portion; its keys and values, of which each
    sample keeps a copy, are not counted. Samples of like length stand
    together, so that little is padded.

    Args:
        samples: In any order.
        max_tokens: At least 1.
        share_prompts: Whether they will be read so.

    Yields:
        Indices, each of them once.
    """
    groups: dict[object, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.prompt_key if share_prompts else index, []).append(index)
    for members in groups.values():
        members.sort(key=lambda index: len(samples[index].tokens))
    portion: list[int] = []
    prompts, longest = 0, (0, 0)
    for members in sorted(groups.values(), key=lambda group: len(samples[group[-1]].tokens)):
        is_new_prompt = True
        for index in members:
            prompt, response = _lengths(samples[index])
            grown = max(longest[0], prompt), max(longest[1], response)
            cost = (prompts + is_new_prompt) * grown[0] + (len(portion) + 1) * grown[1]
            if portion and cost > max_tokens:
                yield portion
                portion, prompts, is_new_prompt, grown = [], 0, True, (prompt, response)
            portion.append(index)
            prompts, is_new_prompt, longest = prompts + is_new_prompt, False, grown
    if portion:
        yield portion


def _lengths(sample: Sample) -> tuple[int, int]:
    """Tokens before the first reply, and from there on."""
    return sample.prompt_tokens, len(sample.tokens) - sample.prompt_tokens
