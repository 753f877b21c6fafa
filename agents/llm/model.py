"""A Qwen-VL model as the rest of the package uses it: hidden states in, allowed logits out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from agents.llm.attention import use_task_decoupling
from agents.llm.builder import ContextBuilder
from agents.llm.cache import RaggedCache
from agents.llm.decoupling import DecoupledRows
from agents.llm.layout import ClipLayout
from agents.llm.vision import VisionSpec, grid_of, patchify
from agents.llm.vision_tower import (
    ClipFeatures,
    encode_clips,
    encoder_outputs,
    use_batched_vision_attention,
    use_matrix_patch_projection,
)
from agents.llm.vocabulary import Vocabulary
from videoseek_env.errors import ConfigError, MissingExtraError, VideoSeekError
from videoseek_env.session import SessionConfig
from videoseek_env.video.clip import Clip

_PATCHES_AT_ONCE: Final = 2**16
"""In a vision tower that does not learn: a few overviews."""


@dataclass(frozen=True, slots=True, eq=False)
class VisionLanguageModel:
    """A transformers model with its tokenizer, ready for episodes and for training."""

    network: Any
    """`Qwen3VLForConditionalGeneration` or its Qwen2.5 sister, perhaps wrapped by peft."""
    vocabulary: Vocabulary
    builder: ContextBuilder
    spec: VisionSpec

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        dtype: str | torch.dtype = "auto",
        device_map: str | dict[str, Any] | None = None,
        adapter: str | Path | None = None,
        **options: Any,
    ) -> Self:
        """Load a checkpoint.

        Args:
            name_or_path: A folder, or a name on the model hub. The folder of a LoRA adapter stands
                for the model that it is an adapter of, with it.
            dtype: "auto" takes that of the checkpoint.
            device_map: As in transformers; None leaves the model on the CPU.
            adapter: A LoRA adapter of peft, a folder or a hub name.
            options: Passed on to transformers, such as `revision` or `quantization_config`.

        Raises:
            ConfigError: If it is no Qwen2.5-VL or Qwen3-VL, or the folder does not exist, or is of
                an adapter that does not name its model.
            MissingExtraError: If there is an adapter and peft is not installed.
        """
        name = _existing(name_or_path)
        try:
            if adapter is None and is_adapter(name):
                name, adapter = _base_of(name), name
            config = AutoConfig.from_pretrained(name, **_hub_options(options))
            ClipLayout.from_config(config)  # refuses other models before gigabytes are read
            network = AutoModelForImageTextToText.from_pretrained(
                name, dtype=dtype, device_map=device_map, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(name, **_hub_options(options))
            if adapter is not None:
                network = with_adapter(network, adapter)
        except VideoSeekError:
            raise
        except (ValueError, RuntimeError, SafetensorError) as error:
            what = name if adapter is None else f"{name} with the adapter {adapter}"
            raise ConfigError(
                f"{what} can't be loaded: {' '.join(str(error).split()):.400}"
            ) from error
        spec = VisionSpec.from_pretrained(name, config, **_hub_options(options))
        return cls.wrap(network, tokenizer, spec=spec)

    @classmethod
    def wrap(cls, network: Any, tokenizer: Any, *, spec: VisionSpec | None = None) -> Self:
        """Use a network and a tokenizer that are loaded already.

        The network's attention becomes `task_decoupled`, which is SDPA wherever nothing is
        decoupled, its vision tower's a batched one, and its patch embedding a matrix product: all
        compute what they did before. On a GPU, torch's attention is told to leave cuDNN's out.
        """
        config = network.config
        use_task_decoupling(network)
        use_batched_vision_attention(network)
        use_matrix_patch_projection(network)
        if torch.cuda.is_available():
            # For each new shape cuDNN's attention makes a plan, which takes longer than a token,
            # and up to torch 2.13 its backward pass may give NaN (pytorch#196678).
            torch.backends.cuda.enable_cudnn_sdp(False)
        vocabulary = Vocabulary(tokenizer, size=config.text_config.vocab_size)
        builder = ContextBuilder(vocabulary, ClipLayout.from_config(config))
        return cls(network, vocabulary, builder, spec or VisionSpec.from_config(config))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what `from_pretrained` reads: weights or adapter, tokenizer, how pixels are scaled.

        Args:
            folder: Made if need be; files of the same names are replaced.
        """
        self.network.save_pretrained(folder)
        self.vocabulary.tokenizer.save_pretrained(folder)
        processor = {
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": self.spec.patch_px,
            "merge_size": self.spec.merge,
            "temporal_patch_size": self.spec.temporal,
            "image_mean": list(self.spec.mean),
            "image_std": list(self.spec.std),
        }
        files = self.spec.files or {"preprocessor_config.json": processor}
        for name, fields in files.items():
            text = json.dumps(fields, indent=2)
            (Path(folder) / name).write_text(text, encoding="utf-8")

    @property
    def base(self) -> Any:
        """The transformers model, adapters in place."""
        unwrap = getattr(self.network, "get_base_model", None)
        return self.network if unwrap is None else unwrap()

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        device: torch.device = self.base.get_input_embeddings().weight.device
        return device

    @property
    def max_tokens(self) -> int:
        """Longest context that the model has positions for."""
        return int(self.base.config.text_config.max_position_embeddings)

    @property
    def keeps_cache(self) -> bool:
        """Whether a forward can go on from a cache: layers that are computed twice drop it."""
        return not (self.network.training and self.base.is_activation_checkpointing)

    def checkpoint_gradients(self) -> None:
        """Keep no activations within a layer for the backward pass, but compute them again then."""
        self.base.activation_checkpointing_enable({"use_reentrant": False})

    def counting(self, config: SessionConfig) -> SessionConfig:
        """The same rules, with contexts counted in this model's tokens."""
        return replace(
            config,
            count_text_tokens=self.vocabulary.count,
            count_clip_tokens=self.builder.count_clip_tokens,
        )

    def encode(self, clips: Sequence[Clip]) -> list[ClipFeatures]:
        """What the vision tower makes of clips: in one pass if the tower learns."""
        frames = [clip.frames for clip in clips]
        if torch.is_grad_enabled() and any(
            parameter.requires_grad for parameter in self.base.model.visual.parameters()
        ):
            return encode_clips(self.network, [patchify(some, self.spec) for some in frames])
        features: list[ClipFeatures] = []
        for portion in self._portions(frames):
            patches = [patchify(some, self.spec) for some in portion]
            pairs = [clip.grid.rows * clip.grid.columns for clip in patches]
            limit = max([_PATCHES_AT_ONCE, *pairs])
            features += encode_clips(self.network, patches, max_patches=limit)
        return features

    def _portions(
        self, frames: Sequence[npt.NDArray[np.uint8]]
    ) -> Iterator[list[npt.NDArray[np.uint8]]]:
        """Clips whose patches may lie in memory at once; one of them at least."""
        portion: list[npt.NDArray[np.uint8]] = []
        total = 0
        for some in frames:
            count = grid_of(some, self.spec).patches
            if portion and total + count > _PATCHES_AT_ONCE:
                yield portion
                portion, total = [], 0
            portion.append(some)
            total += count
        if portion:
            yield portion

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        features: Sequence[ClipFeatures] = (),
        *,
        mask: Tensor | None = None,
        cache: RaggedCache | None = None,
        decoupling: DecoupledRows | None = None,
    ) -> Tensor:
        """The last hidden states, [B, L, width].

        Args:
            ids: Token ids, [B, L].
            positions: Rotary positions, [3, B, L].
            features: Of the clips whose placeholders are in `ids`, in reading order.
            mask: True where a query may attend, [B, 1, L, S]; None is causal.
            cache: Read and written.
            decoupling: Keeps some queries from some keys, beside causality and padding.
        """
        states: Tensor = self.base.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            mm_encoder_outputs=encoder_outputs(features) if features else None,
            decoupling=decoupling,
        ).last_hidden_state
        return states.to(self.device)  # of a model on several devices, they come from the last one

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the ids that may be sampled, float32 [..., V]; -inf for the others."""
        logits: Tensor = self.base.lm_head(hidden).float()
        banned = torch.from_numpy(self.vocabulary.banned).to(logits.device)
        return logits.masked_fill(banned, -torch.inf)


def default_device_map() -> str | None:
    """Where a model plays if nobody says where: on a GPU, if there is one."""
    return "cuda" if torch.cuda.is_available() else None


def _existing(name_or_path: str | Path) -> str:
    """The name, unless it is a path that does not exist."""
    name = str(name_or_path)
    looks_like_path = isinstance(name_or_path, Path) or name.startswith((".", "/", "~"))
    path = Path(name).expanduser()
    looks_like_path |= len(path.parts) > 2 or path.is_dir()  # a hub's name is owner/model
    if looks_like_path and not path.is_dir():
        raise ConfigError(f"there is no model folder {path}")
    if looks_like_path and not any((path / file).is_file() for file in ("config.json", _ADAPTER)):
        folders = ("model", "checkpoints/*/model", "*/checkpoints/*/model")  # of runs
        inside = sorted(found for pattern in folders for found in path.glob(pattern))
        where = f"; {inside[-1]} is one" if inside else ""
        raise ConfigError(f"{path} is no model's folder{where}")
    return str(path) if looks_like_path else name


_HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "trust_remote_code")


def _hub_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _HUB_OPTIONS if name in options}


_ADAPTER = "adapter_config.json"


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a LoRA adapter and no model."""
    path = Path(folder).expanduser()
    return (path / _ADAPTER).is_file() and not (path / "config.json").exists()


def _base_of(folder: str) -> str:
    """The model that an adapter was made for."""
    fields = json.loads((Path(folder) / _ADAPTER).read_text(encoding="utf-8"))
    base = fields.get("base_model_name_or_path")
    if not base:
        raise ConfigError(
            f"{folder} is a LoRA adapter that does not name its model: load that model, with this "
            "as its adapter"
        )
    return _existing(base)


def with_adapter(network: Any, adapter: str | Path) -> Any:
    """A network with a LoRA adapter that can learn on.

    Raises:
        ConfigError: If the folder does not exist, or holds no weights.
        MissingExtraError: If peft is not installed.
    """
    try:
        from peft import PeftModel
    except ModuleNotFoundError as error:
        raise MissingExtraError("peft", "lora", "a LoRA adapter") from error
    name = _existing(adapter)
    if Path(name).is_dir() and not any(Path(name).glob("adapter_model.*")):
        raise ConfigError(f"{name} holds no weights of an adapter (adapter_model.safetensors)")
    return PeftModel.from_pretrained(network, name, is_trainable=True)
