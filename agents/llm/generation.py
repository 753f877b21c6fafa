"""Writing: replies for a batch of episodes, on keys and values that are kept over turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from agents.llm.cache import KeyValues, RaggedCache
from agents.llm.decoupling import Scope
from agents.llm.model import VisionLanguageModel
from agents.llm.prefill import Row, clip_numbers, mask_for, prefill
from agents.llm.roles import RoleScanner, TokenRole
from agents.llm.vocabulary import TextStream, Vocabulary
from videoseek_env.budget import get_budget
from videoseek_env.errors import ConfigError, check_counts
from videoseek_env.session import SessionConfig
from videoseek_env.video.clip import Clip

REPLY_ROOM = 64
"""Tokens that a cache has room for before it grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn.

    Raises:
        ConfigError: If a number is out of its range.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together reach this probability, in (0, 1]."""
    max_tokens: int = 1024
    """A reply is cut after so many tokens."""

    def __post_init__(self) -> None:
        check_counts(self, "max_tokens")
        if not (self.temperature >= 0 and 0 < self.top_p <= 1):
            raise ConfigError(
                f"expected temperature >= 0 and top_p in (0, 1], got {self.temperature} and "
                f"{self.top_p}"
            )

    @classmethod
    def within(cls, rules: SessionConfig, *, temperature: float = 1.0, top_p: float = 1.0) -> Self:
        """Replies of one token more than rules admit, so that a session sees which are too long."""
        longest = get_budget(rules.budget).max_reply_tokens + 1
        return cls(temperature=temperature, top_p=top_p, max_tokens=longest)


def generate(
    model: VisionLanguageModel,
    rows: Sequence[Row],
    clips: Sequence[Sequence[Clip]],
    sampling: Sampling,
    *,
    scope: Scope | None = None,
) -> list[str]:
    """Write one reply in each row; contexts and what is known of them grow.

    A reply ends with `</grounding>`, `</answer>`, the model's own end of turn, or `max_tokens`.

    Args:
        model: Reads and writes.
        rows: Contexts that end where a reply begins.
        clips: The frames of each row's clips that the model has not read yet.
        sampling: How tokens are drawn.
        scope: Tokens inside tags attend as task-decoupled masking has it; None is causal.

    Returns:
        The texts.

    Raises:
        ConfigError: As `prefill` does, and if a context has no room for a reply in the model.
    """
    for row in rows:
        if len(row.context) + sampling.max_tokens > model.max_tokens:
            raise ConfigError(
                f"a context of {len(row.context)} tokens and a reply of {sampling.max_tokens} pass "
                f"the model's {model.max_tokens} positions; use a smaller budget"
            )
    hidden = prefill(model, rows, clips, scope=scope)
    drafts = _write(model, rows, hidden, sampling, scope)
    return [
        model.builder.reply(row.context, draft.ids, draft.logprobs)
        for row, draft in zip(rows, drafts, strict=True)
    ]


class _Draft:
    """A reply while it is written."""

    def __init__(self, vocabulary: Vocabulary, max_tokens: int) -> None:
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.role = TokenRole.TEXT
        self.is_over = False
        self._stops, self._max_tokens = vocabulary.stops, max_tokens
        self._stream, self._scanner = TextStream(vocabulary), RoleScanner()

    def push(self, index: int, logprob: float) -> None:
        """Add a token."""
        self.ids.append(index)
        self.logprobs.append(logprob)
        self.role = self._scanner.read(self._stream.push(index))
        self.is_over = (
            self._scanner.has_action or index in self._stops or len(self.ids) >= self._max_tokens
        )


@torch.inference_mode()
def _write(
    model: VisionLanguageModel,
    rows: Sequence[Row],
    hidden: Tensor,
    sampling: Sampling,
    scope: Scope | None,
) -> list[_Draft]:
    """Sample token by token until every reply is over."""
    drafts = [_Draft(model.vocabulary, sampling.max_tokens) for _ in rows]
    batch: _Batch | None = _Batch(rows, range(len(rows)))
    while batch is not None:
        logits = model.logits(hidden)
        running = [drafts[i] for i in batch.places]
        uniforms = [
            0.0 if draft.is_over else rows[i].rng.random()
            for i, draft in zip(batch.places, running, strict=True)
        ]
        chosen, logprobs = choose(logits, uniforms, sampling)
        for draft, index, logprob in zip(running, chosen, logprobs, strict=True):
            if not draft.is_over:
                draft.push(index, logprob)
        batch = batch.settled(rows, drafts)
        if batch is not None:
            hidden = batch.read(model, rows, drafts, scope)
    return drafts


class _Batch:
    """The rows whose replies are being written. Rows that are over leave when half of them are."""

    def __init__(self, rows: Sequence[Row], places: Sequence[int]) -> None:
        self.places = list(places)
        """Which of the episodes the rows of the cache are."""
        self.cache = RaggedCache([rows[i].known for i in places], room=REPLY_ROOM)
        self._clip = clip_numbers([rows[i].context for i in places], self.cache.capacity)
        for i in places:  # it is in the cache now
            rows[i].known = KeyValues.empty()

    def settled(self, rows: Sequence[Row], drafts: Sequence[_Draft]) -> _Batch | None:
        """The batch to go on with: this one, or a smaller one once half of it is over, or None.

        What is known of rows that leave is noted in them.
        """
        running = [i for i in self.places if not drafts[i].is_over]
        if running and 2 * len(running) > len(self.places):
            return self
        for i, known in zip(self.places, self.cache.take_rows(), strict=True):
            rows[i].known = known
        return _Batch(rows, running) if running else None

    def read(
        self,
        model: VisionLanguageModel,
        rows: Sequence[Row],
        drafts: Sequence[_Draft],
        scope: Scope | None,
    ) -> Tensor:
        """Feed the newest token of each row; the hidden states, [B, width]."""
        running = [drafts[i] for i in self.places]
        ids = torch.tensor([[draft.ids[-1]] for draft in running])
        steps = [rows[i].context.next_position + len(drafts[i].ids) - 1 for i in self.places]
        hidden = model.hidden(
            ids.to(model.device),
            torch.tensor(steps)[None, :, None].expand(3, -1, -1).to(model.device),
            mask=self._mask(running, scope).to(model.device),
            cache=self.cache,
        )
        self.cache.advance(torch.tensor([not draft.is_over for draft in running]).long())
        return hidden[:, 0]

    def _mask(self, running: Sequence[_Draft], scope: Scope | None) -> Tensor:
        width = self.cache.get_seq_length() + 1
        if width > self._clip.shape[1]:
            self._clip = functional.pad(self._clip, (0, width), value=-1)
        role = torch.tensor([[draft.role] for draft in running])
        return mask_for(role, self.cache.lengths[:, None], self._clip[:, :width], scope)


def choose(
    logits: Tensor, uniforms: Sequence[float], sampling: Sampling
) -> tuple[list[int], list[float]]:
    """Draw one token per row by inverting its cumulative distribution.

    Args:
        logits: -inf where a token is not allowed, float32 [B, V].
        uniforms: One number in [0, 1) per row; unused at temperature 0.
        sampling: Temperature and top-p.

    Returns:
        The ids, and their log-probabilities under the softmax of the logits over the temperature
        (over 1 at temperature 0), before top-p.

    Raises:
        FloatingPointError: If a logit is NaN or plus infinity.
    """
    if logits.device.type == "mps":  # which has no float64
        logits = logits.cpu()
    scaled = logits / (sampling.temperature or 1.0)
    logprobs = scaled.log_softmax(-1)
    if bool(logprobs[:, 0].isnan().any()):  # then all of the row's are
        raise FloatingPointError("the model's logits are not finite")
    if sampling.temperature == 0:
        ids = logits.argmax(-1)
    else:
        probabilities = logprobs.double().exp()
        if sampling.top_p < 1:
            probabilities = _nucleus(probabilities, sampling.top_p)
        cumulative = probabilities.cumsum(-1)
        wanted = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None]
        # Scaled by the sum, a draw never passes the last token that has a probability.
        ids = torch.searchsorted(cumulative, wanted * cumulative[:, -1:], right=True)[:, 0]
    return ids.tolist(), logprobs.gather(-1, ids[:, None])[:, 0].tolist()


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The probabilities with all but the likeliest tokens that together reach `top_p` zeroed."""
    ordered, order = probabilities.sort(descending=True, dim=-1)
    is_beyond = ordered.cumsum(-1) - ordered >= top_p
    return probabilities.masked_fill(is_beyond.scatter(-1, order, is_beyond), 0.0)
