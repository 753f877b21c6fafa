"""How likely the model finds what was written: what SFT and RL differentiate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from agents.llm.batch import TokenBatch
from agents.llm.decoupling import DecoupledRows
from agents.llm.model import VisionLanguageModel
from agents.llm.vision_tower import ClipFeatures
from videoseek_env.errors import ConfigError

_LOGITS_AT_ONCE: Final = 2**27
"""Half a gigabyte of them."""


def log_probabilities(
    model: VisionLanguageModel,
    batch: TokenBatch,
    features: Sequence[ClipFeatures],
    *,
    decoupling: DecoupledRows | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """The log-probability of each trained token after those before it, with gradients.

    The same numbers that generation records, but for rounding: ids that are never sampled take no
    part in the softmax here either. Logits are made only where a token is trained, so the memory
    that a large vocabulary takes is that of the replies and not of the frames.

    Args:
        model: Whose opinion.
        batch: Right-padded contexts.
        features: Of all their clips, context by context.
        decoupling: From `TaskDecoupling.draw`; None is causal.
        temperature: Divides the logits, above zero; that of the rollout.

    Returns:
        float32 [B, L]; 0 where a token is not trained.

    Raises:
        ConfigError: If the first token of a context is trained: nothing comes before it.
    """
    hidden = model.hidden(batch.ids, batch.positions, features, decoupling=decoupling)
    return read_out(model, hidden, batch, temperature=temperature)


def read_out(
    model: VisionLanguageModel, hidden: Tensor, batch: TokenBatch, *, temperature: float = 1.0
) -> Tensor:
    """The log-probabilities of trained tokens, from hidden states that are there already.

    Args:
        model: Whose states they are.
        hidden: Last hidden states, [B, L, width].
        batch: Their tokens.
        temperature: As for `log_probabilities`, and so are what it returns and raises.
    """
    if bool(batch.trained[:, 0].any()):
        raise ConfigError("the first token of a context has nothing before it to be likely after")
    trained = batch.trained[:, 1:]
    states, ids = hidden[:, :-1][trained], batch.ids[:, 1:][trained]

    def scored(states: Tensor, ids: Tensor) -> Tensor:
        logits = model.logits(states) / temperature
        # Of a model on several devices, they come from the last one.
        scores = logits.log_softmax(-1).gather(-1, ids[:, None].to(logits.device))
        return scores[:, 0].to(ids.device)

    size = max(1, _LOGITS_AT_ONCE // len(model.vocabulary.banned))
    if len(ids) <= size:
        picked = scored(states, ids)
    else:  # logits are made again for the backward pass: all of them at once would not fit
        pieces = zip(torch.split(states, size), torch.split(ids, size), strict=True)
        picked = torch.cat([checkpoint(scored, *piece, use_reentrant=False) for piece in pieces])
    scores = torch.zeros(batch.ids.shape, device=picked.device)
    return scores.masked_scatter(batch.trained, picked)
