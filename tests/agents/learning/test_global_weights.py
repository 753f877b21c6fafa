from typing import Any

import pytest
import torch

from agents.learning import global_weights as module
from agents.learning.global_weights import global_weights
from agents.learning.losses import Normalise
from tests.agents.learning.samples import ANSWER, CROP, sample

SAMPLES = [sample(CROP, ANSWER), sample(ANSWER), sample(CROP)]


def written(place: int) -> int:
    return SAMPLES[place].trained_tokens


def test_a_mean_over_tokens_leaves_out_what_carries_no_loss() -> None:
    weights = global_weights(SAMPLES, keep=[True, False, True])
    tokens = written(0) + written(2)
    for place, row in enumerate(weights):
        expected = torch.zeros(len(SAMPLES[place].tokens))
        if place != 1:
            expected[torch.from_numpy(SAMPLES[place].tokens["trained"].copy())] = 1 / tokens
        assert torch.allclose(row, expected) and row.dtype == torch.float32


@pytest.mark.parametrize("normalise", ["tokens", "sequences", "constant"])
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_two_shares_of_a_batch_weigh_what_the_batch_weighs(
    monkeypatch: pytest.MonkeyPatch, normalise: Normalise, cut: int
) -> None:
    """What the other process would send is put in its place; real ones: test_processes."""
    keep = [True, False, True]
    options: dict[str, Any] = {
        "normalise": normalise,
        "constant": 50 if normalise == "constant" else None,
    }
    whole = global_weights(SAMPLES, keep=keep, **options)
    shares = [(SAMPLES[:cut], keep[:cut]), (SAMPLES[cut:], keep[cut:])]
    sent: list[Any] = []
    for samples, kept in shares:
        monkeypatch.setattr(module, "gather_object", lambda own: sent.extend(own) or own)
        global_weights(samples, keep=kept, **options)
    monkeypatch.setattr(module, "gather_object", lambda own: sent)
    parts = [
        row for samples, kept in shares for row in global_weights(samples, keep=kept, **options)
    ]
    for one, other in zip(parts, whole, strict=True):
        assert torch.allclose(one, other)


def test_a_share_without_samples_has_no_weights() -> None:
    assert global_weights([]) == []


def test_nothing_kept_weighs_nothing() -> None:
    assert not any(row.any() for row in global_weights(SAMPLES, keep=[False] * 3))
