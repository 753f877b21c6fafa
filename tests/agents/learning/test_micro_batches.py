from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from agents.learning.micro_batches import micro_batches
from agents.learning.reading import read
from agents.learning.sample import Sample
from agents.llm.model import VisionLanguageModel
from tests.agents.learning.samples import ANSWER, CROP, sample
from tests.agents.llm.models import tiny

SAMPLES = [
    sample(CROP, ANSWER),
    sample(ANSWER, question="Alone?"),
    sample(ANSWER),
    sample(CROP, CROP, ANSWER),
    sample(ANSWER, question="How many stars?"),
    sample(CROP, ANSWER, question="How many stars?"),
]


def computed_tokens(samples: list[Sample], *, share_prompts: bool) -> int:
    """Those that `read` has a model compute, padding included."""
    counted: list[int] = []

    def hidden(self: VisionLanguageModel, ids: Tensor, *_: Any, **options: Any) -> Tensor:
        counted.append(ids.numel())
        return torch.zeros(*ids.shape, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VisionLanguageModel, "hidden", hidden)
        patch.setattr(VisionLanguageModel, "encode", lambda self, clips: clips)
        read(tiny(), samples, share_prompts=share_prompts)
    return sum(counted)


@given(
    places=st.lists(st.integers(0, len(SAMPLES) - 1), max_size=12),
    max_tokens=st.integers(1, 1000),
    share_prompts=st.booleans(),
)
def test_every_sample_is_in_one_portion_and_no_portion_is_too_large(
    places: list[int], max_tokens: int, share_prompts: bool
) -> None:
    samples = [SAMPLES[place] for place in places]
    portions = list(micro_batches(samples, max_tokens, share_prompts=share_prompts))
    assert sorted(i for portion in portions for i in portion) == list(range(len(samples)))
    for portion in portions:
        chosen = [samples[i] for i in portion]
        tokens = computed_tokens(chosen, share_prompts=share_prompts)
        assert tokens <= max_tokens or len(portion) == 1


def test_those_that_share_a_prompt_stand_together() -> None:
    # 0, 2 and 3 begin alike, as do 4 and 5; the group with the longest sample comes last.
    (portion,) = micro_batches(SAMPLES, 10_000)
    assert portion == [1, 4, 5, 2, 0, 3]


def test_a_shared_prompt_counts_once() -> None:
    one = sample(ANSWER)
    response = len(one.tokens) - one.prompt_tokens
    tokens = one.prompt_tokens + 3 * response
    assert [len(p) for p in micro_batches([one] * 3, tokens)] == [3]
    assert [len(p) for p in micro_batches([one] * 3, tokens - 1)] == [2, 1]
    assert [len(p) for p in micro_batches([one] * 3, tokens, share_prompts=False)] == [1, 1, 1]


def test_nothing_is_cut_into_nothing() -> None:
    assert list(micro_batches([], 10)) == []
