"""A model that is small even for this package, and demonstrations for it, made once."""

from __future__ import annotations

import itertools
from functools import cache

from agents.learning.from_nothing.examples import Example
from agents.learning.from_nothing.imagined import imagine
from agents.learning.from_nothing.settings import needle_config
from agents.llm.model import VisionLanguageModel
from agents.llm.tiny import TinyConfig, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer

SMALL = TinyConfig(
    hidden_size=64,
    layers=2,
    heads=2,
    key_value_heads=1,
    mlp_size=64,
    vision_hidden_size=32,
    vision_layers=1,
    vision_mlp_size=32,
)


def small_model() -> VisionLanguageModel:
    """New weights, the same each time."""
    tokenizer = tiny_tokenizer()
    return VisionLanguageModel.wrap(tiny_model(SMALL, tokenizer=tokenizer), tokenizer)


@cache
def imagined_examples(count: int = 24, drill_probability: float = 0.0) -> list[Example]:
    """Demonstrations without pixels, of all four quadrants in turn."""
    model = small_model()
    examples = imagine(
        model,
        needle_config("small", 1),
        slip_probability=0.5,
        drill_probability=drill_probability,
        seed=0,
    )
    return list(itertools.islice(examples, count))
