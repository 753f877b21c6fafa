"""Keys and values that outlive a turn: one record per episode, stacked while a batch generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_MORE_ROOM: Final = 512
"""Tokens that a cache grows by when its room is used up."""


@dataclass(slots=True)
class KeyValues:
    """What the model has computed for the first tokens of one context.

    Several contexts that begin alike may share one record: it is never written to.
    """

    layers: list[tuple[Tensor, Tensor]]
    """Keys and values of each layer, [H_kv, L, D]; empty before the first forward."""
    length: int = 0
    """Tokens covered."""

    @classmethod
    def empty(cls) -> KeyValues:
        """Nothing yet."""
        return cls([])


class RaggedCache(Cache):  # type: ignore[misc]
    """A batch of rows of different lengths, each written where its own tokens end.

    Rows hold no gaps: key j of a row is its token j. What lies beyond a row's end is rubbish until
    it is overwritten, and has to be masked.
    """

    def __init__(self, rows: Sequence[KeyValues], *, room: int) -> None:
        """Stack rows.

        Args:
            rows: What each row starts from.
            room: Tokens that are likely to be added to each row; more are added by reallocation.
        """
        self.lengths = torch.tensor([row.length for row in rows])
        """Tokens of each row, [B], on the host."""
        self._places: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
        self.capacity = int(self.lengths.max()) + room
        """Tokens that each row has room for at first."""
        depth = max(len(row.layers) for row in rows)
        super().__init__(layers=[RaggedLayer.stack(rows, i, self) for i in range(depth)])
        if depth == 0:  # nothing is known of the shapes before the first forward
            self.layer_class_to_replicate = lambda: RaggedLayer(self)

    def advance(self, counts: Tensor) -> None:
        """Count new tokens after a forward that wrote them, [B]."""
        self.lengths = self.lengths + counts
        self._places.clear()

    def places(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where the next `count` tokens of each row go: rows [B, 1] and columns [B, count].

        All layers of a forward write there, and a GPU waits for such numbers from the host.
        """
        key = (count, device)
        if key not in self._places:
            rows = torch.arange(len(self.lengths), device=device)[:, None]
            columns = (self.lengths[:, None] + torch.arange(count)).to(device)
            self._places[key] = rows, columns
        return self._places[key]

    def rows(self) -> list[KeyValues]:
        """Each row's own part, without copying."""
        return [
            KeyValues(
                [(layer.keys[b, :, :length], layer.values[b, :, :length]) for layer in self.layers],
                length,
            )
            for b, length in enumerate(self.lengths.tolist())
        ]

    def take_rows(self) -> list[KeyValues]:
        """Each row's own part in memory of its own; the cache is gone then.

        A part of the batch would keep all of it for as long as one of its episodes goes on.
        """
        taken = [KeyValues([], length) for length in self.lengths.tolist()]
        for layer in self.layers:
            for b, row in enumerate(taken):
                keys, values = layer.keys[b, :, : row.length], layer.values[b, :, : row.length]
                row.layers.append((keys.clone(), values.clone()))
            del layer.keys, layer.values
        return taken


class RaggedLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, [B, H_kv, capacity, D]."""

    is_sliding = False

    def __init__(self, cache: RaggedCache) -> None:
        super().__init__()
        self._cache = cache

    @classmethod
    def stack(cls, rows: Sequence[KeyValues], index: int, cache: RaggedCache) -> RaggedLayer:
        """Copy one layer of each row."""
        layer = cls(cache)
        keys, values = next(row.layers[index] for row in rows if row.layers)
        layer.lazy_initialization(keys.expand(len(rows), -1, -1, -1), values[None])
        for b, row in enumerate(rows):
            if row.layers:
                layer.keys[b, :, : row.length], layer.values[b, :, : row.length] = row.layers[index]
        return layer

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate by the shape of the first states, [B, H_kv, Q, D]."""
        batch, heads, _, _ = key_states.shape
        self.keys, self.values = (
            states.new_zeros(batch, heads, self._cache.capacity, states.shape[-1])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [B, H_kv, Q, D] behind each row's end; keys and values up to the longest row."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        starts, added = self._cache.lengths, key_states.shape[2]
        first, end = int(starts.min()), int(starts.max()) + added
        if end > self.keys.shape[2]:
            self.keys, self.values = (_grown(states, end) for states in (self.keys, self.values))
        if first + added == end:
            self.keys[:, :, first:end] = key_states
            self.values[:, :, first:end] = value_states
        else:
            row, column = self._cache.places(added, key_states.device)
            self.keys[row, :, column] = key_states.transpose(1, 2)
            self.values[row, :, column] = value_states.transpose(1, 2)
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that `update` will return, and their offset."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens of the longest row."""
        return int(self._cache.lengths.max())

    def get_max_length(self) -> int:
        """No limit, in transformers' words."""
        return -1


def _grown(states: Tensor, length: int) -> Tensor:
    """The same states with room for a reply more; half as much again is gigabytes."""
    grown = states.new_zeros(*states.shape[:2], length + _MORE_ROOM, states.shape[3])
    grown[:, :, : states.shape[2]] = states
    return grown
