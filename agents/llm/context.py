"""One episode as the model reads it: tokens that are only ever appended.

SFT, rollout, training, evaluation and attention masks all read this record. Nothing is tokenised
twice, so what was sampled is what is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agents.llm.roles import TokenRole
from videoseek_env.errors import ConfigError
from videoseek_env.video.clip import ClipRef

__all__ = ["TOKEN", "Chunk", "Context", "ContextClip", "Grid", "Mark", "TokenRole"]

TOKEN = np.dtype(
    [
        ("id", np.int32),
        ("role", np.int8),
        ("clip", np.int16),
        ("trained", np.bool_),
        ("logprob", np.float32),
        ("position", np.int32, (3,)),
    ]
)
"""One token: vocabulary id; `TokenRole`; the number of its clip or -1; whether the model wrote it;
the log-probability it was sampled with, NaN if it was not; rotary positions (time, height, width).
"""


class Grid(NamedTuple):
    """Cells of a clip's visual tokens: pairs of frames, rows, columns."""

    pairs: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """Visual tokens of the clip."""
        return self.pairs * self.rows * self.columns


@dataclass(frozen=True, slots=True)
class ContextClip:
    """A clip whose placeholders are in a context."""

    ref: ClipRef
    grid: Grid


class Mark(NamedTuple):
    """A place in a context that one can go back to."""

    tokens: int
    clips: int
    next_position: int


class Chunk:
    """Tokens and clips that enter a context together or not at all."""

    def __init__(self, context: Context) -> None:
        self._parts: list[npt.NDArray[np.void]] = []
        self.clips: list[ContextClip] = []
        self.first_clip = len(context.clips)
        self.next_position = context.next_position

    def text(
        self,
        ids: Sequence[int],
        *,
        roles: Sequence[TokenRole] | TokenRole = TokenRole.TEXT,
        clip: int = -1,
        trained: bool = False,
        logprobs: Sequence[float] | None = None,
    ) -> None:
        """Add tokens of text, one rotary position each."""
        part = np.zeros(len(ids), TOKEN)
        part["id"], part["role"], part["clip"], part["trained"] = ids, roles, clip, trained
        part["logprob"] = np.nan if logprobs is None else logprobs
        part["position"] = (self.next_position + np.arange(len(ids)))[:, None]
        self.next_position += len(ids)
        self._parts.append(part)

    def vision(self, pad_id: int, grid: Grid, *, clip: int, seconds_scale: float = 1.0) -> None:
        """Add the placeholders of a block of visual tokens, in (pair, row, column) order.

        What follows stands behind all of the block, its time included, as Qwen2.5-VL was trained.
        transformers 5 puts it behind rows and columns alone, in the midst of a longer clip's time.

        Source: get_rope_index of Qwen2.5-VL's authors, huggingface/transformers#35569.

        Args:
            pad_id: The placeholder.
            grid: The block's cells.
            clip: Its number.
            seconds_scale: Rotary time positions from one pair to the next, rounded down each.
        """
        part = np.zeros(grid.tokens, TOKEN)
        part["id"], part["role"], part["clip"] = pad_id, TokenRole.VISION, clip
        part["logprob"] = np.nan
        cells = np.indices(grid).reshape(3, -1).T
        # In float32, as the models compute it: another rounding would shift a position.
        cells[:, 0] = cells[:, 0].astype(np.float32) * np.float32(seconds_scale)
        part["position"] = self.next_position + cells
        self.next_position = int(part["position"].max()) + 1
        self._parts.append(part)

    @property
    def tokens(self) -> npt.NDArray[np.void]:
        """All tokens, [n] of `TOKEN`."""
        whole = np.empty(sum(map(len, self._parts)), TOKEN)
        start = 0
        for part in self._parts:  # np.concatenate would take longer over the fields' types
            whole[start : start + len(part)] = part
            start += len(part)
        return whole


class Context:
    """The tokens of one episode, append-only but for `rollback`.

    `context["id"]`, and likewise any other field of `TOKEN`, is a view of what has been appended.
    """

    def __init__(self) -> None:
        self._buffer = np.zeros(256, TOKEN)
        self._length = 0
        self.clips: list[ContextClip] = []
        """The clips whose placeholders are in the context, in order."""
        self.next_position = 0
        """Rotary position of the next text token."""

    def __len__(self) -> int:
        """Tokens so far."""
        return self._length

    def __getitem__(self, field: str) -> npt.NDArray[Any]:
        """One field of all tokens; read-only."""
        return self.tokens[field]

    @property
    def tokens(self) -> npt.NDArray[np.void]:
        """All tokens, [L] of `TOKEN`; read-only."""
        view = self._buffer[: self._length]
        view.flags.writeable = False
        return view

    def append(self, chunk: Chunk) -> None:
        """Add a chunk.

        Raises:
            ConfigError: If its placeholders are not as many as its clips' cells, or it was made for
                another place.
        """
        tokens = chunk.tokens
        if chunk.first_clip != len(self.clips):
            raise ConfigError("the chunk was made for another place of the context")
        placeholders = int((tokens["role"] == TokenRole.VISION).sum())
        cells = sum(clip.grid.tokens for clip in chunk.clips)
        if placeholders != cells:
            raise ConfigError(f"{placeholders} placeholders for clips of {cells} visual tokens")
        end = self._length + len(tokens)
        if end > len(self._buffer):
            grown = np.zeros(max(end, 2 * len(self._buffer)), TOKEN)
            grown[: self._length] = self._buffer[: self._length]
            self._buffer = grown
        self._buffer[self._length : end] = tokens
        self._length = end
        self.clips.extend(chunk.clips)
        self.next_position = chunk.next_position

    def mark(self) -> Mark:
        """The present end, for `rollback`."""
        return Mark(self._length, len(self.clips), self.next_position)

    def rollback(self, mark: Mark) -> None:
        """Forget what was appended since `mark`.

        Raises:
            ConfigError: If the mark lies beyond the end.
        """
        if mark.tokens > self._length or mark.clips > len(self.clips):
            raise ConfigError(f"cannot roll forward: {mark} is beyond {self.mark()}")
        self._length, self.next_position = mark.tokens, mark.next_position
        del self.clips[mark.clips :]
