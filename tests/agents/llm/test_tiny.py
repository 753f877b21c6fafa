from __future__ import annotations

import errno
import math
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from agents.baselines import OraclePolicy
from agents.llm.tiny import TINY_PROMPTS, TinyConfig, save_tiny, tiny_model
from agents.llm.tiny_tokenizer import SPECIAL_TOKENS, byte_fallbacks, tiny_tokenizer
from tests.sample_trajectories import make_ref, make_task
from videoseek_env import load_tasks
from videoseek_env.action import Malformed, parse_reply, write_answer
from videoseek_env.budget import temporal_pairs
from videoseek_env.datasets.needle import plan_tasks
from videoseek_env.datasets.needle_scene import COLOURS
from videoseek_env.errors import ConfigError
from videoseek_env.prompts import DEFAULT_PROMPTS, Prompts
from videoseek_env.session import SessionConfig, VideoSession
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.video import ClipCache, open_video

FAMILIES = ("qwen3_vl", "qwen2_5_vl")
SMALL = {"hidden_size": 32, "layers": 1, "mlp_size": 32, "vision_hidden_size": 16}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def needle_tasks() -> list[VideoTask]:
    """Questions of all six kinds and all wordings, without their videos."""
    tasks = plan_tasks(videos=40, tasks_per_video=24)
    assert {task.kind for task in tasks} == set(TaskKind)
    return tasks


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return [tokenizer.decode([index]) for index in encode(tokenizer, text)]


# The tokenizer


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KNOWN = st.sampled_from(
    [*SPECIAL_TOKENS.values(), *COLOURS, "<think>", ' {"temporal_segment": [', " the", "'s", "007"]
)


@given(st.lists(TEXT | KNOWN | st.integers(0, 10**6).map(str)).map("".join))
@example("emoji 🦜, controls \x00\x1b\x7f, breaks \r\n\u2028, joiners e\u0301 \u200d, \U0010ffff")
def test_any_text_comes_back_exactly(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@given(TEXT)
def test_text_of_users_never_becomes_a_special_token(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    special = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS.values()))
    for token in SPECIAL_TOKENS.values():
        assert not set(encode(tokenizer, text + token + text)) & set(special)


def test_special_tokens_are_read_as_such_unless_they_are_split(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for token in SPECIAL_TOKENS.values():
        whole = tokenizer.encode(f"a{token}b", add_special_tokens=False)
        assert [tokenizer.decode([index]) for index in whole] == ["a", token, "b"]
        assert len(encode(tokenizer, token)) == len(pieces(tokenizer, token)) > 1


def test_an_integer_is_the_same_token_in_a_timestamp_and_in_json(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for number in range(1000):
        (index,) = encode(tokenizer, str(number))
        for text in (f"<{number} seconds>", f"[{number}, {number}]", f"at {number}.", f" {number}"):
            assert encode(tokenizer, text).count(index) == text.count(str(number))


def test_ids_are_bytes_then_integers_then_words_then_special_tokens(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = [encode(tokenizer, str(number))[0] for number in range(1000)]
    assert all(index < 256 for index in ids[:10])
    assert ids[10:] == list(range(256, 256 + 990))
    last = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS.values()))
    assert last == list(range(len(tokenizer) - 7, len(tokenizer)))
    assert 1000 < len(tokenizer) < 1600
    assert tiny_tokenizer().get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '<grounding>{"temporal_segment": [30, 45], "sampling_strategy": "fine"}</grounding>',
            ["<grounding>", '{"temporal_segment": [', "30", ", ", "45",
             '], "sampling_strategy": "', "fine", '"}', "</grounding>"],
        ),
        ("<think>17 red no</think>", ["<think>", "17", " ", "red", " no", "</think>"]),
        ("<answer>B</answer>", ["<answer>", "B", "</answer>"]),
        ("A. red\nB. 7\n", ["A", ". ", "red", "\n", "B", ". ", "7", "\n"]),
        ("the red card's", ["t", "h", "e", " ", "red", " card", "'s"]),
        ("007 12.5 1234", ["0", "0", "7", " ", "12", ".", "5", " ", "123", "4"]),
        ("redder reds", ["r", "e", "d", "d", "e", "r", " ", "r", "e", "d", "s"]),
        ("", []),
    ],
)  # fmt: skip
def test_pieces(tokenizer: PreTrainedTokenizerFast, text: str, expected: list[str]) -> None:
    assert pieces(tokenizer, text) == expected


def test_tags_are_ordinary_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    reply = write_answer("It is red.", "B")
    ids = [*encode(tokenizer, reply), tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == reply
    assert tokenizer.decode(ids) == f"{reply}<|im_end|>"


def test_needle_questions_options_and_oracles_need_no_bytes(
    tokenizer: PreTrainedTokenizerFast, needle_tasks: list[VideoTask]
) -> None:
    for task in needle_tasks:
        oracle = OraclePolicy()
        oracle.reveal(task)
        replies = [oracle.act(None) for _ in range(len(task.clues) + 1)]  # type: ignore[arg-type]
        for text in [task.question, *task.lettered_options, *replies]:
            assert byte_fallbacks(tokenizer, text) == []


@pytest.mark.parametrize("prompts", [DEFAULT_PROMPTS, TINY_PROMPTS])
def test_prompts_need_no_bytes(tokenizer: PreTrainedTokenizerFast, prompts: Prompts) -> None:
    texts = [prompts.system_text(), prompts.crop_text(make_ref()), prompts.last_turn_text()]
    texts += [prompts.question_text(make_task(kind), make_ref()) for kind in TaskKind]
    for content in (
        "", "{}", '{"temporal_segment": 1}', '{"temporal_segment": 1, "sampling_strategy": "fine"}',
        '{"temporal_segment": [1, 1], "sampling_strategy": "fine"}',
        '{"temporal_segment": [1, 9], "sampling_strategy": 1}',
    ):  # fmt: skip
        action = parse_reply(f"<grounding>{content}</grounding>", duration_seconds=60)
        assert isinstance(action, Malformed)
        texts.append(prompts.error_text(action.message))
    action = parse_reply("hm", duration_seconds=60)
    assert isinstance(action, Malformed)
    texts.append(prompts.error_text(action.message))
    assert [byte_fallbacks(tokenizer, text) for text in texts] == [[]] * len(texts)


def test_byte_fallbacks_names_what_the_vocabulary_lacks(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    text = "at a zebra, é and\tthe <|im_end|>"
    assert byte_fallbacks(tokenizer, text) == [" zebra", " é", "the", "im"]
    assert byte_fallbacks(tokenizer, "") == []


def test_the_chat_template_is_chatml(tokenizer: PreTrainedTokenizerFast) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Crop, then answer."},
        {"role": "user", "content": [
            {"type": "video"}, {"type": "text", "text": "Which digit?\n"}, {"type": "image"}]},
        {"role": "assistant", "content": "<think> 1 </think>"},
        {"role": "user", "content": ""},
    ]  # fmt: skip
    closed = (
        "<|im_start|>system\nCrop, then answer.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Which digit?\n"
        "<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
        "<|im_start|>assistant\n<think> 1 </think><|im_end|>\n"
        "<|im_start|>user\n<|im_end|>\n"
    )
    assert tokenizer.apply_chat_template(messages, tokenize=False) == closed
    opened = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert opened == closed + "<|im_start|>assistant\n"
    ids = tokenizer.apply_chat_template(messages[:1], return_dict=False)
    assert ids == tokenizer.encode("<|im_start|>system\nCrop, then answer.<|im_end|>\n")
    assert tokenizer.decode(ids[1]) == "system"


def test_the_chat_template_refuses_what_it_does_not_know(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    messages = [{"role": "user", "content": [{"type": "audio"}]}]
    with pytest.raises(Exception, match="expected text, video or image parts, got audio"):
        tokenizer.apply_chat_template(messages, tokenize=False)


def test_a_two_crop_episode_fits_well_into_300_tokens(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (task, *_) = load_tasks(
        "needle", root=tmp_path, budget="tiny", width=128, height=128, fps=2, cards=3, banners=0,
        shapes=0, duration_seconds=(100, 400), kinds=("clue_single_w_tool",), videos=1,
        progress=False,
    )  # fmt: skip
    scan = "17 red no, 35 no, 53 blue not, 88 no, 124 red yes"
    crop = (
        f"<think>{scan}</think><grounding>"
        '{"temporal_segment": [88, 140], "sampling_strategy": "fine"}</grounding>'
    )
    reader = open_video(task.video)
    config = SessionConfig(budget="tiny", prompts=TINY_PROMPTS)
    session = VideoSession(task, reader, config, cache=ClipCache(2**24))
    observation = session.start()
    messages = [{"role": "system", "content": observation.system}]
    tokens = 0
    for reply in (crop, crop, write_answer("digit 5 B", "B")):
        assert observation is not None and observation.clip is not None
        messages += [{"role": "user", "content": observation.text}]
        messages += [{"role": "assistant", "content": reply}]
        # A timestamp of one token, <|vision_start|> and <|vision_end|> for each pair.
        tokens += 3 * temporal_pairs(len(observation.clip.frames))
        observation = session.reply(reply)
    reader.close()
    tokens += session.visual_tokens + len(
        tokenizer.apply_chat_template(messages, return_dict=False)
    )
    # 20 frames of one token a pair, twice 8 of four a pair.
    assert session.visual_tokens == 10 + 16 + 16
    assert 200 < tokens < 270


# The model


def clip_inputs(model: Any, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> dict[str, Any]:
    """A question about four frames of 2 x 3 cells each, answered with a copy of its times."""
    generator = torch.Generator().manual_seed(seed)
    vision = model.config.vision_config
    pads = "<|vision_start|>" + 6 * "<|video_pad|>" + "<|vision_end|>"
    block = pads.replace(6 * "<|video_pad|>", 12 * "<|video_pad|>")
    clip = f"17{pads}53{pads}" if model.config.model_type == "qwen3_vl" else block
    text = f"{clip}Which digit?<|im_end|>\n<think>17 red, 53 blue</think><answer>B</answer>"
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    patch_values = 3 * 2 * vision.patch_size**2
    return {
        "input_ids": ids,
        "mm_token_type_ids": 2 * (ids == model.config.video_token_id).int(),
        "pixel_values_videos": torch.rand(2 * 4 * 6, patch_values, generator=generator),
        "video_grid_thw": torch.tensor([[2, 4, 6]]),
    }


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


# The folder


FILES = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_and_tokenizer_come_back_equal(
    family: Any, tokenizer: PreTrainedTokenizerFast, needle_tasks: list[VideoTask], tmp_path: Path
) -> None:
    model = tiny_model(TinyConfig(family=family), tokenizer=tokenizer)
    folder = save_tiny(tmp_path / "new" / "model", model=model, tokenizer=tokenizer)
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["model"]

    again = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(again) is type(model)
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert again.config.to_diff_dict().keys() == model.config.to_diff_dict().keys()
    assert again.generation_config.suppress_tokens == model.generation_config.suppress_tokens
    inputs = clip_inputs(model, tokenizer)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)

    reread = AutoTokenizer.from_pretrained(folder)
    assert reread.get_vocab() == tokenizer.get_vocab()
    assert reread.chat_template == tokenizer.chat_template
    for name, token in SPECIAL_TOKENS.items():
        assert getattr(reread, name) == getattr(tokenizer, name) == token
    for text in ["<think>🦜 \x00 30</think><|im_end|>", *(task.question for task in needle_tasks)]:
        assert reread.encode(text) == tokenizer.encode(text)
        assert encode(reread, text) == encode(tokenizer, text)


def test_the_timestamp_format_is_part_of_the_configuration(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = TinyConfig(**SMALL, timestamp_format="<{seconds:.0f} seconds>")
    folder = save_tiny(tmp_path / "m", model=tiny_model(config), tokenizer=tokenizer)
    again = AutoModelForImageTextToText.from_pretrained(folder)
    assert again.config.timestamp_format == "<{seconds:.0f} seconds>"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_processor_without_torchvision_reads_chats_with_images(
    family: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = TinyConfig(family=family)
    model = tiny_model(config, tokenizer=tokenizer)
    folder = save_tiny(tmp_path / "m", model=model, tokenizer=tokenizer, video_processor=False)
    processor = AutoProcessor.from_pretrained(folder)
    side = 2 * config.patch_px
    grey = Image.new("RGB", (3 * side, 2 * side), (255, 0, 0))
    chat = [{"role": "user", "content": [{"type": "image", "image": grey},
                                         {"type": "text", "text": "Which digit?"}]}]  # fmt: skip
    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 6]]
    # Each cell of 2 x 2 patches is one token.
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 6
    assert tokenizer.decode(inputs["input_ids"][0]) == (
        f"<|im_start|>user\n<|vision_start|>{6 * '<|image_pad|>'}<|vision_end|>Which digit?"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    if family == "qwen3_vl":
        # Red is 1, nothing is 0; less a mean of 0.5, over 0.5.
        assert inputs["pixel_values"].unique().tolist() == [-1.0, 1.0]
    ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert ids.shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_folder_names_the_family_s_own_processors(
    family: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = tiny_model(TinyConfig(family=family, **SMALL))
    folder = save_tiny(tmp_path / "m", model=model, tokenizer=tokenizer)
    name = {"qwen3_vl": "Qwen3VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}[family]
    assert f'"processor_class": "{name}"' in (folder / "preprocessor_config.json").read_text()
    patch_px = AutoImageProcessor.from_pretrained(folder).patch_size
    assert patch_px == {"qwen3_vl": 16, "qwen2_5_vl": 14}[family]


def test_nothing_is_overwritten(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.write_text("mine")
    model = tiny_model(TinyConfig(**SMALL))
    with pytest.raises(ConfigError, match="exists; choose a new folder, or delete that one"):
        save_tiny(target, model=model, tokenizer=tokenizer)
    assert target.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_errors_of_the_disk_pass_and_leave_nothing(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    class FullDisk:
        """A tokenizer for which there is no room left."""

        def save_pretrained(self, folder: Path) -> None:
            assert (folder / "model.safetensors").is_file()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model = tiny_model(TinyConfig(**SMALL), tokenizer=tokenizer)
    with pytest.raises(OSError, match="No space left"):
        save_tiny(tmp_path / "model", model=model, tokenizer=FullDisk())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        save_tiny(tmp_path / "file" / "model", model=model, tokenizer=tokenizer)
