"""What is still to be earned: a value head, and the targets of tokens that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from agents.learning.advantages import whiten


class ValueHead(nn.Module):
    """What is still to be earned, from a hidden state; 0 everywhere before it has learned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values [B, L] of hidden states [B, L, width]: entry t is of the state before token t."""
        values = self.linear(self.norm(hidden.float()))[..., 0]
        return torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], 1)


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What a sample's tokens are moved towards, float32 [L] each, on the host."""

    trained: Tensor
    """Whether the model wrote the token, bool."""
    old_values: Tensor
    """Before learning."""
    advantages: Tensor
    returns: Tensor


def whitened(targets: Sequence[Targets], *, process: int) -> list[Targets]:
    """The targets with advantages of mean 0 and deviation 1 over all processes' written tokens.

    Args:
        targets: This process's, perhaps none; every process has to call this.
        process: Its number.
    """
    own = [target.advantages[target.trained] for target in targets]
    shares: list[Tensor] = gather_object([torch.cat([torch.zeros(0), *own])])
    everyone = torch.cat(shares)[None]
    if not own:
        return []
    white = whiten(everyone, torch.ones_like(everyone, dtype=torch.bool))[0]
    mine = torch.split(white, [len(share) for share in shares])[process]
    parts = torch.split(mine, [len(advantages) for advantages in own])
    return [
        replace(target, advantages=torch.zeros_like(target.advantages).masked_scatter(mask, part))
        for target, mask, part in zip(targets, [t.trained for t in targets], parts, strict=True)
    ]


def explained_variance(targets: Sequence[Targets]) -> float:
    """1 - Var(returns - values) / Var(returns) over all processes' written tokens.

    0 where returns do not vary, and for values that are constant; every process has to call this.
    """
    own = [
        torch.stack([target.returns[target.trained], target.old_values[target.trained]])
        for target in targets
    ]
    pairs: Tensor = torch.cat(gather_object([torch.cat([torch.zeros(2, 0), *own], 1)]), 1)
    if not pairs.numel():
        return 0.0
    returns, values = pairs
    spread = float(returns.var(correction=0))
    return 0.0 if spread == 0.0 else 1.0 - float((returns - values).var(correction=0)) / spread
