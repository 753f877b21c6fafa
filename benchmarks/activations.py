"""What a layer of a full-size model keeps of a context for the backward pass.

One text layer of Qwen3-VL-4B, random weights in bfloat16, on a CPU: the bytes of all tensors that
autograd saves, parameters left out, by token. Once with weights that learn, once with frozen ones
as beneath a LoRA adapter (the adapter's own few are not counted), once with gradient checkpointing.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextDecoderLayer,
    Qwen3VLTextRotaryEmbedding,
)

CONFIG = Qwen3VLTextConfig(
    hidden_size=2560,
    intermediate_size=9728,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    num_hidden_layers=36,
    rope_scaling={"rope_type": "default", "mrope_section": [24, 20, 20]},
)
CONTEXT_TOKENS = 16_384
TOKENS = 512


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    CONFIG._attn_implementation = "sdpa"
    layer = Qwen3VLTextDecoderLayer(CONFIG, 0).to(torch.bfloat16).train()
    layers = CONFIG.num_hidden_layers
    print(f"| {'':22} | KiB a token | GiB of {layers} layers, {CONTEXT_TOKENS} tokens |")
    print(f"|{'-' * 24}|---|---|")
    for name, learns, twice in (
        ("weights that learn", True, False),
        ("frozen weights", False, False),
        ("frozen, checkpointing", False, True),
    ):
        layer.requires_grad_(learns)
        layer.gradient_checkpointing = twice
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        kept = kept_bytes(layer) / TOKENS
        print(f"| {name:22} | {kept / 2**10:.0f} | {kept * layers * CONTEXT_TOKENS / 2**30:.1f} |")


def kept_bytes(layer: torch.nn.Module) -> int:
    """The storages that one forward saves, each counted once."""
    states = torch.randn(1, TOKENS, CONFIG.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    positions = torch.arange(TOKENS)[None, None].expand(3, 1, -1)
    rotations = Qwen3VLTextRotaryEmbedding(CONFIG)(states, positions)
    weights = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # or a later one may get the same address

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        layer(
            states,
            position_embeddings=rotations,
            attention_mask=None,
            position_ids=positions[0],
        )
    return sum(kept.values())


if __name__ == "__main__":
    main()
