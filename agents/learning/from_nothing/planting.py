"""Heads that look at the last tokens, put in place by hand.

Copying what followed a token's last occurrence takes two heads in a row, of which the first tells
each token what came before it. In so small a model it does not form by itself, or takes hundreds of
steps to. It needs no learning: its queries and keys are one constant direction of the embeddings
(`TinyConfig.constant_direction`), which rotary positions turn into a function of distance alone.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from agents.llm.model import VisionLanguageModel
from agents.llm.tiny import CONSTANT_DIMENSIONS
from videoseek_env.errors import ConfigError

FREQUENCIES: Final = 4
"""The fastest rotary frequencies carry the distance: slow ones hardly tell neighbours apart."""
SHARPNESS: Final = 2.0
"""Gain of queries and keys; the neighbour of the wanted token then has exp(-4) of its weight."""


@torch.no_grad()
def plant_previous_token_heads(model: VisionLanguageModel, distances: tuple[int, ...]) -> None:
    """Make the first layer's first heads attend that many tokens back.

    Args:
        model: A new Qwen3-VL with `constant_direction`, changed in place.
        distances: One for each head, in tokens.

    Raises:
        ConfigError: If the model has too few heads, or no query norms.
    """
    text = model.base.model.language_model
    attention, config = text.layers[0].self_attn, text.config
    if not hasattr(attention, "q_norm") or len(distances) > config.num_attention_heads:
        raise ConfigError(
            f"expected a Qwen3-VL with at least {len(distances)} heads, got {type(text).__name__} "
            f"with {config.num_attention_heads}"
        )
    size = config.head_dim
    group = config.num_attention_heads // config.num_key_value_heads
    for head, distance in enumerate(distances):
        _aim(attention.q_proj.weight[head * size : (head + 1) * size], config, -distance)
    for head in range(math.ceil(len(distances) / group)):
        _aim(attention.k_proj.weight[head * size : (head + 1) * size], config, 0)
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight.fill_(SHARPNESS)


def _aim(weight: torch.Tensor, config: object, turn: int) -> None:
    """Let a head's projection, [head_dim, hidden], give a constant, turned by so many positions."""
    half = weight.shape[0] // 2
    theta = config.rope_parameters["rope_theta"]  # type: ignore[attr-defined]
    weight.zero_()
    for pair in range(FREQUENCIES):
        angle = turn * theta ** (-pair / half)
        weight[pair, :CONSTANT_DIMENSIONS] = math.cos(angle)
        weight[pair + half, :CONSTANT_DIMENSIONS] = math.sin(angle)
