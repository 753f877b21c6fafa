import copy
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from agents.llm.vision import Patches, VisionSpec, pack, patchify
from agents.llm.vision_tower import (
    BATCHED_ATTENTION,
    ClipFeatures,
    PatchProjection,
    encode_clips,
    encoder_outputs,
    segment_attention,
    use_batched_vision_attention,
    use_matrix_patch_projection,
)
from videoseek_env.errors import ConfigError

VIDEO, START, END = 61, 62, 63
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
    "initializer_range": 0.2,
}
# Weights large enough that attention is far from uniform, and a wrong segment shows.
VISION = {
    "depth": 2,
    "hidden_size": 24,
    "num_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
IDS = {"image_token_id": 60, "video_token_id": VIDEO, "vision_start_token_id": START}


def qwen3() -> Any:
    vision = VISION | {
        "out_hidden_size": 32,
        "patch_size": 4,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    config = Qwen3VLConfig(
        text_config=TEXT | {"head_dim": 16}, vision_config=vision, vision_end_token_id=END, **IDS
    )
    return Qwen3VLForConditionalGeneration(config)


def qwen2_5() -> Any:
    # Windows of 4 x 4 patches in the first layer, whole frames in the second.
    vision = VISION | {
        "out_hidden_size": 32,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=TEXT, vision_config=vision, vision_end_token_id=END, **IDS
    )
    return Qwen2_5_VLForConditionalGeneration(config)


FAMILIES: dict[str, Callable[[], Any]] = {"qwen3": qwen3, "qwen2.5": qwen2_5}
families = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)


def seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make().eval()


def clip(model: Any, frames: int, rows: int, columns: int) -> Patches:
    """Noise of so many frames, and tokens a frame."""
    spec = VisionSpec.from_config(model.config)
    rng = np.random.default_rng([frames, rows, columns])
    shape = (frames, rows * spec.grid_px, columns * spec.grid_px, 3)
    return patchify(rng.integers(0, 256, shape, dtype=np.uint8), spec)


SIZES = {
    "one pair": [(2, 1, 1)],
    "one clip": [(12, 2, 3)],
    "equal clips": [(4, 2, 2), (4, 2, 2)],
    "mixed clips": [(5, 3, 5), (4, 1, 1), (8, 4, 4)],
    "alternating sizes": [(2, 1, 1), (2, 2, 3)] * 5,
}
"""Frames, rows and columns of tokens. With windows of 2 x 2 tokens, odd sides leave smaller windows
at the edge of each frame."""


def features_of(model: Any, clips: Sequence[Patches]) -> list[torch.Tensor]:
    """What transformers computes of clips in this very order: embeddings, and those between."""
    packed = pack(clips)
    output = model.model.get_video_features(packed.values, packed.grids, return_dict=True)
    layers = getattr(output, "deepstack_features", None) or []
    return [torch.cat(output.pooler_output), *(torch.cat(layer) for layer in layers)]


def adapted(model: Any, config: LoraConfig) -> Any:
    """The model in a peft model."""
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        return get_peft_model(model, config)


def assert_equal(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-6) -> None:
    """Equal but for roundings, measured against the largest number."""
    scale = expected.abs().amax().item()
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


def assert_equal_features(left: ClipFeatures, right: ClipFeatures) -> None:
    for one, other in zip(
        (left.embeddings, *left.deepstack), (right.embeddings, *right.deepstack), strict=True
    ):
        assert_equal(one, other)


# Attention


@families
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_both_changes_leave_features_and_gradients_as_they_are(
    make: Callable[[], Any], sizes: list[tuple[int, int, int]]
) -> None:
    model = seeded(make)
    clips = [clip(model, *size) for size in sizes]
    parameters = list(model.model.visual.parameters())

    def run() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        features = features_of(model, clips)
        # A squared sum, so that the gradient depends on every value.
        return features, list(
            torch.autograd.grad(sum(x.square().sum() for x in features), parameters)
        )

    expected_features, expected_gradients = run()
    for change in (use_batched_vision_attention, use_matrix_patch_projection):
        change(model)
        features, gradients = run()
        for actual, expected in zip(features, expected_features, strict=True):
            assert_equal(actual, expected)
        for actual, expected in zip(gradients, expected_gradients, strict=True):
            assert_equal(actual, expected, 1e-5)


@given(lengths=st.lists(st.sampled_from([1, 2, 3, 7]), min_size=1, max_size=24))
def test_each_segment_attends_to_itself_alone(lengths: list[int]) -> None:
    total = sum(lengths)
    states = torch.randn(3, 1, 2, total, 8, generator=torch.Generator().manual_seed(total))
    ours, theirs = (states.clone().requires_grad_() for _ in range(2))
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    output, weights = segment_attention(
        torch.nn.Module(), *ours, None, scaling=0.3, cu_seq_lens_q=starts
    )
    expected = torch.cat(
        [
            F.scaled_dot_product_attention(*segment, scale=0.3)
            for segment in torch.split(theirs, lengths, dim=3)
        ],
        dim=2,
    ).transpose(1, 2)
    assert weights is None
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
    slopes = torch.arange(output.numel()).view(output.shape) / output.numel()
    (output * slopes).sum().backward()
    (expected * slopes).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "calls"),
    [
        # Two layers, all frames of one size: a call each.
        (qwen3, 2),
        # Windows of 4 x 4 patches in frames of 6 x 10 leave windows of 16, 8 and 4 patches: three
        # calls. The other layer sees whole frames: one.
        (qwen2_5, 4),
    ],
    ids=FAMILIES,
)
@pytest.mark.parametrize("pairs", [3, 30])
def test_the_number_of_attention_calls_does_not_depend_on_the_number_of_frames(
    make: Callable[[], Any], calls: int, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = seeded(make)
    use_batched_vision_attention(model)
    attend, counted = F.scaled_dot_product_attention, []

    def counting(*states: torch.Tensor, **options: Any) -> torch.Tensor:
        counted.append(states[0].shape)
        return attend(*states, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    encode_clips(model, [clip(model, 2 * pairs, 3, 5)])
    assert len(counted) == calls


def test_dropout_reaches_the_kernel() -> None:
    states = torch.ones(3, 1, 1, 4, 2)
    starts = torch.tensor([0, 2, 4], dtype=torch.int32)
    output, _ = segment_attention(
        torch.nn.Module(), *states, None, dropout=1.0, cu_seq_lens_q=starts
    )
    assert not output.any()


@families
def test_only_the_vision_tower_changes_and_can_change_back(make: Callable[[], Any]) -> None:
    model = seeded(make)
    use_batched_vision_attention(model)
    use_batched_vision_attention(model)
    assert model.config.vision_config._attn_implementation == BATCHED_ATTENTION
    assert model.config.text_config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "sdpa"
    copied = copy.deepcopy(model)
    clips = [clip(model, 4, 1, 2)]
    assert_equal_features(encode_clips(copied, clips)[0], encode_clips(model, clips)[0])
    model.set_attn_implementation({"vision_config": "sdpa"})
    assert model.config.vision_config._attn_implementation == "sdpa"


@families
def test_a_saved_model_does_not_remember_its_changes(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    model = seeded(make)
    use_batched_vision_attention(model)
    use_matrix_patch_projection(model)
    clips = [clip(model, 6, 3, 2)]
    expected = encode_clips(model, clips)[0]
    model.save_pretrained(tmp_path)
    assert BATCHED_ATTENTION not in (tmp_path / "config.json").read_text()
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.vision_config._attn_implementation == "sdpa"
    assert type(loaded.model.visual.patch_embed.proj) is torch.nn.Conv3d
    assert_equal_features(encode_clips(loaded, clips)[0], expected)


def test_a_language_model_that_uses_the_name_is_told_so() -> None:
    model = seeded(qwen3)
    use_batched_vision_attention(model)
    model.config.text_config._attn_implementation = BATCHED_ATTENTION
    with pytest.raises(ConfigError, match="called by Qwen3VLTextAttention: give the language"):
        model(input_ids=torch.tensor([[1, 2, 3]]))


def test_a_model_without_a_vision_tower_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear has no vision tower"):
        use_batched_vision_attention(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="Qwen3VLTextModel has no vision tower"):
        encode_clips(seeded(qwen3).model.language_model, [])


# The projection of patches


@families
def test_the_projection_keeps_its_parameters_and_their_names(make: Callable[[], Any]) -> None:
    model = seeded(make)
    before = dict(model.model.visual.patch_embed.named_parameters())
    use_matrix_patch_projection(model)
    use_matrix_patch_projection(model)
    projection = model.model.visual.patch_embed.proj
    assert type(projection) is PatchProjection
    after = dict(model.model.visual.patch_embed.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


def test_an_adapter_on_the_projection_still_adapts_it() -> None:
    model = seeded(qwen3)
    adapter = LoraConfig(target_modules=r".*patch_embed\.proj", init_lora_weights=False)
    wrapped = adapted(model, adapter)
    clips = [clip(model, 4, 1, 3)]
    expected = encode_clips(wrapped, clips)[0]
    use_matrix_patch_projection(wrapped)
    assert type(model.model.visual.patch_embed.proj.base_layer) is PatchProjection
    assert_equal_features(encode_clips(wrapped, clips)[0], expected)


def test_a_tower_without_such_a_projection_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear has no vision tower"):
        use_matrix_patch_projection(torch.nn.Linear(2, 2))
    model = seeded(qwen3)
    model.model.visual.patch_embed.proj = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="expected a Conv3d that reads patches, got Linear"):
        use_matrix_patch_projection(model)


# Clips to features


@families
@pytest.mark.parametrize("max_patches", [None, 64, 10_000])
def test_clips_encoded_together_are_those_encoded_alone(
    make: Callable[[], Any], max_patches: int | None
) -> None:
    model = seeded(make)
    # Sizes in no order, and, at 64 patches of one forward, clips in several parts: frames have 60,
    # 4, 60 and 16 patches.
    clips = [clip(model, *size) for size in [(5, 3, 5), (40, 1, 1), (4, 3, 5), (8, 2, 2)]]
    alone = [features_of(model, [one]) for one in clips]
    use_batched_vision_attention(model)
    together = encode_clips(model, clips, max_patches=max_patches)
    assert [len(features.embeddings) for features in together] == [45, 20, 30, 16]
    layers = 2 if make is qwen3 else 0
    assert {len(features.deepstack) for features in together} == {layers}
    for features, expected in zip(together, alone, strict=True):
        assert_equal_features(features, ClipFeatures(expected[0], tuple(expected[1:])))


def test_no_forward_has_more_patches_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(qwen3)
    seen: list[int] = []
    model.model.visual.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    # 4 pairs of 16 patches, 1 of 4 and 3 of 8.
    clips = [clip(model, *size) for size in [(8, 2, 2), (2, 1, 1), (6, 1, 2)]]
    encode_clips(model, clips, max_patches=40)
    # Smallest frames first: 4 + 24, then two parts of two pairs.
    assert seen == [28, 32, 32]
    with pytest.raises(ConfigError, match="16 patches, more than max_patches=15"):
        encode_clips(model, clips, max_patches=15)


def test_patches_for_another_model_are_refused() -> None:
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    patches = patchify(frames, VisionSpec.from_config(Qwen3VLConfig()))
    # 3 colours, 2 frames, 4 x 4 pixels.
    with pytest.raises(ConfigError, match=r"96 numbers \(patch_px 4\), got \[4, 1536\]"):
        encode_clips(seeded(qwen3), [patches])


def test_patches_that_do_not_fill_their_grid_are_refused() -> None:
    model = seeded(qwen3)
    whole = clip(model, 4, 1, 2)
    with pytest.raises(ConfigError, match=r"got \[8, 96\] for Grid\(pairs=2"):
        encode_clips(model, [Patches(whole.values[:8], whole.grid)])


def test_no_clip_has_no_features() -> None:
    assert encode_clips(seeded(qwen3), []) == []


def test_a_clips_features_do_not_keep_their_batch_in_memory() -> None:
    model = seeded(qwen3)
    with torch.no_grad():
        small, _ = encode_clips(model, [clip(model, 2, 1, 1), clip(model, 20, 3, 3)])
    for features in (small.embeddings, *small.deepstack):
        assert features.untyped_storage().nbytes() == features.numel() * 4


@families
def test_features_have_the_models_type(make: Callable[[], Any]) -> None:
    model = seeded(make)
    clips = [clip(model, 4, 2, 3)]
    expected = encode_clips(model, clips)[0].embeddings
    model.to(torch.bfloat16)
    use_batched_vision_attention(model)
    (features,) = encode_clips(model, clips)
    assert {x.dtype for x in (features.embeddings, *features.deepstack)} == {torch.bfloat16}
    # bfloat16 keeps eight bits; two layers add up a few of their roundings.
    assert_equal(features.embeddings.float(), expected, 0.05)


@families
def test_a_peft_model_is_the_model_that_it_wraps(make: Callable[[], Any]) -> None:
    model = seeded(make)
    clips = [clip(model, 4, 1, 3)]
    expected = encode_clips(model, clips)[0]
    wrapped = adapted(model, LoraConfig(target_modules=["q_proj", "v_proj"]))
    use_batched_vision_attention(wrapped)
    assert model.config.vision_config._attn_implementation == BATCHED_ATTENTION
    assert_equal_features(encode_clips(wrapped, clips)[0], expected)


# Features to the language model


def prompt(model: Any, clips: Sequence[Patches]) -> list[int]:
    """Text, and a clip's placeholders between vision-start and vision-end.

    Qwen3-VL has one such group for each pair, Qwen2.5-VL one for each clip.
    """
    ids = [1, 2]
    for number, patches in enumerate(clips):
        pairs, rows, columns = patches.grid
        groups, tokens = (pairs, 1) if model.config.model_type == "qwen3_vl" else (1, pairs)
        placeholders = [VIDEO] * (tokens * rows * columns // 4)
        for group in range(groups):
            ids += [10 + group, START, *placeholders, END]
        ids += [30 + number]
    return ids


def rows_of(model: Any) -> tuple[torch.Tensor, list[Patches]]:
    """Two prompts, the first with two clips and padded on the right, and all clips in order."""
    clips = [clip(model, *size) for size in [(5, 1, 2), (2, 2, 2), (8, 2, 3)]]
    rows = [prompt(model, clips[:2]), prompt(model, clips[2:])]
    length = max(map(len, rows))
    return torch.tensor([ids + [0] * (length - len(ids)) for ids in rows]), clips


@families
def test_features_in_place_of_pixels_give_the_same_logits_and_gradients(
    make: Callable[[], Any],
) -> None:
    model = seeded(make)
    ids, clips = rows_of(model)
    packed = pack(clips)
    mask = (ids != 0).long()
    kinds = 2 * (ids == VIDEO).int()
    positions, _ = model.model.get_rope_index(
        ids, video_grid_thw=packed.grids, attention_mask=mask, mm_token_type_ids=kinds
    )
    expected = model(
        input_ids=ids,
        attention_mask=mask,
        pixel_values_videos=packed.values,
        video_grid_thw=packed.grids,
        mm_token_type_ids=kinds,
    ).logits
    use_batched_vision_attention(model)
    use_matrix_patch_projection(model)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        mm_encoder_outputs=encoder_outputs(encode_clips(model, clips)),
    ).logits
    assert_equal(logits, expected)
    tower = list(model.model.visual.parameters())
    gradients = (torch.autograd.grad(x.square().sum(), tower) for x in (logits, expected))
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.any()
        assert_equal(ours, theirs, 1e-4)


@families
def test_features_of_another_clip_give_other_logits(make: Callable[[], Any]) -> None:
    model = seeded(make)
    ids = torch.tensor([prompt(model, [clip(model, 2, 2, 3)])])
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)

    def logits(patches: Patches) -> torch.Tensor:
        outputs = encoder_outputs(encode_clips(model, [patches]))
        return model(input_ids=ids, position_ids=positions, mm_encoder_outputs=outputs).logits

    left, right = logits(clip(model, 2, 2, 3)), logits(clip(model, 2, 3, 2))
    # Text before the clip does not see it: two tokens, a time and the vision-start.
    assert_equal(left[:, :4], right[:, :4])
    assert (left[:, 4:] - right[:, 4:]).abs().amax() > 0.01


@families
def test_no_features_leave_a_text_as_it_is(make: Callable[[], Any]) -> None:
    model = seeded(make)
    ids = torch.tensor([[1, 2, 3]])
    with_none = model(input_ids=ids, mm_encoder_outputs=encoder_outputs([])).logits
    assert torch.equal(with_none, model(input_ids=ids).logits)


def test_the_dict_is_fresh_each_time() -> None:
    features = [ClipFeatures(torch.zeros(1, 4))]
    assert encoder_outputs(features) is not encoder_outputs(features)


def test_features_of_different_models_do_not_mix() -> None:
    row = torch.zeros(1, 4)
    with pytest.raises(ConfigError, match="different models"):
        encoder_outputs([ClipFeatures(row), ClipFeatures(row, (row,))])
