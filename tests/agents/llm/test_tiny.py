from __future__ import annotations

import math
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from agents.llm.tiny import TinyConfig, tiny_model
from agents.llm.tiny_tokenizer import SPECIAL_TOKENS
from tests.agents.llm.models import FAMILIES
from tests.agents.llm.tiny_inputs import SMALL, clip_inputs
from videoseek_env.errors import ConfigError


@pytest.mark.parametrize(
    ("family", "cls", "beside_embeddings"),
    [
        # Text: 4 x (128 x (128 + 64 + 64 + 128) + 3 x 128 x 384 + 2 x 128 + 2 x 32) + 128.
        # Patches: 1536 x 96 + 96. Positions: 16 x 96. Blocks: 2 x (96 x 288 + 288 + 96 x 96 + 96
        # + 2 x 96 x 192 + 192 + 96 + 4 x 96). Two mergers: 2 x (384 x 384 + 384 + 384 x 128 + 128)
        # and norms of 2 x 96 and 2 x 384.
        ("qwen3_vl", Qwen3VLForConditionalGeneration, 1_481_696),
        # Text: as above, but biases of 256 for norms of 64. Patches: 1176 x 96. Blocks:
        # 2 x (96 x 288 + 288 + 96 x 96 + 96 + 3 x 96 x 192 + 2 x 192 + 96 + 2 x 96). One merger
        # with a norm of 96.
        ("qwen2_5_vl", Qwen2_5_VLForConditionalGeneration, 1_285_152),
    ],
)
def test_it_is_a_real_model_of_some_million_parameters(
    family: Any, cls: type, beside_embeddings: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_model(TinyConfig(family=family))
    assert type(model) is cls
    # Embeddings are tied, so they count once.
    assert model.num_parameters() == 128 * len(tokenizer) + beside_embeddings
    assert (model.dtype, model.device.type, model.training) == (torch.float32, "cpu", False)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_weights_are_normal_biases_zero_and_gains_one() -> None:
    for name, parameter in tiny_model(TinyConfig(constant_direction=False)).named_parameters():
        if parameter.ndim == 1:
            assert torch.all(parameter == (0.0 if name.endswith("bias") else 1.0)), name
        else:
            # Six standard errors of a mean and of a standard deviation.
            n, values = parameter.numel(), parameter.detach()
            assert abs(float(values.mean())) < 6 * 0.06 / math.sqrt(n), name
            assert abs(float(values.std()) - 0.06) < 6 * 0.06 / math.sqrt(2 * n), name


def test_token_embeddings_share_a_direction_as_long_as_their_random_part() -> None:
    plain, shifted = (
        tiny_model(TinyConfig(constant_direction=flag)).state_dict() for flag in (False, True)
    )
    embedding = "model.language_model.embed_tokens.weight"
    shift = shifted[embedding] - plain[embedding]
    # 0.06 * sqrt(128 / 8) = 0.24 in eight dimensions: a length of 0.06 * sqrt(128) = 0.679.
    torch.testing.assert_close(shift[:, :8], torch.full_like(shift[:, :8], 0.24))
    assert not shift[:, 8:].any()
    tied = {embedding, "lm_head.weight"}
    assert all(torch.equal(plain[key], shifted[key]) for key in plain.keys() - tied)


def test_the_seed_alone_decides_the_weights() -> None:
    config = TinyConfig(**SMALL, seed=5)
    torch.manual_seed(1)
    first = tiny_model(config).state_dict()
    torch.manual_seed(2)
    with ThreadPoolExecutor(4) as pool:
        others = list(pool.map(lambda _: tiny_model(config).state_dict(), range(8)))
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)
    another = tiny_model(TinyConfig(**SMALL, seed=6)).state_dict()
    assert not torch.equal(first["lm_head.weight"], another["lm_head.weight"])


def test_global_random_states_stay_as_they_are() -> None:
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: tiny_model(TinyConfig(**SMALL)), range(8)))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert python_state == random.getstate()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_depend_on_the_video(family: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model(TinyConfig(family=family), tokenizer=tokenizer)
    inputs = clip_inputs(model, tokenizer)
    other = inputs | {"pixel_values_videos": inputs["pixel_values_videos"].flip(0)}
    with torch.no_grad():
        logits, others = model(**inputs).logits, model(**other).logits
    assert logits.shape == (1, inputs["input_ids"].shape[1], len(tokenizer))
    assert torch.isfinite(logits).all()
    first = int((inputs["input_ids"][0] == model.config.video_token_id).nonzero()[0])
    assert torch.equal(logits[:, :first], others[:, :first])
    assert not torch.allclose(logits[:, -1], others[:, -1], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_reaches_every_parameter_and_lowers_the_loss(
    family: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_model(TinyConfig(family=family), tokenizer=tokenizer).train()
    inputs = clip_inputs(model, tokenizer)
    labels = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] > 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    # Nearly uniform over the vocabulary at first: ln 1549 = 7.3.
    assert 6.5 < losses[0] < 8.5
    assert losses[-1] < 0.5 * losses[0]


def test_it_generates_ordinary_tokens_until_the_end_of_the_turn(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = tiny_model(TinyConfig(**SMALL), tokenizer=tokenizer)
    inputs = tokenizer("Which digit?", return_tensors="pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ids = model.generate(**inputs, max_new_tokens=60, num_return_sequences=16)
    special = set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS.values())))
    seen = set(ids[:, inputs["input_ids"].shape[1] :].flatten().tolist())
    # Padding follows an end of turn.
    assert seen & special <= {tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(seen) > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "qwen2_vl"}, "family must be one of qwen3_vl, qwen2_5_vl, got 'qwen2_vl'"),
        ({"layers": 0, "heads": -1}, "layers, heads must be at least 1"),
        ({"hidden_size": 130}, "hidden_size must be heads times an even number"),
        ({"hidden_size": 16}, "at least 6; got 16 for 4 heads"),
        ({"key_value_heads": 3}, "heads must be a multiple of key_value_heads, got 4 and 3"),
        ({"vision_hidden_size": 24}, "vision_hidden_size must be vision_heads times a multiple"),
        ({"initializer_range": 0.0}, "initializer_range"),
        ({"initializer_range": math.nan}, "initializer_range"),
        ({"seed": -1}, "seed must lie in"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TinyConfig(**changes)


@settings(max_examples=30)
@given(
    st.sampled_from(FAMILIES),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(3, 9),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_every_accepted_size_works(
    tokenizer: PreTrainedTokenizerFast,
    family: Any,
    key_value_heads: int,
    groups: int,
    half_head: int,
    vision_heads: int,
    quarter_head: int,
) -> None:
    heads = key_value_heads * groups
    config = TinyConfig(
        family=family, hidden_size=2 * half_head * heads, layers=1, heads=heads, mlp_size=4,
        key_value_heads=key_value_heads, vision_hidden_size=4 * vision_heads * quarter_head,
        vision_layers=1, vision_heads=vision_heads, vision_mlp_size=4,
    )  # fmt: skip
    assert sum(config.mrope_section) == half_head
    model = tiny_model(config, tokenizer=tokenizer)
    with torch.no_grad():
        assert torch.isfinite(model(**clip_inputs(model, tokenizer)).logits).all()


def test_a_tokenizer_without_vision_tokens_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    backend = tokenizer.backend_tokenizer.to_str().replace("<|video_pad|>", "<|other|>")
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend))
    with pytest.raises(ConfigError, match=r"the tokenizer lacks <\|video_pad\|>"):
        tiny_model(tokenizer=plain)
