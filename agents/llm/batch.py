"""Contexts side by side, as tensors: right-padded, in reading order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.llm.context import TOKEN, TokenRole


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Tokens of several contexts."""

    ids: Tensor
    """int64 [B, L]."""
    positions: Tensor
    """Rotary positions, int64 [3, B, L]."""
    role: Tensor
    """`TokenRole`, int64 [B, L]."""
    clip: Tensor
    """Number of the clip or -1, int64 [B, L]."""
    trained: Tensor
    """Whether the model wrote the token, bool [B, L]."""
    logprob: Tensor
    """What it was sampled with, float32 [B, L]; NaN where it was not."""
    valid: Tensor
    """False on padding, bool [B, L]."""

    @classmethod
    def stack(cls, contexts: Sequence[npt.NDArray[np.void]], *, pad_id: int) -> Self:
        """Pad token arrays on the right.

        Args:
            contexts: Arrays of `TOKEN`: `Context.tokens`, or slices of it.
            pad_id: Id of the padding; any that is no placeholder.
        """
        padding = np.zeros((), TOKEN)
        padding["id"], padding["clip"], padding["logprob"] = pad_id, -1, np.nan
        lengths = np.array([len(tokens) for tokens in contexts])
        table = np.full((len(contexts), int(lengths.max())), padding)
        for row, tokens in zip(table, contexts, strict=True):
            row[: len(tokens)] = tokens
        return cls(
            ids=_int64(table["id"]),
            positions=_int64(table["position"]).permute(2, 0, 1),
            role=_int64(table["role"]),
            clip=_int64(table["clip"]),
            trained=torch.from_numpy(table["trained"].copy()),
            logprob=torch.from_numpy(table["logprob"].copy()),
            valid=torch.from_numpy(np.arange(table.shape[1]) < lengths[:, None]),
        )

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, [B]."""
        return self.valid.sum(1)

    @property
    def vision(self) -> Tensor:
        """Where visual tokens stand, bool [B, L]."""
        return self.role == TokenRole.VISION

    def to(self, device: torch.device | str) -> TokenBatch:
        """The batch on another device."""
        fields: dict[str, Any] = {
            name: getattr(self, name).to(device, non_blocking=True) for name in self.__slots__
        }
        return replace(self, **fields)


def _int64(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))
