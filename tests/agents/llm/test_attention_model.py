"""Task-decoupled attention inside real transformers models, small and of random weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from agents.llm import attention
from agents.llm.attention import (
    decoupled_rows,
    dense_mask,
    query_mask,
    require_task_decoupling,
    use_task_decoupling,
)
from agents.llm.roles import TokenRole
from agents.llm.tiny import Family, TinyConfig, tiny_model
from videoseek_env.errors import ConfigError

FAMILIES: tuple[Family, ...] = ("qwen3_vl", "qwen2_5_vl")
LETTERS = dict(zip("xtgAT", TokenRole, strict=False))
"""x text, t think, g grounding, A answer, T tag; a digit is vision, and its clip."""
EPISODE = "x00000000xtTgTx11111111xtTggTx22xtTAAT"
BATCH = (EPISODE, "x000xtTgTx111xtTAT".ljust(38, "."), "x000xtTgTx111xtTAT".rjust(38, "."))
"""No padding, right padding, left padding."""


@dataclass(frozen=True)
class Batch:
    ids: Tensor
    positions: Tensor
    role: Tensor
    clip: Tensor
    valid: Tensor

    @property
    def kinds(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.role, self.clip, self.valid


def batch_of(*rows: str) -> Batch:
    role = [[TokenRole.VISION if at in "012" else LETTERS.get(at, 0) for at in row] for row in rows]
    clip = [[int(at) if at in "012" else -1 for at in row] for row in rows]
    valid = torch.tensor([[at != "." for at in row] for row in rows])
    ids = torch.randint(20, 400, valid.shape, generator=torch.Generator().manual_seed(0))
    time = (valid.cumsum(1) - 1).clamp(min=0)
    positions = torch.stack([time, time // 2, time // 3])
    return Batch(ids, positions, torch.tensor(role), torch.tensor(clip), valid)


def model_of(family: Family = "qwen3_vl", layers: int = 3, *, decoupled: bool = True) -> Any:
    model = tiny_model(TinyConfig(family=family, layers=layers, initializer_range=0.1))
    if decoupled:
        use_task_decoupling(model)
    return model


def logits(model: Any, batch: Batch, **options: Any) -> Tensor:
    options = {"use_cache": False} | options
    output: Tensor = model(input_ids=batch.ids, position_ids=batch.positions, **options).logits
    return output


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("role", "blocked"), [(TokenRole.GROUNDING, (1, 2)), (TokenRole.ANSWER, (0,))]
)
def test_masked_tokens_predict_as_if_what_they_may_not_see_were_not_there(
    family: Family, role: TokenRole, blocked: tuple[int, ...]
) -> None:
    # One layer, because with two the tokens between have seen the blocked ones.
    model, batch = model_of(family, layers=1), batch_of(EPISODE)
    with torch.no_grad():
        decoupled = logits(model, batch, decoupling=decoupled_rows(*batch.kinds))[0]
        causal = logits(model, batch)[0]
        kept = ~torch.isin(batch.clip[0], torch.tensor(blocked))
        shortened = Batch(
            batch.ids[:, kept],
            batch.positions[:, :, kept],
            *(each[:, kept] for each in batch.kinds),
        )
        removed = logits(model, shortened)[0]
    masked = (batch.role[0] == role) & (torch.arange(len(kept)) > EPISODE.index("1"))
    assert masked.sum() == 2
    torch.testing.assert_close(decoupled[masked], removed[masked[kept]], rtol=0, atol=1e-5)
    assert (decoupled - causal)[masked].abs().amax(1).min() > 1e-2
    untouched = (batch.role[0] != TokenRole.GROUNDING) & (batch.role[0] != TokenRole.ANSWER)
    torch.testing.assert_close(decoupled[untouched], causal[untouched], rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("scope", ["tags", "turn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_equals_the_dense_mask_in_outputs_and_in_gradients_of_all_parameters(
    family: Family, scope: Any, checkpointing: bool
) -> None:
    batch = batch_of(*BATCH)
    plan, mask = decoupled_rows(*batch.kinds, scope=scope), dense_mask(*batch.kinds, scope=scope)
    ours, theirs = model_of(family).train(), model_of(family, decoupled=False).train()
    if checkpointing:
        ours.activation_checkpointing_enable({"use_reentrant": False})
    got, got_gradients = outputs_and_gradients(ours, batch, decoupling=plan)
    expected, expected_gradients = outputs_and_gradients(theirs, batch, attention_mask=mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    assert got_gradients.keys() == expected_gradients.keys()
    for name, gradient in got_gradients.items():
        theirs_of_it = expected_gradients[name]
        assert theirs_of_it.abs().max() > 0 or name.endswith("k_proj.bias")
        scale = float(theirs_of_it.abs().max())
        torch.testing.assert_close(gradient, theirs_of_it, rtol=0, atol=2e-5 * scale + 1e-7)


def outputs_and_gradients(
    model: nn.Module, batch: Batch, **options: Any
) -> tuple[Tensor, Mapping[str, Tensor]]:
    output = logits(model, batch, **options)
    targets = batch.ids.roll(-1, 1).masked_fill(~batch.valid, -100)
    functional.cross_entropy(output.flatten(0, 1), targets.flatten()).backward()
    return output.detach(), {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def test_with_a_plan_no_mask_is_made() -> None:
    model, batch, masks = model_of(), batch_of(*BATCH), []
    for layer in model.model.language_model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, __, options: masks.append(options["attention_mask"]), with_kwargs=True
        )
    logits(model, batch, decoupling=decoupled_rows(*batch.kinds))
    assert masks == [None, None, None]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_reaches_the_text_model_past_the_vision_tower(family: Family) -> None:
    batch, model = batch_of(EPISODE), model_of(family)
    vision = model.config.vision_config
    assert vision._attn_implementation == "sdpa"
    # Clips of 8, 8 and 2 visual tokens: a token is 2 x 2 patches of a pair of frames.
    grid = torch.tensor([[2, 4, 4], [2, 4, 4], [1, 2, 4]])
    is_vision = batch.role == TokenRole.VISION
    batch.ids[is_vision] = model.config.video_token_id
    patches = torch.randn(int(grid.prod(1).sum()), 3 * 2 * vision.patch_size**2)
    videos = {"pixel_values_videos": patches, "video_grid_thw": grid}
    with torch.no_grad():
        got = logits(model, batch, decoupling=decoupled_rows(*batch.kinds), **videos)
        expected = logits(model, batch, attention_mask=dense_mask(*batch.kinds), **videos)
        causal = logits(model, batch, **videos)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    assert (got - causal).abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_plan_it_is_sdpa_padding_included(family: Family) -> None:
    ours, theirs, batch = model_of(family), model_of(family, decoupled=False), batch_of(*BATCH)
    padding = batch.valid.long()
    with torch.no_grad():
        got = logits(ours, batch, attention_mask=padding)
        assert torch.equal(got, logits(theirs, batch, attention_mask=padding))
        assert torch.equal(logits(ours, batch), logits(theirs, batch))
        # Left padding matters, so a mask that got lost would show.
        assert (got - logits(ours, batch))[2][batch.valid[2]].abs().max() > 1e-2


def test_where_no_kernel_knows_groups_keys_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of(), batch_of(BATCH[0])
    with torch.no_grad():
        expected = logits(model, batch)
        monkeypatch.setattr(attention, "_has_grouped_kernel", lambda query: False)
        calls: list[bool] = []

        def called(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
            calls.append(options["enable_gqa"])
            return attend(query, key, value, **options)

        attend = functional.scaled_dot_product_attention
        monkeypatch.setattr(functional, "scaled_dot_product_attention", called)
        torch.testing.assert_close(logits(model, batch), expected, rtol=0, atol=2e-5)
        assert calls == [False] * 3
        for layer in model.model.language_model.layers:
            set_bidirectional(layer.self_attn)
        assert not torch.allclose(logits(model, batch), expected, atol=1e-3)


def test_with_a_mask_keys_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of(), batch_of(*BATCH)
    heads: list[tuple[int, int]] = []

    def called(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        heads.append((query.shape[1], key.shape[1]))
        return attend(query, key, value, **options)

    attend = functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention", called)
    logits(model, batch, attention_mask=batch.valid.long())
    config = model.config.text_config
    assert config.num_key_value_heads < config.num_attention_heads
    assert heads == [(config.num_key_value_heads,) * 2] * 3


def test_generation_without_a_plan_is_that_of_sdpa() -> None:
    ours, theirs, batch = model_of(), model_of(decoupled=False), batch_of(*BATCH[::2])
    options = {
        "attention_mask": batch.valid.long(),
        "max_new_tokens": 5,
        "do_sample": False,
        "temperature": None,
        "top_k": None,
    }
    written = ours.generate(batch.ids, **options)
    assert written.shape == (2, 43)
    assert torch.equal(written, theirs.generate(batch.ids, **options))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kept_cache_with_query_rows_gives_what_one_forward_with_a_plan_gives(
    family: Family,
) -> None:
    model, batch = model_of(family), batch_of(EPISODE)
    role, clip, valid = batch.kinds
    length = role.shape[1]
    cache = DynamicCache(config=model.config.text_config)
    parts, read = [], 0
    with torch.no_grad():
        whole = logits(model, batch, decoupling=decoupled_rows(*batch.kinds))
        # The start by its own plan, a chunk up to the answer, then token by token.
        for end in [EPISODE.index("1"), EPISODE.index("A"), *range(EPISODE.index("A") + 1, 39)]:
            new = slice(read, end)
            part = Batch(
                batch.ids[:, new],
                batch.positions[:, :, new],
                *(each[:, new] for each in batch.kinds),
            )
            if read == 0:
                attention: dict[str, Any] = {"decoupling": decoupled_rows(*part.kinds)}
            else:
                index = torch.arange(read, end)[None]
                rows = query_mask(role[:, new], index, clip[:, :end], valid[:, :end])
                attention = {"attention_mask": rows}
            parts.append(logits(model, part, past_key_values=cache, use_cache=True, **attention))
            read = end
    assert read == length
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=2e-5)


# peft asks transformers by a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_model_wrapped_by_peft_is_switched_and_heeds_the_plan() -> None:
    model, batch = model_of(decoupled=False), batch_of(*BATCH)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    use_task_decoupling(wrapped)
    require_task_decoupling(wrapped)
    with torch.no_grad():
        got = logits(wrapped, batch, decoupling=decoupled_rows(*batch.kinds))
        expected = logits(wrapped, batch, attention_mask=dense_mask(*batch.kinds))
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


def test_a_layer_s_own_scale_is_respected() -> None:
    model, batch = model_of(), batch_of(*BATCH)
    for layer in model.model.language_model.layers:
        layer.self_attn.scaling *= 2
    with torch.no_grad():
        got = logits(model, batch, decoupling=decoupled_rows(*batch.kinds))
        expected = logits(model, batch, attention_mask=dense_mask(*batch.kinds))
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


def test_a_plan_works_under_autocast() -> None:
    model, batch = model_of(), batch_of(*BATCH)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = logits(model, batch, decoupling=decoupled_rows(*batch.kinds))
        expected = logits(model, batch, attention_mask=dense_mask(*batch.kinds))
    # Logits of order 1 through three layers of 8-bit numbers.
    assert (got - expected).float()[batch.valid].abs().mean() < 0.02


def test_a_text_model_by_itself_can_be_switched() -> None:
    text = model_of(decoupled=False).model.language_model
    use_task_decoupling(text)
    require_task_decoupling(text)


def test_a_plan_that_would_be_ignored_is_refused() -> None:
    model, batch = model_of(decoupled=False), batch_of(EPISODE)
    plan = decoupled_rows(*batch.kinds)
    with torch.no_grad():
        ignored = torch.equal(logits(model, batch, decoupling=plan), logits(model, batch))
    assert ignored  # transformers passes the plan on, and nobody reads it
    with pytest.raises(ConfigError, match="'sdpa', which would ignore a plan"):
        require_task_decoupling(model)
    use_task_decoupling(model)
    use_task_decoupling(model)  # twice is once
    require_task_decoupling(model)
    model.set_attn_implementation("sdpa")
    with pytest.raises(ConfigError, match="would ignore a plan"):
        require_task_decoupling(model)


def test_other_models_and_other_kernels_are_refused() -> None:
    for function in (use_task_decoupling, require_task_decoupling):
        with pytest.raises(ConfigError, match="Linear holds neither"):
            function(nn.Linear(2, 2))
    for kernel in ("eager", "flash_attention_2", "flex_attention"):
        model = model_of(decoupled=False)
        model.config.text_config._attn_implementation = kernel
        with pytest.raises(ConfigError, match=f"with '{kernel}': load it with .*='sdpa'"):
            use_task_decoupling(model)
    model = model_of("qwen2_5_vl", layers=2, decoupled=False)
    model.config.text_config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ConfigError, match="use_sliding_window=False"):
        use_task_decoupling(model)


def test_a_plan_with_a_second_mask_is_refused() -> None:
    model, batch = model_of(layers=1), batch_of(*BATCH)
    plan = decoupled_rows(*batch.kinds)
    with pytest.raises(ConfigError, match="pass attention_mask=None"):
        logits(model, batch, decoupling=plan, attention_mask=batch.valid.long())
    with pytest.raises(ConfigError, match="and a mask as well"):
        logits(model, batch, decoupling=plan, attention_mask=dense_mask(*batch.kinds))
    # A fourth row of positions that start anew: transformers takes it for packed sequences.
    packed = (torch.arange(38) % 19).expand(4, 3, -1)
    with pytest.raises(ConfigError, match="packed sequences"):
        model(input_ids=batch.ids, position_ids=packed, decoupling=plan, use_cache=False)


def set_dropout(attention: Any) -> None:
    attention.attention_dropout = 0.1


def set_bidirectional(attention: Any) -> None:
    attention.is_causal = False


@pytest.mark.parametrize(
    ("change", "message"),
    [(set_dropout, "has dropout 0.1"), (set_bidirectional, "is_causal False")],
)
def test_a_plan_for_another_kind_of_layer_is_refused(
    change: Callable[[Any], None], message: str
) -> None:
    model, batch = model_of(layers=1).train(), batch_of(EPISODE)
    change(model.model.language_model.layers[0].self_attn)
    with pytest.raises(ConfigError, match=message):
        logits(model, batch, decoupling=decoupled_rows(*batch.kinds))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sliding_window", 8),
        ("softcap", 30.0),
        ("s_aux", torch.zeros(4)),
        ("cu_seq_lens_q", torch.tensor([0, 19, 38])),
        ("position_bias", torch.zeros(1, 4, 38, 38)),
    ],
)
def test_extras_that_a_plan_can_not_do_are_refused(name: str, value: Any) -> None:
    model, batch = model_of(layers=1), batch_of(EPISODE)
    with pytest.raises(ConfigError, match=f"{name}.*train this batch without a plan"):
        logits(model, batch, decoupling=decoupled_rows(*batch.kinds), **{name: value})


def test_a_plan_for_other_tokens_is_refused() -> None:
    model, batch = model_of(layers=1), batch_of(EPISODE)
    with pytest.raises(ConfigError, match="the plan is for 3 rows of 38 tokens"):
        logits(model, batch, decoupling=decoupled_rows(*batch_of(*BATCH).kinds))
