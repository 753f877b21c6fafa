"""Replies that a model should not write and one day will."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

# ruff: noqa: E501
_FRAGMENTS = (
    "<think>", "</think>", "<grounding>", "</grounding>", "<answer>", "</answer>", "<answer", "</",
    '{"temporal_segment": ', '"sampling_strategy": ', "[3, 9]", "[9, 3]", "[0, 1e308]", "[-1e999, 4]",
    "[NaN, 5]", "[Infinity, -Infinity]", "[true, false]", "[null, {}]", "[" * 2000, "{" * 2000,
    "9" * 5000, "-" * 50, ', "sampling_strategy": "fine"}', ', "sampling_strategy": "ultra"}', "'", '"',
    "}", "]", ",", "\\", "\n", "\r\n", "\t", "\x00", "\x1b[2J", "\u202e", "🎬", "中文", "é", "\ud800",
    "\ufffd", " ", "A", "B. blue", "(C)", "d", "<|video_pad|>", "<script>alert(1)</script>", "%s", "{0}",
    "{question}", "x" * 2000,
)  # fmt: skip
_WHOLE = (
    '<think>a</think><grounding>{"temporal_segment": [1, 9], "sampling_strategy": "fine"}</grounding>',
    '<grounding>{"temporal_segment": [50, 1e400], "sampling_strategy": "coarse"}</grounding>',
    "<grounding>{'temporal_segment': [2, 30], 'sampling_strategy': 'medium'}</grounding>",
    "<grounding>{}</grounding>",
    "<think>b</think><answer>B</answer>",
)


def hostile_replies() -> st.SearchStrategy[list[str]]:
    """Lists of replies for Hypothesis."""
    fragments = st.lists(st.sampled_from(_FRAGMENTS) | st.text(max_size=20), max_size=12)
    reply = fragments.map("".join) | st.sampled_from(_WHOLE) | st.text()
    return st.lists(reply, max_size=8)


def random_hostile_replies(count: int, rng: np.random.Generator) -> Iterator[str]:
    """Replies of tags, numbers, broken JSON and random bytes; four in ten are nearly sound."""
    for _ in range(count):
        shape = rng.random()
        if shape < 0.4:
            yield str(rng.choice(_WHOLE))
        elif shape < 0.6:
            yield rng.bytes(int(rng.integers(0, 300))).decode("utf-8", "replace")
        elif shape < 0.7:
            yield rng.bytes(int(rng.integers(0, 300))).decode("utf-8", "surrogateescape")
        else:
            chosen = rng.choice(len(_FRAGMENTS), size=int(rng.integers(1, 12)))
            yield "".join(_FRAGMENTS[place] for place in chosen)
