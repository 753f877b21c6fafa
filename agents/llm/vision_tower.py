"""The vision towers of Qwen2.5-VL and Qwen3-VL: clips in, features out, without a loop over frames.

Features are made apart from the language model's forward and handed to it: a clip is encoded once,
however many rollouts and turns look at it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name

from agents.llm.vision import Grid, Patches, pack
from videoseek_env.errors import ConfigError

BATCHED_ATTENTION = "videoseek_flash_style_sdpa"
"""The name under which transformers knows `segment_attention`.

Its vision layers hand over the packed sequence whole, with the lengths of its segments, to any
implementation whose name contains "flash"; all others they call once for each segment.
"""

_MAX_RUNS_PER_LENGTH = 2
"""With more runs of equal segments than this for each length, tokens are sorted by length first:
moving them costs less than the calls that it saves."""


@dataclass(frozen=True, slots=True, eq=False)
class ClipFeatures:
    """What the language model reads of a clip: one row for each visual token."""

    embeddings: torch.Tensor
    """[n, D]; n = pairs * rows / merge * columns / merge."""
    deepstack: tuple[torch.Tensor, ...] = ()
    """Qwen3-VL: [n, D] for each of the first layers of the language model. Qwen2.5-VL: none."""


def use_batched_vision_attention(model: torch.nn.Module) -> None:
    """Let the vision tower attend to all frames at once, in place of a loop over them.

    The language model keeps its implementation. Saved checkpoints don't mention any. Transformers
    looks for a flash-attention kernel of that name when it builds a model whose config asks for it:
    call this on a model that is built, and build others from a config of their own; copies are
    fine. Undo it with `model.set_attn_implementation({"vision_config": "sdpa"})`.

    Args:
        model: A Qwen2.5-VL or Qwen3-VL model, or a peft model around one. Changed in place.

    Raises:
        ConfigError: If the model has no such vision tower.
    """
    from transformers import AttentionInterface

    base = _with_tower(model)
    AttentionInterface.register(BATCHED_ATTENTION, segment_attention)
    base.set_attn_implementation({"vision_config": BATCHED_ATTENTION})


class PatchProjection(torch.nn.Conv3d):
    """A convolution whose every input is one kernel's worth: a matrix product."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Project patches [P, channels, *kernel] to [P, width, 1, 1, 1]."""
        rows = F.linear(patches.flatten(1), self.weight.flatten(1), self.bias)
        return rows[..., None, None, None]


def use_matrix_patch_projection(model: torch.nn.Module) -> None:
    """Let the vision tower read patches by a matrix product, in place of its 3-D convolution.

    The result is the same; on a CPU the convolution is a third of a small tower's time. Weights,
    their names, adapters and hooks stay.

    Args:
        model: A Qwen2.5-VL or Qwen3-VL model, or a peft model around one. Changed in place.

    Raises:
        ConfigError: If the model has no such vision tower.
    """
    projection = _with_tower(model).model.visual.patch_embed.proj
    projection = getattr(projection, "base_layer", projection)  # out of an adapter
    if not isinstance(projection, torch.nn.Conv3d):
        raise ConfigError(
            f"expected a Conv3d that reads patches, got {type(projection).__name__}; "
            "this version of transformers has another vision tower"
        )
    # As torch's own parametrizations do: a new module would lose hooks, and its name to adapters.
    projection.__class__ = PatchProjection


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Full attention inside each segment of a packed sequence, as transformers calls attention.

    Segments of equal length are one batch. Equal to the loop over segments, at the cost of one call
    for each run of equal segments, or for each length where runs are many, as they are with windows
    that stand out over the edge of a frame.

    Args:
        module: The layer that calls.
        query: [1, heads, L, head_dim].
        key: Like `query`.
        value: Like `query`.
        attention_mask: None.
        scaling: Of the scores; by default 1 / sqrt(head_dim).
        dropout: Probability.
        cu_seq_lens_q: int [S + 1], where segments start, and L.

    Returns:
        [1, L, heads, head_dim], and None for the attention weights.

    Raises:
        ConfigError: If the caller does not say where segments start, as only vision towers do.
    """
    if cu_seq_lens_q is None or attention_mask is not None or len(query) != 1:
        raise ConfigError(
            f"{BATCHED_ATTENTION} is for vision towers, which pack their frames; it was called by "
            f"{type(module).__name__}: give the language model another implementation"
        )
    packed = [states[0].transpose(0, 1) for states in (query, key, value)]
    lengths = cu_seq_lens_q.diff()
    sizes, counts = torch.unique_consecutive(lengths, return_counts=True)
    distinct, totals = torch.unique(lengths, return_counts=True)
    if len(sizes) <= _MAX_RUNS_PER_LENGTH * len(distinct):
        output = _attend(packed, sizes.tolist(), counts.tolist(), scaling, dropout)
    else:
        order = _by_length(lengths)
        packed = [states.index_select(0, order) for states in packed]
        attended = _attend(packed, distinct.tolist(), totals.tolist(), scaling, dropout)
        output = torch.empty_like(attended).index_copy_(0, order, attended)
    return output.unsqueeze(0), None


def _by_length(lengths: torch.Tensor) -> torch.Tensor:
    """The tokens' places, int64 [L], in the order that sorts their segments by length."""
    order = lengths.argsort(stable=True)
    starts = lengths.cumsum(0) - lengths
    shifts = starts[order] - (lengths[order].cumsum(0) - lengths[order])
    shift_of_token = shifts.repeat_interleave(lengths[order])
    return torch.arange(len(shift_of_token), device=lengths.device) + shift_of_token


def _attend(
    packed: Sequence[torch.Tensor],
    sizes: Sequence[int],
    counts: Sequence[int],
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Attention over runs of `counts` segments of `sizes` tokens each: [L, heads, head_dim]."""
    # Split, not sliced: going back, a split joins its gradients once, each slice pads its own to L.
    tokens = [size * count for size, count in zip(sizes, counts, strict=True)]
    runs = zip(sizes, counts, *(torch.split(states, tokens) for states in packed), strict=True)
    outputs = []
    for size, count, *states in runs:
        query, key, value = (part.unflatten(0, (count, size)).transpose(1, 2) for part in states)
        attended = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=scaling
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def encode_clips(
    model: torch.nn.Module, clips: Sequence[Patches], *, max_patches: int | None = None
) -> list[ClipFeatures]:
    """The features of clips of any sizes and lengths, by one forward of the vision tower.

    Gradients flow if they are enabled. Pairs of frames do not see each other in these towers, so a
    long clip can be encoded in parts, with the same result.

    Args:
        model: A Qwen2.5-VL or Qwen3-VL model, or a peft model around one.
        clips: On any device.
        max_patches: Of one forward, at least those of a pair; more are encoded in several. This
            bounds memory where no gradients are kept. None: everything at once.

    Returns:
        One entry for each clip, in order, with storage of its own.

    Raises:
        ConfigError: If the model has no such vision tower, wants other patches, or a single pair
            passes `max_patches`.
    """
    base = _with_tower(model)
    _require_fitting(clips, base.config.vision_config)
    parts = [(n, part) for n, clip in enumerate(clips) for part in _parts(clip, max_patches)]
    # Frames of one size next to each other: the fewest runs of equal segments.
    parts.sort(key=lambda part: part[1].grid[1:])
    features: list[list[ClipFeatures]] = [[] for _ in clips]
    for chunk in _chunks(parts, max_patches):
        encoded = _forward(base, [part for _, part in chunk])
        for (number, _), part_features in zip(chunk, encoded, strict=True):
            features[number].append(part_features)
    return [_join(clip) for clip in features]


def _require_fitting(clips: Sequence[Patches], vision: Any) -> None:
    expected = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    for clip in clips:
        if tuple(clip.values.shape) != (clip.grid.patches, expected):
            raise ConfigError(
                f"expected patches of {expected} numbers (patch_px {vision.patch_size}), got "
                f"{list(clip.values.shape)} for {clip.grid}; "
                "make them with VisionSpec.from_config of this model"
            )


def _parts(clip: Patches, max_patches: int | None) -> Iterator[Patches]:
    """A clip in parts of whole pairs with at most `max_patches` patches each."""
    pairs, rows, columns = clip.grid
    step = pairs if max_patches is None else max_patches // (rows * columns)
    if step < 1:
        raise ConfigError(
            f"a pair of frames has {rows * columns} patches, more than max_patches={max_patches}; "
            "raise max_patches or lower the budget's tokens"
        )
    for values in torch.split(clip.values, step * rows * columns):
        yield Patches(values, Grid(len(values) // (rows * columns), rows, columns))


def _chunks(
    parts: Sequence[tuple[int, Patches]], max_patches: int | None
) -> Iterator[list[tuple[int, Patches]]]:
    """Parts in order, as many at a time as `max_patches` allows."""
    chunk: list[tuple[int, Patches]] = []
    patches = 0
    for part in parts:
        patches += part[1].grid.patches
        if chunk and max_patches is not None and patches > max_patches:
            yield chunk
            chunk, patches = [], part[1].grid.patches
        chunk.append(part)
    if chunk:
        yield chunk


def _forward(base: Any, clips: Sequence[Patches]) -> list[ClipFeatures]:
    packed = pack(clips)
    tower = base.model.visual
    output = base.model.get_video_features(
        packed.values.to(tower.device, tower.dtype),
        packed.grids.to(tower.device),
        return_dict=True,
    )
    layers = getattr(output, "deepstack_features", None) or []
    return [
        ClipFeatures(embeddings, tuple(layer[number] for layer in layers))
        for number, embeddings in enumerate(output.pooler_output)
    ]


def _join(parts: Sequence[ClipFeatures]) -> ClipFeatures:
    """The parts of one clip, copied: a kept clip must not keep its whole batch in memory."""
    layers = zip(*(part.deepstack for part in parts), strict=True)
    return ClipFeatures(
        torch.cat([part.embeddings for part in parts]), tuple(torch.cat(layer) for layer in layers)
    )


def encoder_outputs(features: Sequence[ClipFeatures]) -> dict[str, Any]:
    """What `model(..., mm_encoder_outputs=...)` takes in place of pixels; a fresh dict each time.

    Args:
        features: In the order of their placeholders in `input_ids`, row by row. May be empty.

    Raises:
        ConfigError: If the features are of different models.
    """
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    if not features:
        return {}
    if len({len(clip.deepstack) for clip in features}) > 1:
        raise ConfigError("the clips have features of different models; encode them with one")
    layers = zip(*(clip.deepstack for clip in features), strict=True)
    output = BaseModelOutputWithDeepstackFeatures(
        pooler_output=[clip.embeddings for clip in features],
        deepstack_features=[list(layer) for layer in layers],
    )
    return {"video": output}


def _with_tower(model: torch.nn.Module) -> Any:
    """The transformers model that has the vision tower, out of its peft model if it is in one."""
    unwrap = getattr(model, "get_base_model", None)
    base: Any = model if unwrap is None else unwrap()
    if not hasattr(getattr(base, "model", None), "visual"):
        raise ConfigError(
            f"{type(base).__name__} has no vision tower; expected a "
            "Qwen2_5_VLForConditionalGeneration or a Qwen3VLForConditionalGeneration"
        )
    return base
