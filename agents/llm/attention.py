"""Task-decoupled attention at about the price of causal attention, and transformers models with it.

Only the rows of a few grounding and answer tokens differ from causal. So the causal kernel runs for
all rows, and the rows that differ are computed once more with a mask of their own and written over:
exact, linear in memory, and on top of any causal kernel. The predicate is in `decoupling`.

    use_task_decoupling(model)
    plan = decoupled_rows(role, clip, valid)
    model(input_ids, position_ids=..., attention_mask=None, decoupling=plan)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from agents.llm.decoupling import (
    DecoupledRows,
    Scope,
    TaskDecoupling,
    decoupled_rows,
    dense_mask,
    query_mask,
)
from videoseek_env.errors import ConfigError

__all__ = [
    "ATTENTION_NAME",
    "DecoupledRows",
    "Scope",
    "TaskDecoupling",
    "attend_by_plan",
    "decoupled_rows",
    "dense_mask",
    "query_mask",
    "require_task_decoupling",
    "task_decoupled_attention",
    "use_task_decoupling",
]

ATTENTION_NAME = "task_decoupled"
"""The name of this attention in a transformers configuration."""

_TEXT_MODEL_TYPES = ("qwen2_5_vl_text", "qwen3_vl_text")
_NOT_WITH_A_PLAN = (
    "sliding_window",
    "softcap",
    "s_aux",
    "position_bias",
    "cache",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "output_attentions",
)


def task_decoupled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    role: Tensor,
    clip: Tensor,
    valid: Tensor,
    *,
    scope: Scope = "tags",
    scale: float | None = None,
) -> Tensor:
    """Attention under `dense_mask(role, clip, valid, scope=scope)`, without making that mask.

    Equal to `scaled_dot_product_attention` with the dense mask to float32 rounding (measured on
    values of order 1: outputs to 6e-7, gradients to 3e-6). Padding gives zeros.

    Args:
        query: [B, H, L, D], any strides.
        key: [B, H_kv, L, D]; H is a multiple of H_kv (grouped-query attention).
        value: [B, H_kv, L, D_v].
        role: As for `dense_mask`, like `clip` and `valid`.
        clip: Integer [B, L].
        valid: bool [B, L].
        scope: "tags" or "turn", see `Scope`.
        scale: Of the logits; 1/sqrt(D) by default.

    Returns:
        [B, H, L, D_v].

    Raises:
        ConfigError: If a shape, type or value is none of these.
    """
    plan = decoupled_rows(role, clip, valid, scope=scope)
    return attend_by_plan(query, key, value, plan, scale=scale)


def attend_by_plan(
    query: Tensor, key: Tensor, value: Tensor, plan: DecoupledRows, *, scale: float | None = None
) -> Tensor:
    """`task_decoupled_attention` by a plan made before, as every layer of a model calls it.

    Raises:
        ConfigError: If the shapes do not fit together, or not the plan.
    """
    _check_shapes(query, key, value, plan)
    if plan.order is not None:
        query, key, value = (_gather(heads, plan.order) for heads in (query, key, value))
    output = _causal(query, key, value, scale)
    if plan.slots.numel() > 0:
        output = _overwrite(output, plan, _blocked_rows(query, key, value, plan, scale))
    if plan.order is not None:
        places = plan.order[:, None, :, None].expand_as(output)
        output = torch.zeros_like(output).scatter(2, places, output)
    if plan.padding is not None:
        output = output.masked_fill(plan.padding[:, None, :, None], 0)
    return output


def use_task_decoupling(model: nn.Module) -> None:
    """Switch a model's text attention to this one; the vision tower keeps its own.

    Without a plan it does exactly what "sdpa" does, in training and in generation. With a plan,
    `model(..., decoupling=plan)`, pass `attention_mask=None`, because the plan knows the padding,
    and explicit `position_ids`.

    Args:
        model: Qwen2.5-VL or Qwen3-VL of transformers, or a module around one, such as peft's.

    Raises:
        ConfigError: If the model is none of these, or runs another attention than "sdpa".
    """
    configs = _text_configs(model)
    for config in configs:
        if config._attn_implementation not in ("sdpa", ATTENTION_NAME):
            raise ConfigError(
                f"task-decoupled attention is built on 'sdpa', but the model was loaded with "
                f"{config._attn_implementation!r}: load it with attn_implementation='sdpa'"
            )
        if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
            raise ConfigError(
                "task-decoupled attention needs full attention in every layer, but some of this "
                "model's have a sliding window: load it with use_sliding_window=False"
            )
    AttentionInterface.register(ATTENTION_NAME, _attention_forward)
    # A name without a mask function would have its 2-D padding masks dropped without a word.
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
    for config in configs:
        config._attn_implementation = ATTENTION_NAME


def require_task_decoupling(model: nn.Module) -> None:
    """Make sure that a plan handed to this model is heeded; other attentions ignore it silently.

    Raises:
        ConfigError: If the model's text attention is another, or the model none that can have it.
    """
    for config in _text_configs(model):
        if config._attn_implementation != ATTENTION_NAME:
            raise ConfigError(
                f"the model's text attention is {config._attn_implementation!r}, which would "
                f"ignore a plan for task-decoupled attention: call use_task_decoupling(model) first"
            )


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    grouped_kernel = _has_grouped_kernel(query)
    if groups > 1 and not grouped_kernel:
        key, value = (heads.repeat_interleave(groups, dim=1) for heads in (key, value))
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=True,
        scale=scale,
        enable_gqa=groups > 1 and grouped_kernel,
    )


def _has_grouped_kernel(query: Tensor) -> bool:
    """Whether the kernel for such queries reads grouped keys as they are.

    On a GPU those for float32 do not, and the fallback is quadratic in memory.
    """
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    return kind == "cpu" or dtype in (torch.float16, torch.bfloat16)


def _blocked_rows(
    query: Tensor, key: Tensor, value: Tensor, plan: DecoupledRows, scale: float | None
) -> Tensor:
    """The output of the plan's queries, [B, H, R, D_v]."""
    return _masked(_gather(query, plan.index), key, value, plan.mask, scale)


def _masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """Attention of [B, H, R, D] under a mask [B, 1, R, L], by keys and values as they are.

    Query heads of a group become more rows, since kernels with a mask want as many heads in keys as
    in queries, and repeated ones would be kept for the backward pass.
    """
    batch, heads, width, depth = query.shape
    groups = heads // key.shape[1]
    output = functional.scaled_dot_product_attention(
        query.reshape(batch, key.shape[1], groups * width, depth),
        key,
        value,
        attn_mask=mask.repeat(1, 1, groups, 1),
        scale=scale,
    )
    return output.reshape(batch, heads, width, -1)


def _overwrite(output: Tensor, plan: DecoupledRows, rows: Tensor) -> Tensor:
    """The output with the plan's real rows in place of its own. No kernel waits for the host."""
    batch, heads, length, depth = output.shape
    starts = torch.arange(batch, device=output.device)[:, None] * length
    targets = (plan.index + starts).flatten()[plan.slots]
    chosen = rows.transpose(1, 2).reshape(-1, heads, depth)[plan.slots]
    flat = output.transpose(1, 2).reshape(-1, heads, depth).index_copy(0, targets, chosen)
    return flat.view(batch, length, heads, depth).transpose(1, 2)


def _gather(heads: Tensor, index: Tensor) -> Tensor:
    """Tokens [B, H, N, D] of [B, H, L, D] by an index [B, N]."""
    index = index[:, None, :, None].expand(-1, heads.shape[1], -1, heads.shape[3])
    return heads.gather(2, index)


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    decoupling: DecoupledRows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer: q [B, H, L, D] to [B, L, H, D]."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if decoupling is None:
        if dropout == 0 and not any(_is_set(kwargs.get(name)) for name in _NOT_WITH_A_PLAN):
            output = _without_repeats(query, key, value, attention_mask, causal, scaling)
            if output is not None:
                return output.transpose(1, 2).contiguous(), None
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return output, None
    if attention_mask is not None:
        raise ConfigError(
            "got a plan for task-decoupled attention and a mask as well: pass attention_mask=None "
            "(the plan knows the padding) and position_ids of shape [3, B, L] (with a fourth row "
            "transformers looks for packed sequences and makes a mask)"
        )
    unsupported = [name for name in _NOT_WITH_A_PLAN if _is_set(kwargs.get(name))]
    if dropout > 0 or unsupported or not causal:
        raise ConfigError(
            f"a plan for task-decoupled attention is for causal attention without dropout and "
            f"extras, but this layer ({type(module).__name__}) has dropout {dropout}, "
            f"is_causal {causal}, and {unsupported or 'no extras'}: set attention_dropout=0 and "
            f"drop the extras, or train this batch without a plan"
        )
    output = attend_by_plan(query, key, value, decoupling, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


def _without_repeats(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
) -> Tensor | None:
    """What transformers' own would repeat keys and values for; None if it would not."""
    if mask is None:
        if causal and query.shape[2] == key.shape[2] and not _has_grouped_kernel(query):
            return _causal(query, key, value, scale)
    elif mask.shape[1] == 1 and query.shape[1] > key.shape[1] and query.shape[2] > 1:
        return _masked(query, key, value, mask, scale)
    return None


def _is_set(option: object) -> bool:
    return option is not None and option is not False


def _text_configs(model: nn.Module) -> list[Any]:
    """The configurations that text models' layers read, wherever in the model they are."""
    configs = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "model_type", None) in _TEXT_MODEL_TYPES:
            configs[id(config)] = config
    if not configs:
        raise ConfigError(
            f"task-decoupled attention is for transformers' Qwen2.5-VL and Qwen3-VL (model types "
            f"{', '.join(_TEXT_MODEL_TYPES)}), and {type(model).__name__} holds neither: pass such "
            f"a model, or train without it"
        )
    return list(configs.values())


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, plan: DecoupledRows) -> None:
    shapes = f"query {list(query.shape)}, key {list(key.shape)}, value {list(value.shape)}"
    if not query.ndim == key.ndim == value.ndim == 4 or key.shape[:3] != value.shape[:3]:
        raise ConfigError(
            f"expected query [B, H, L, D], key [B, H_kv, L, D] and value [B, H_kv, L, D_v], "
            f"got {shapes}"
        )
    if query.shape[3] != key.shape[3] or key.shape[1] == 0 or query.shape[1] % key.shape[1]:
        raise ConfigError(
            f"expected heads of one size in query and key, and a number of query heads that the "
            f"number of key heads divides, got {shapes}"
        )
    one_type = query.dtype == key.dtype == value.dtype
    if not (one_type or torch.is_autocast_enabled(query.device.type)):
        raise ConfigError(
            f"expected query, key and value of one type, got {query.dtype}, {key.dtype} and "
            f"{value.dtype}: convert them, or compute under torch.autocast"
        )
    batch, _, _, length = plan.mask.shape
    if any((len(heads), heads.shape[2]) != (batch, length) for heads in (query, key)):
        raise ConfigError(
            f"the plan is for {batch} rows of {length} tokens, queries and keys alike, got "
            f"{shapes}. With a kept key-value cache, pass query_mask's rows as a 4-D attention "
            f"mask instead"
        )
