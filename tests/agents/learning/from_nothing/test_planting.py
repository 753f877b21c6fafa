from __future__ import annotations

import pytest
import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

from agents.learning.from_nothing.planting import plant_previous_token_heads
from agents.llm.model import VisionLanguageModel
from agents.llm.tiny import TinyConfig, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer
from tests.agents.learning.from_nothing.small import small_model
from videoseek_env.errors import ConfigError


def first_layer_weights(model: VisionLanguageModel, length: int) -> torch.Tensor:
    """What the heads of the first layer attend to on random tokens, [heads, L, L]."""
    text = model.base.model.language_model
    attention, layer = text.layers[0].self_attn, text.layers[0]
    ids = torch.randint(256, 1200, (1, length), generator=torch.Generator().manual_seed(0))
    states = layer.input_layernorm(text.embed_tokens(ids))
    cosine, sine = text.rotary_emb(states, torch.arange(length).expand(3, 1, -1))
    size = text.config.head_dim
    query = attention.q_norm(attention.q_proj(states).view(1, length, -1, size)).transpose(1, 2)
    key = attention.k_norm(attention.k_proj(states).view(1, length, -1, size)).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, cosine, sine)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = (query @ key.transpose(-1, -2))[0] / size**0.5
    future = torch.ones(length, length).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(-1)


@torch.no_grad()
def test_planted_heads_attend_so_many_tokens_back_wherever_they_are() -> None:
    model = small_model()
    plant_previous_token_heads(model, (1, 2))
    weights = first_layer_weights(model, 300)
    for head, distance in enumerate((1, 2)):
        assert weights[head].diagonal(-distance).min() > 0.85


@torch.no_grad()
def test_heads_that_are_not_planted_keep_their_projection() -> None:
    before = small_model().base.model.language_model.layers[0].self_attn.q_proj.weight
    model = small_model()
    plant_previous_token_heads(model, (1,))
    after = model.base.model.language_model.layers[0].self_attn.q_proj.weight
    assert torch.equal(after[32:], before[32:])
    assert not torch.equal(after[:32], before[:32])


@pytest.mark.parametrize(
    ("family", "distances"), [("qwen2_5_vl", (1,)), ("qwen3_vl", (1, 2, 3, 4, 5))]
)
def test_a_model_without_such_heads_is_refused(family: str, distances: tuple[int, ...]) -> None:
    tokenizer = tiny_tokenizer()
    config = TinyConfig(family=family, layers=1)  # type: ignore[arg-type]
    model = VisionLanguageModel.wrap(tiny_model(config, tokenizer=tokenizer), tokenizer)
    with pytest.raises(ConfigError, match="expected a Qwen3-VL with at least"):
        plant_previous_token_heads(model, distances)
