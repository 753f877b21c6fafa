"""Weights of tokens over the episodes of all processes together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from agents.learning.losses import Normalise, token_weights
from agents.learning.sample import Sample


def global_weights(
    samples: Sequence[Sample],
    *,
    keep: Sequence[bool] | None = None,
    normalise: Normalise = "tokens",
    constant: int | None = None,
) -> list[Tensor]:
    """`token_weights` of this process's share of a batch; every process has to call this.

    Args:
        samples: This process's, perhaps none.
        keep: Whether each sample's tokens carry loss; all do by default.
        normalise: As for `token_weights`.
        constant: As for `token_weights`.

    Returns:
        float32 [L] for each sample.
    """
    kept = [True] * len(samples) if keep is None else list(keep)
    own = np.array(
        [sum(s.trained_tokens for s, k in zip(samples, kept, strict=True) if k), len(samples)]
    )
    of_all = np.sum(gather_object([own]), axis=0)
    if not samples:
        return []
    trained = torch.zeros(len(samples), max(len(s.tokens) for s in samples), dtype=torch.bool)
    for row, sample in zip(trained, samples, strict=True):
        row[: len(sample.tokens)] = torch.from_numpy(sample.tokens["trained"].copy())
    # `token_weights` divides by what this process has. Times that over what all have, it is as if
    # one process had all.
    tokens, sequences = own / of_all.clip(min=1)
    weights = token_weights(
        trained, keep=torch.tensor(kept), normalise=normalise, constant=constant
    )
    weights *= float(tokens if normalise == "tokens" else sequences)
    return [row[: len(sample.tokens)] for row, sample in zip(weights, samples, strict=True)]
