"""Reading: what a context holds and the model has not read yet, batched over episodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.llm.batch import TokenBatch
from agents.llm.cache import KeyValues, RaggedCache
from agents.llm.context import Context, TokenRole
from agents.llm.decoupling import Scope, decoupled_rows, query_mask
from agents.llm.model import VisionLanguageModel
from agents.llm.vision_tower import ClipFeatures
from videoseek_env.errors import ConfigError
from videoseek_env.video.clip import Clip, ClipRef

PREFILL_TOKENS = 1024
"""Tokens of each row that one forward on a kept cache reads, which bounds its mask."""

FRESH_TOKENS = 2**16
"""Tokens that one forward from nothing reads, but one row at least."""


@dataclass(slots=True, eq=False)
class Row:
    """One episode in generation."""

    context: Context
    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    """Draws one number per sampled token: other rows do not change what this one samples."""
    known: KeyValues = field(default_factory=KeyValues.empty)
    """Keys and values of the context's first tokens."""

    @property
    def pending(self) -> int:
        """Tokens that the model has not read yet."""
        return len(self.context) - self.known.length


@torch.inference_mode()
def prefill(
    model: VisionLanguageModel,
    rows: Sequence[Row],
    clips: Sequence[Sequence[Clip]],
    *,
    scope: Scope | None = None,
) -> Tensor:
    """Read what has not been read yet; `known` then covers each row's whole context.

    Rows that begin alike, as the members of a group do, are read once and share what is known.

    Args:
        model: Reads.
        rows: Contexts with something new in each.
        clips: The frames of the clips among what is new, row by row.
        scope: Tokens inside tags attend as task-decoupled masking has it; None is causal.

    Returns:
        The hidden state of each row's last token, [B, width].

    Raises:
        ConfigError: If a context has no new token, or its clips are not those it waits for.
    """
    if any(row.pending < 1 for row in rows):
        raise ConfigError("a context needs an observation before a reply")
    leaders, follows = _group(rows)
    # Apart, so that a long first observation is read without a mask, and no short one waits for it.
    begun = [place for place, i in enumerate(leaders) if rows[i].known.length]
    fresh = [place for place, i in enumerate(leaders) if not rows[i].known.length]
    known: dict[int, KeyValues] = {}
    hidden: dict[int, Tensor] = {}
    for places in filter(None, (*_portions(rows, leaders, fresh), begun)):
        part = [leaders[place] for place in places]
        read, last = _read(model, [rows[i] for i in part], [clips[i] for i in part], scope)
        known.update(zip(places, read, strict=True))
        hidden.update(zip(places, last, strict=True))
    for row, place in zip(rows, follows, strict=True):
        row.known = known[place]
    return torch.stack([hidden[place] for place in follows])


def _portions(
    rows: Sequence[Row], leaders: Sequence[int], places: Sequence[int]
) -> Iterator[list[int]]:
    """Rows that are read from nothing, at most `FRESH_TOKENS` at a time, padding included."""
    portion: list[int] = []
    longest = 0
    for place in places:
        longest = max(longest, rows[leaders[place]].pending)
        if portion and (len(portion) + 1) * longest > FRESH_TOKENS:
            yield portion
            portion, longest = [], rows[leaders[place]].pending
        portion.append(place)
    yield portion


def _group(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """Rows that are to be read, and for each row the place of the one that it equals."""
    places: dict[object, int] = {}
    leaders: list[int] = []
    follows: list[int] = []
    for index, row in enumerate(rows):
        clips = tuple(clip.ref for clip in row.context.clips)
        key = index if row.known.length else (row.context["id"].tobytes(), clips)
        if key not in places:
            places[key] = len(leaders)
            leaders.append(index)
        follows.append(places[key])
    return leaders, follows


def _read(
    model: VisionLanguageModel,
    rows: Sequence[Row],
    clips: Sequence[Sequence[Clip]],
    scope: Scope | None,
) -> tuple[list[KeyValues], Tensor]:
    waiting = _WaitingFeatures(model, rows, clips)
    cache = RaggedCache([row.known for row in rows], room=max(row.pending for row in rows))
    # From nothing, causal attention needs no mask, however long the context is.
    step = cache.capacity if cache.get_seq_length() == 0 else PREFILL_TOKENS
    last: list[Tensor | None] = [None] * len(rows)
    while any(state is None for state in last):
        parts = [
            row.context.tokens[read : read + step]
            for row, read in zip(rows, cache.lengths.tolist(), strict=True)
        ]
        batch = TokenBatch.stack(parts, pad_id=model.vocabulary.end_of_turn)
        hidden = model.hidden(
            batch.ids.to(model.device),
            batch.positions.to(model.device),
            waiting.take(batch.vision.sum(1).tolist()),
            cache=cache,
            **_attention(rows, batch.to(model.device), cache, scope),
        )
        cache.advance(batch.lengths)
        for b, row in enumerate(rows):
            if last[b] is None and int(cache.lengths[b]) == len(row.context):
                last[b] = hidden[b, len(parts[b]) - 1]
    return cache.rows(), torch.stack([state for state in last if state is not None])


def _attention(
    rows: Sequence[Row], batch: TokenBatch, cache: RaggedCache, scope: Scope | None
) -> dict[str, Any]:
    """The attention of a forward: a mask on a kept cache, a plan or nothing from the start."""
    known, device = cache.get_seq_length(), batch.ids.device
    if known == 0:
        if scope is None:
            return {}
        return {"decoupling": decoupled_rows(batch.role, batch.clip, batch.valid, scope=scope)}
    width = known + batch.ids.shape[1]
    index = cache.lengths[:, None] + torch.arange(batch.ids.shape[1])
    clip = clip_numbers([row.context for row in rows], width).to(device)
    return {"mask": mask_for(batch.role, index.to(device), clip, scope)}


def clip_numbers(contexts: Sequence[Context], width: int) -> Tensor:
    """The clip of each of the first `width` tokens, [B, width]; -1 for none and beyond the end."""
    table = np.full((len(contexts), width), -1)
    for line, context in zip(table, contexts, strict=True):
        numbers = context["clip"][:width]
        line[: len(numbers)] = numbers
    return torch.from_numpy(table)


def mask_for(role: Tensor, index: Tensor, clip: Tensor, scope: Scope | None) -> Tensor:
    """What queries [B, Q] may attend to on a ragged cache, bool [B, 1, Q, S].

    Args:
        role: Of the queries; without a scope it does not matter.
        index: Of the queries among the tokens of their rows.
        clip: Of the keys, [B, S].
        scope: As for `prefill`.
    """
    # Rows have no gaps, and what lies beyond a row's end is later than any of its queries.
    valid = torch.ones_like(clip, dtype=torch.bool)
    if scope is None:
        return query_mask(torch.zeros_like(role), index, clip, valid)
    return query_mask(role, index, clip, valid, scope=scope)


class _WaitingFeatures:
    """Features of the clips that are still to be read, handed out token by token."""

    def __init__(
        self,
        model: VisionLanguageModel,
        rows: Sequence[Row],
        clips: Sequence[Sequence[Clip]],
    ) -> None:
        wanted = [
            [clip.ref for clip in row.context.clips[len(row.context.clips) - len(new) :]]
            for row, new in zip(rows, clips, strict=True)
        ]
        frames: dict[ClipRef, Clip] = {}
        for refs, new in zip(wanted, clips, strict=True):
            frames.update(zip(refs, new, strict=True))
        encoded = dict(zip(frames, model.encode(list(frames.values())), strict=True))
        self._rows = [deque(encoded[ref] for ref in refs) for refs in wanted]
        for row, features in zip(rows, self._rows, strict=True):
            roles = row.context["role"][row.known.length :]
            placeholders = int((roles == TokenRole.VISION).sum())
            given = sum(len(clip.embeddings) for clip in features)
            if placeholders != given:
                raise ConfigError(
                    f"the context waits for {placeholders} visual tokens, the clips that came with "
                    f"it have {given}"
                )

    def take(self, counts: Sequence[int]) -> list[ClipFeatures]:
        """The next features of each row, in reading order."""
        parts: list[ClipFeatures] = []
        for waiting, count in zip(self._rows, counts, strict=True):
            missing = count
            while missing:
                clip = waiting.popleft()
                size = len(clip.embeddings)
                parts.append(_cut(clip, slice(0, missing)))
                if size > missing:
                    waiting.appendleft(_cut(clip, slice(missing, size)))
                missing -= min(size, missing)
        return parts


def _cut(clip: ClipFeatures, part: slice) -> ClipFeatures:
    return ClipFeatures(clip.embeddings[part], tuple(layer[part] for layer in clip.deepstack))
