from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from agents.llm.tiny import TinyConfig, save_tiny, tiny_model
from agents.llm.tiny_tokenizer import SPECIAL_TOKENS
from tests.agents.llm.models import FAMILIES
from tests.agents.llm.tiny_inputs import SMALL, clip_inputs, encode
from videoseek_env.errors import ConfigError
from videoseek_env.task import VideoTask

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
