"""A small Qwen-VL model with random weights: real classes, real files, nothing to download.

It learns from nothing on one core, and it stands in for the published models in tests: everything
that loads, serves or trains those does so with this one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from agents.llm.tiny_tokenizer import SPECIAL_TOKENS, tiny_tokenizer
from videoseek_env.errors import ConfigError
from videoseek_env.prompts import Prompts

Family = Literal["qwen3_vl", "qwen2_5_vl"]
"""Which published model it is a small copy of, as `config.model_type` has it."""

TINY_PROMPTS: Final = Prompts(
    system="Crop, then answer.",
    question="{question}\n{options}{sampling}",
    crop="{sampling}",
    sampling="{start:.0f} {end:.0f}",
    error="Try again, or answer.",
    last_turn="\nAnswer now.",
)
"""Few tokens, with whole seconds: for the tiny budget's episodes of about 250 tokens."""

_MERGE: Final = 2
CONSTANT_DIMENSIONS: Final = 8
"""Dimensions of an embedding that `TinyConfig.constant_direction` fills."""
_building = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyConfig:
    """Sizes of a small model; about 1.7 million parameters by default.

    Raises:
        ConfigError: If the sizes do not fit each other, or a number is out of its range.
    """

    family: Family = "qwen3_vl"
    hidden_size: int = 128
    """Width of the text model."""
    layers: int = 4
    heads: int = 4
    """Query heads; each is `hidden_size / heads` wide."""
    key_value_heads: int = 2
    mlp_size: int = 384
    max_tokens: int = 4096
    """Longest context that is meant to work."""
    rope_theta: float = 10_000.0
    timestamp_format: str = "{seconds:.0f}"
    """Text before each pair of frames, from `seconds`: one token. Qwen3-VL's own is
    "<{seconds:.1f} seconds>"; Qwen2.5-VL writes none."""
    vision_hidden_size: int = 96
    vision_layers: int = 2
    vision_heads: int = 4
    vision_mlp_size: int = 192
    initializer_range: float = 0.06
    """Standard deviation of the weights. At transformers' 0.02 so small a model stays at chance."""
    constant_direction: bool = True
    """Whether all token embeddings share a constant in their first 8 dimensions, as long as their
    random part. Embeddings of zero mean leave no direction from which a query or key without a bias
    could be purely positional; without it a previous-token head, and so induction, does not form.
    """
    seed: int = 0

    def __post_init__(self) -> None:
        for wrong, message in self._rules():
            if wrong:
                raise ConfigError(message)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.heads

    @property
    def mrope_section(self) -> tuple[int, int, int]:
        """Rotary frequencies for time, height and width: half a head, time has the rest.

        >>> TinyConfig().mrope_section
        (6, 5, 5)
        """
        half = self.head_dim // 2
        return half - 2 * (half // 3), half // 3, half // 3

    @property
    def patch_px(self) -> int:
        """Side of a patch in pixels; a budget for this model has the same."""
        return 16 if self.family == "qwen3_vl" else 14

    def _rules(self) -> list[tuple[bool, str]]:
        """Each rule: whether it is broken, and what to say then."""
        counts = (
            "hidden_size", "layers", "heads", "key_value_heads", "mlp_size", "max_tokens",
            "vision_hidden_size", "vision_layers", "vision_heads", "vision_mlp_size",
        )  # fmt: skip
        zero = [name for name in counts if getattr(self, name) < 1]
        if zero:
            return [(True, f"{', '.join(zero)} must be at least 1")]
        return [
            (self.family not in _BUILDERS, f"family must be one of {', '.join(_BUILDERS)}, "
             f"got {self.family!r}"),
            (self.hidden_size % (2 * self.heads) > 0 or self.head_dim < 6,
             "hidden_size must be heads times an even number, at least 6; got "
             f"{self.hidden_size} for {self.heads} heads"),
            (self.heads % self.key_value_heads > 0,
             f"heads must be a multiple of key_value_heads, got {self.heads} and "
             f"{self.key_value_heads}"),
            (self.vision_hidden_size % (4 * self.vision_heads) > 0,
             "vision_hidden_size must be vision_heads times a multiple of 4, got "
             f"{self.vision_hidden_size} for {self.vision_heads} heads"),
            (not 0 < self.initializer_range < 1,
             f"initializer_range must lie in (0, 1), got {self.initializer_range}"),
            (not 0 <= self.seed < 2**63, f"seed must lie in [0, 2**63), got {self.seed}"),
        ]  # fmt: skip


def tiny_model(
    config: TinyConfig | None = None, *, tokenizer: PreTrainedTokenizerFast | None = None
) -> PreTrainedModel:
    """A new float32 model on the CPU, in evaluation mode, its weights drawn from the seed alone.

    Its generation configuration samples at temperature 1 from all tokens but the special ones, of
    which <|im_end|> ends a reply: a sampled placeholder would ask for an image that isn't there.

    Args:
        config: Its sizes.
        tokenizer: Any with Qwen's special tokens; by default `tiny_tokenizer()`.

    Returns:
        A `Qwen3VLForConditionalGeneration`, or the Qwen2.5 one.

    Raises:
        ConfigError: If the tokenizer lacks a special token.
    """
    config = config or TinyConfig()
    tokenizer = tiny_tokenizer() if tokenizer is None else tokenizer
    ids = _special_ids(tokenizer)
    model_class, architecture = _BUILDERS[config.family](config, len(tokenizer), ids)
    # Construction draws from the global generator; the lock keeps two threads from restoring each
    # other's state of it.
    with _building, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = model_class(architecture).float().eval()
    _initialise(model, config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        eos_token_id=ids["eos_token"],
        pad_token_id=ids["pad_token"],
        suppress_tokens=sorted(set(ids.values()) - {ids["eos_token"]}),
    )
    return model


def save_tiny(
    folder: str | os.PathLike[str],
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    video_processor: bool = True,
) -> Path:
    """Write a model as a checkpoint folder, as a whole or not at all.

    `AutoModelForImageTextToText`, `AutoTokenizer` and `AutoImageProcessor` read it.

    Args:
        folder: Where to; it must not exist. Its parents are made.
        model: From `tiny_model`, trained or not.
        tokenizer: The one that it was made for.
        video_processor: True names Qwen's own processor, whose video half needs torchvision. False
            names one that takes images alone and needs only Pillow: for servers without
            torchvision. The two differ in a line of `preprocessor_config.json`.

    Raises:
        ConfigError: If the folder exists.
        OSError: If it can't be written; of the weights, it is a `safetensors.SafetensorError`.
    """
    folder = Path(folder).expanduser().resolve()
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose a new folder, or delete that one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:12]}.tmp")
    try:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        for name, fields in _processor_files(model.config, video_processor).items():
            text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
            (unfinished / name).write_text(text, encoding="utf-8")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in SPECIAL_TOKENS.values() if token not in vocabulary]
    if missing:
        raise ConfigError(
            f"the tokenizer lacks {', '.join(missing)}; expected that of a Qwen-VL model"
        )
    return {name: vocabulary[token] for name, token in SPECIAL_TOKENS.items()}


def _initialise(model: PreTrainedModel, config: TinyConfig) -> None:
    """Weights normal, biases zero, gains one; see `TinyConfig.constant_direction`."""
    generator = torch.Generator("cpu").manual_seed(config.seed)
    std = config.initializer_range
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, std, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        if config.constant_direction:
            embeddings = model.get_input_embeddings().weight
            constant = std * math.sqrt(config.hidden_size / CONSTANT_DIMENSIONS)
            embeddings[:, :CONSTANT_DIMENSIONS] += constant


def _qwen3_vl(config: TinyConfig, vocab_size: int, ids: dict[str, int]) -> tuple[Any, Any]:
    text = _text_fields(config, vocab_size) | {"head_dim": config.head_dim}
    text["rope_parameters"]["mrope_interleaved"] = True
    vision = _vision_fields(config) | {
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    architecture = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        timestamp_format=config.timestamp_format,
        **_token_fields(ids),
    )
    return Qwen3VLForConditionalGeneration, architecture


def _qwen2_5_vl(config: TinyConfig, vocab_size: int, ids: dict[str, int]) -> tuple[Any, Any]:
    text = _text_fields(config, vocab_size) | {
        "bos_token_id": ids["pad_token"],
        "eos_token_id": ids["eos_token"],
    }
    vision = _vision_fields(config) | {
        "window_size": 4 * _MERGE * config.patch_px,
        "fullatt_block_indexes": [config.vision_layers - 1],
        "tokens_per_second": 2,
    }
    architecture = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_token_fields(ids))
    return Qwen2_5_VLForConditionalGeneration, architecture


_BUILDERS: Final = {"qwen3_vl": _qwen3_vl, "qwen2_5_vl": _qwen2_5_vl}


def _text_fields(config: TinyConfig, vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "max_position_embeddings": config.max_tokens,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "mrope_section": list(config.mrope_section),
        },
    }


def _vision_fields(config: TinyConfig) -> dict[str, Any]:
    return {
        "depth": config.vision_layers,
        "hidden_size": config.vision_hidden_size,
        "num_heads": config.vision_heads,
        "intermediate_size": config.vision_mlp_size,
        "out_hidden_size": config.hidden_size,
        "patch_size": config.patch_px,
        "spatial_merge_size": _MERGE,
        "temporal_patch_size": 2,
        "initializer_range": config.initializer_range,
    }


def _token_fields(ids: dict[str, int]) -> dict[str, Any]:
    return {
        "image_token_id": ids["image_token"],
        "video_token_id": ids["video_token"],
        "vision_start_token_id": ids["vision_start_token"],
        "vision_end_token_id": ids["vision_end_token"],
        # Here too: the text model's flag alone ties nothing.
        "tie_word_embeddings": True,
    }


def _processor_files(config: Any, video_processor: bool) -> dict[str, dict[str, Any]]:
    """What turns images and videos into patches, as `AutoProcessor` reads it."""
    is_qwen3 = config.model_type == "qwen3_vl"
    patch = config.vision_config.patch_size
    cell = (_MERGE * patch) ** 2
    shared = {
        "patch_size": patch,
        "merge_size": _MERGE,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5] if is_qwen3 else OPENAI_CLIP_MEAN,
        "image_std": [0.5, 0.5, 0.5] if is_qwen3 else OPENAI_CLIP_STD,
    }
    name = "Qwen3VL" if is_qwen3 else "Qwen2_5_VL"
    image = shared | {
        "image_processor_type": "Qwen2VLImageProcessor",
        # PaddleOCR-VL's counts the tokens of an image as Qwen's does, and asks for no video half.
        "processor_class": f"{name}Processor" if video_processor else "PaddleOCRVLProcessor",
        "size": {"shortest_edge": cell, "longest_edge": 64 * cell},
    }
    video = shared | {
        "video_processor_type": f"{'Qwen3VL' if is_qwen3 else 'Qwen2VL'}VideoProcessor",
        "size": {"shortest_edge": 4 * cell, "longest_edge": 1024 * cell},
    }
    return {"preprocessor_config.json": image, "video_preprocessor_config.json": video}
