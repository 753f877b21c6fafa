import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertModel

from agents.llm.attention import require_task_decoupling
from agents.llm.batch import TokenBatch
from agents.llm.context import Context
from agents.llm.model import VisionLanguageModel
from agents.llm.tiny import Family, TinyConfig, save_tiny, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer
from agents.llm.vision import patchify
from tests.agents.llm.clips import clip_of, clip_ref
from tests.agents.llm.models import FAMILIES
from videoseek_env.errors import ConfigError
from videoseek_env.session import Observation, SessionConfig

each_family = pytest.mark.parametrize("family", FAMILIES)


def build(family: Family = "qwen3_vl", seed: int = 0) -> torch.nn.Module:
    return tiny_model(TinyConfig(family=family, layers=2, seed=seed), tokenizer=tiny_tokenizer())


def logits_of(model: VisionLanguageModel) -> torch.Tensor:
    """Of a short context with a clip."""
    cell = model.builder.layout.cell_px
    ref = clip_ref(frames=4, height=cell, width=2 * cell)
    context, clip = Context(), clip_of(ref)
    model.builder.observe(context, Observation("Which?", clip, system="Seek.", clip_ref=ref))
    batch = TokenBatch.stack([context.tokens], pad_id=0)
    with torch.no_grad():
        return model.logits(model.hidden(batch.ids, batch.positions, model.encode([clip])))


@each_family
def test_a_saved_folder_gives_the_same_logits(family: Family, tmp_path: Path) -> None:
    network = build(family)
    folder = save_tiny(tmp_path / "model", model=network, tokenizer=tiny_tokenizer())
    expected = logits_of(VisionLanguageModel.wrap(network, tiny_tokenizer()))
    loaded = VisionLanguageModel.from_pretrained(folder)
    require_task_decoupling(loaded.network)
    assert torch.equal(logits_of(loaded), expected)
    assert loaded.spec.patch_px == (16 if family == "qwen3_vl" else 14)


@each_family
def test_logits_are_those_of_the_transformers_model(family: Family) -> None:
    model = VisionLanguageModel.wrap(build(family), tiny_tokenizer())
    cell = model.builder.layout.cell_px
    ref = clip_ref(frames=4, height=cell, width=2 * cell, step_seconds=1.0)
    context, clip = Context(), clip_of(ref)
    model.builder.observe(context, Observation("Which?", clip, system="Seek.", clip_ref=ref))
    ids = torch.tensor(context["id"].astype(np.int64))[None]
    reference = build(family)
    patches = patchify(clip.frames, model.spec)
    # transformers 5 has other positions behind a Qwen2.5-VL clip than that model was trained with.
    positions = torch.tensor(context["position"].T)[:, None]
    extra = {} if family == "qwen3_vl" else {"position_ids": positions}
    with torch.no_grad():
        expected = reference(
            input_ids=ids,
            mm_token_type_ids=2 * (ids == model.vocabulary.video_pad).int(),
            pixel_values_videos=patches.values,
            video_grid_thw=torch.tensor([patches.grid]),
            **extra,
        ).logits
    ours = logits_of(model)
    allowed = torch.from_numpy(~model.vocabulary.banned)
    assert torch.allclose(ours[..., allowed], expected[..., allowed], atol=1e-4)


def test_a_dtype_is_respected(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", model=build(), tokenizer=tiny_tokenizer())
    model = VisionLanguageModel.from_pretrained(folder, dtype="bfloat16")
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.bfloat16}
    logits = logits_of(model)
    assert logits.dtype == torch.float32 and not logits.isnan().any()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_an_adapter_changes_what_the_model_says(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", model=build(), tokenizer=tiny_tokenizer())
    adapted = get_peft_model(
        VisionLanguageModel.from_pretrained(folder).network,
        LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    plain = VisionLanguageModel.from_pretrained(folder)
    lora = VisionLanguageModel.from_pretrained(folder, adapter=tmp_path / "adapter")
    assert not torch.allclose(logits_of(plain), logits_of(lora))
    expected = logits_of(VisionLanguageModel.wrap(adapted, tiny_tokenizer()))
    assert torch.equal(logits_of(lora), expected)
    trainable = [name for name, p in lora.network.named_parameters() if p.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)
    named = VisionLanguageModel.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits_of(named), expected)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_that_does_not_name_its_model_needs_to_be_told(tmp_path: Path) -> None:
    get_peft_model(build(), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="adapter that does not name its model"):
        VisionLanguageModel.from_pretrained(tmp_path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_that_is_damaged_or_of_another_model_is_named(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", model=build(), tokenizer=tiny_tokenizer())
    adapted = get_peft_model(
        VisionLanguageModel.from_pretrained(folder).network, LoraConfig(target_modules=["q_proj"])
    )
    adapter, other = tmp_path / "adapter", tmp_path / "other"
    adapted.save_pretrained(adapter)
    wide = tiny_model(TinyConfig(hidden_size=96))
    save_tiny(other, model=wide, tokenizer=tiny_tokenizer())
    with pytest.raises(
        ConfigError, match=r"other with the adapter .*adapter can't be loaded: .*size"
    ):
        VisionLanguageModel.from_pretrained(other, adapter=adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match="holds no weights of an adapter"):
        VisionLanguageModel.from_pretrained(folder, adapter=adapter)
    (adapter / "adapter_config.json").write_text('{"base_mo')
    with pytest.raises(ConfigError, match="adapter can't be loaded: "):
        VisionLanguageModel.from_pretrained(adapter)


def test_a_model_is_saved_with_the_processor_files_that_it_had(tmp_path: Path) -> None:
    folder, again = tmp_path / "model", tmp_path / "again"
    save_tiny(folder, model=build(), tokenizer=tiny_tokenizer(), video_processor=False)
    VisionLanguageModel.from_pretrained(folder).save_pretrained(again)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        assert json.loads((folder / name).read_text()) == json.loads((again / name).read_text())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model folder .*nowhere"):
        VisionLanguageModel.from_pretrained(tmp_path / "nowhere")


def test_a_folder_of_a_run_says_where_its_model_is(tmp_path: Path) -> None:
    model = tmp_path / "run" / "checkpoints" / "step-000002" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no model's folder; .*step-000002/model is one"):
        VisionLanguageModel.from_pretrained(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model can't be loaded: "):
        VisionLanguageModel.from_pretrained(model)


def test_a_model_of_another_family_is_refused_before_it_is_read(tmp_path: Path) -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="qwen2_5_vl or qwen3_vl, got 'bert'"):
        VisionLanguageModel.from_pretrained(tmp_path)


def test_a_session_counts_in_the_models_tokens() -> None:
    model = VisionLanguageModel.wrap(build(), tiny_tokenizer())
    rules = model.counting(SessionConfig(budget="tiny", max_turns=3))
    assert rules.max_turns == 3
    assert rules.count_text_tokens("<think>30</think>") == 3
    # Two pairs, each a timestamp of one token, two brackets and 1 x 2 cells.
    assert rules.count_clip_tokens(clip_ref(frames=4, width=64)) == 2 * (1 + 2 + 2)


def test_frames_are_encoded_in_portions_where_nothing_is_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = VisionLanguageModel.wrap(build(), tiny_tokenizer())
    clips = [clip_of(clip_ref(frames=frames, width=64)) for frames in (4, 2, 6)]
    sizes: list[int] = []
    tower = model.base.model.visual
    tower.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    with torch.no_grad():
        whole = model.encode(clips)
        monkeypatch.setattr("agents.llm.model._PATCHES_AT_ONCE", 1)  # but a pair of frames at least
        parts = model.encode(clips)
    patches = 64 // 16 * (32 // 16)
    made: list[int] = []
    monkeypatch.setattr(
        "agents.llm.model.patchify",
        lambda frames, spec: made.append(len(sizes)) or patchify(frames, spec),
    )
    with torch.no_grad():
        model.encode(clips)
    assert made == [7, 9, 10]  # a clip's frames become patches when those before are encoded
    del sizes[7:]
    assert sizes == [6 * patches, *[patches] * 6]
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one.embeddings, other.embeddings, atol=1e-5)
    del sizes[:]
    model.encode(clips)  # with gradients
    tower.requires_grad_(False)
    model.encode(clips)
    assert sizes == [6 * patches, *[patches] * 6]
