"""Inputs of tiny models."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

SMALL = {"hidden_size": 32, "layers": 1, "mlp_size": 32, "vision_hidden_size": 16}
"""Sizes of a model that is quick to make."""


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of a user's text: what looks like a special token is split."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


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
