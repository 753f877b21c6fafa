"""Task-decoupled attention: which token may attend to which, as one predicate.

A grounding looks at the overview, the answer at the crops. Beside causality and padding, blocked
are (a) ANSWER queries from clip 0, once a clip >= 1 stands at or before the query, and (b)
GROUNDING queries from every clip >= 1. Source: arXiv 2601.23224 (task-decoupled attention
masking) and its published code. `dense_mask` is the slow oracle; `decoupled_rows` is what the fast
path in `attention` reads; `query_mask` is for a kept key-value cache. `_kept_from` is the rule.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from agents.llm.roles import TokenRole
from videoseek_env.errors import ConfigError, check_one_of

Scope: TypeAlias = Literal["tags", "turn"]
"""What is masked: the content of grounding and answer tags, or the thinking and the tags as well.

"turn" masks a step like the content of its tag:

- THINK takes the role of the next GROUNDING or ANSWER after it. TEXT, such as a line break between
  tags, and TAG may stand between; VISION ends the search.
- TAG takes the role of the last GROUNDING or ANSWER before it in its run, and else does as THINK.
  A run is made of THINK, TAG, GROUNDING and ANSWER; TEXT and VISION end it.
- Padding is passed over as if it were not there, and whatever finds no role keeps its own.

So a reply without content (a malformed one) thinks for the next reply, when the observation
between them shows nothing.
"""

_NO_KIND, _OVERVIEW, _CROP = -2, 0, 1
"""Kinds of clips that a query may be kept from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecoupledRows:
    """The rows of the attention mask that differ from plain causal, computed once for all layers.

    B batch, L tokens, R blocked queries of the row that has the most (0 where nothing is blocked).
    """

    index: Tensor
    """int64 [B, R]: tokens whose queries are really kept from a key; 0 where a row has fewer."""
    slots: Tensor
    """int64 [N]: places of the real entries in `index.flatten()`."""
    mask: Tensor
    """bool [B, 1, R, L]: what those queries may attend to."""
    padding: Tensor | None
    """bool [B, L]: tokens that are no tokens, whose output is zero. None if all are valid."""
    order: Tensor | None
    """int64 [B, L]: puts the valid tokens first; `index` and `mask` count in this order.

    None if they stand first already, as with right padding.
    """

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> DecoupledRows:
        """The same on another device, as each layer of a model on several devices asks for it."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            tensor = getattr(self, field.name)
            moved[field.name] = (
                None if tensor is None else tensor.to(device, non_blocking=non_blocking)
            )
        return DecoupledRows(**moved)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDecoupling:
    """How often to train with task-decoupled attention, and on what.

    Raises:
        ConfigError: If a value is out of range.
    """

    scope: Scope = "tags"
    """"tags" masks the content of grounding and answer; "turn" the thinking and the tags too."""
    probability: float = 0.1
    """Share of batches that it is applied to, in [0, 1]; the others see plain causal attention."""

    def __post_init__(self) -> None:
        _check_scope(self.scope)
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"probability must lie in [0, 1], got {self.probability}")

    def draw(
        self,
        role: Tensor,
        clip: Tensor,
        valid: Tensor,
        *,
        generator: np.random.Generator | torch.Generator,
    ) -> DecoupledRows | None:
        """Decide for one batch, with one number from the generator whatever the probability.

        Args:
            role: As for `dense_mask`, like `clip` and `valid`.
            clip: Signed integer [B, L].
            valid: bool [B, L].
            generator: Where the number comes from.

        Returns:
            The plan, or None for plain causal attention: padding is then the caller's to mask.
        """
        scope = self.draw_scope(generator)
        return None if scope is None else decoupled_rows(role, clip, valid, scope=scope)

    def draw_scope(self, generator: np.random.Generator | torch.Generator) -> Scope | None:
        """The same decision without a plan: the scope, or None for plain causal attention."""
        if isinstance(generator, np.random.Generator):
            number = generator.random()
        else:
            device = generator.device
            number = torch.rand((), generator=generator, device=device).item()
        return self.scope if number < self.probability else None


def dense_mask(role: Tensor, clip: Tensor, valid: Tensor, *, scope: Scope = "tags") -> Tensor:
    """The whole mask: quadratic in memory, for tests and for small contexts.

    Padding neither attends nor is attended to: its rows are all False, for which
    `scaled_dot_product_attention` gives zeros. Do not hand a boolean mask to transformers' "eager"
    attention, which ADDS it as 0 and 1 and is silently wrong.

    Args:
        role: Signed integer [B, L], values of `TokenRole`.
        clip: Signed integer [B, L]; -1, or the number of the clip whose span the token is in.
        valid: bool [B, L]; False on padding, wherever it stands.
        scope: "tags" or "turn", see `Scope`.

    Returns:
        bool [B, 1, L, L]; True where the query (dim 2) may attend to the key (dim 3).

    Raises:
        ConfigError: If a shape, type or value is none of these.
    """
    _check_tokens(role, clip, valid)
    queries = _token_index(role).expand_as(role)
    return _may_attend(role_in_scope(role, valid, scope), queries, clip, valid)


def query_mask(
    query_role: Tensor,
    query_index: Tensor,
    key_clip: Tensor,
    key_valid: Tensor,
    *,
    scope: Scope = "tags",
) -> Tensor:
    """Rows of `dense_mask` for queries on a kept key-value cache: linear in its length.

    Args:
        query_role: Integer [B, Q], values of `TokenRole`.
        query_index: int64 [B, Q] in [0, S); where the query's own key stands among the keys. An
            index into the cache, not a rotary position.
        key_clip: Integer [B, S], as in `dense_mask`.
        key_valid: bool [B, S]; False on padding, on holes, and on slots not yet written.
        scope: "tags" only.

    Returns:
        bool [B, 1, Q, S]; all False for a query whose own key is not valid.

    Raises:
        ConfigError: If a shape, type or value is none of these, or for scope "turn": what a token
            thinks for is known only once the turn is written, so "turn" is for training.
    """
    _check_scope(scope)
    if scope != "tags":
        raise ConfigError(
            f"scope {scope!r} can't mask a turn that is still being written, because the role of "
            f"its thinking is not known yet: generate with scope 'tags'; 'turn' is for training"
        )
    _check_integers(role=query_role, index=query_index)
    _check_integers(clip=key_clip)
    _check_valid(key_valid, key_clip)
    keys = key_clip.shape[1]
    if query_index.dtype != torch.int64 or len(query_role) != len(key_clip):
        raise ConfigError(
            f"expected query_index of int64 and as many rows of queries as of keys, got "
            f"{query_index.dtype} and {len(query_role)} rows for {len(key_clip)}"
        )
    if bool(((query_index < 0) | (query_index >= keys)).any()):
        raise ConfigError(
            f"query_index must lie in [0, {keys}), the number of keys; got {query_index.min()} to "
            f"{query_index.max()}. Append the queries' own keys to key_clip and key_valid first"
        )
    return _may_attend(query_role, query_index, key_clip, key_valid)


def decoupled_rows(
    role: Tensor, clip: Tensor, valid: Tensor, *, scope: Scope = "tags"
) -> DecoupledRows:
    """Plan the fast path for a batch: linear in L, once for all layers.

    Takes what `dense_mask` takes, and refuses what it refuses.

    Raises:
        ConfigError: If a shape, type or value is wrong.
    """
    _check_tokens(role, clip, valid)
    role = role_in_scope(role, valid, scope)
    padding, order = None, None
    if not bool(valid.all()):
        padding = ~valid
        if bool((padding[:, :-1] & valid[:, 1:]).any()):
            order = padding.to(torch.uint8).argsort(dim=1, stable=True)
            role, clip, valid = (tokens.gather(1, order) for tokens in (role, clip, valid))
    batch, token = _really_blocked(role, clip, valid).nonzero(as_tuple=True)
    counts = torch.bincount(batch, minlength=len(role))
    width = int(counts.max())
    place = torch.arange(len(batch), device=batch.device) - (counts.cumsum(0) - counts)[batch]
    slots = batch * width + place
    index = token.new_zeros(len(role) * width).index_copy(0, slots, token).view(len(role), width)
    mask = _may_attend(role.gather(1, index), index, clip, valid)
    return DecoupledRows(index=index, slots=slots, mask=mask, padding=padding, order=order)


def _kept_from(role: Tensor, saw_crop: Tensor) -> Tensor:
    """The rule itself: the kind of clip that a query may not attend to, `_NO_KIND` for none.

    Args:
        role: Integer; what the query is.
        saw_crop: bool; whether a crop stands at or before it.
    """
    answer = torch.where((role == TokenRole.ANSWER) & saw_crop, _OVERVIEW, _NO_KIND)
    return torch.where(role == TokenRole.GROUNDING, _CROP, answer)


def _kind(clip: Tensor) -> Tensor:
    """-1 outside clips, `_OVERVIEW`, or `_CROP`."""
    return clip.clamp(-1, _CROP)


def _may_attend(role: Tensor, index: Tensor, clip: Tensor, valid: Tensor) -> Tensor:
    """The mask's rows [B, 1, Q, S], for queries [B, Q] at an index among keys [B, S]."""
    kind = _kind(clip)
    saw_crop = _first(valid & (kind == _CROP)) <= index
    # Padding is put out of sight, so that two comparisons [Q, S] do: they are nearly all the cost.
    key_at = torch.where(valid, _token_index(clip), clip.shape[1])
    seen_until = torch.where(valid.gather(1, index), index, -1)
    allowed = key_at[:, None, :] <= seen_until[:, :, None]
    allowed &= kind[:, None, :] != _kept_from(role, saw_crop)[:, :, None]
    return allowed[:, None]


def _really_blocked(role: Tensor, clip: Tensor, valid: Tensor) -> Tensor:
    """Queries that causality would let see a key that they are kept from, bool [B, L]."""
    index, kind = _token_index(role), _kind(clip)
    saw_overview = _first(valid & (kind == _OVERVIEW)) <= index
    saw_crop = _first(valid & (kind == _CROP)) <= index
    kept_from = _kept_from(role, saw_crop)
    return valid & ((saw_overview & (kept_from == _OVERVIEW)) | (saw_crop & (kept_from == _CROP)))


def role_in_scope(role: Tensor, valid: Tensor, scope: Scope) -> Tensor:
    """The role that each token is masked as, integer [B, L]; `Scope` defines it.

    Args:
        role: As for `dense_mask`, like `valid`.
        valid: bool [B, L].
        scope: "tags" or "turn".

    Raises:
        ConfigError: If the scope is none of these.
    """
    _check_scope(scope)
    if scope == "tags":
        return role
    ends_search = valid & (_is_content(role) | (role == TokenRole.VISION))
    ends_run = ends_search | (valid & (role == TokenRole.TEXT))
    # One place more, after the last token or before the first, stands for finding nothing.
    later = torch.where(ends_search, _token_index(role), role.shape[1])
    at_next = later.flip(1).cummin(1).values.flip(1)
    at_last = torch.where(ends_run, _token_index(role) + 1, 0).cummax(1).values
    next_role = functional.pad(role, (0, 1), value=TokenRole.TEXT).gather(1, at_next)
    last_role = functional.pad(role, (1, 0), value=TokenRole.TEXT).gather(1, at_last)
    thinking, tag = role == TokenRole.THINK, role == TokenRole.TAG
    masked_as = torch.where((thinking | tag) & _is_content(next_role), next_role, role)
    return torch.where(tag & _is_content(last_role), last_role, masked_as)


def _is_content(role: Tensor) -> Tensor:
    return (role == TokenRole.GROUNDING) | (role == TokenRole.ANSWER)


def _token_index(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1], device=tokens.device)


def _first(claims: Tensor) -> Tensor:
    """int64 [B, 1]: the index of the first True of each row, and L if there is none."""
    indices = torch.where(claims, _token_index(claims), claims.shape[1])
    return indices.amin(dim=1, keepdim=True)


def _check_scope(scope: str) -> None:
    check_one_of(Scope, scope=scope)


def _check_tokens(role: Tensor, clip: Tensor, valid: Tensor) -> None:
    _check_integers(role=role, clip=clip)
    _check_valid(valid, role)
    impossible = (role < min(TokenRole)) | (role > max(TokenRole)) | (clip < -1)
    if bool((valid & impossible).any()):
        raise ConfigError(
            f"role must be values of TokenRole, {min(TokenRole)} to {max(TokenRole)}, and clip -1 "
            f"or a clip's number; got role {role.min()} to {role.max()}, clip from {clip.min()}"
        )


def _check_integers(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    shape, *others = set(shapes.values())
    if others or len(shape) != 2 or 0 in shape:
        raise ConfigError(f"expected tensors of one shape [B, L], neither of them 0, got {shapes}")
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64):
            raise ConfigError(f"{name} must be of a signed integer type, got {tensor.dtype}")


def _check_valid(valid: Tensor, tokens: Tensor) -> None:
    if valid.dtype != torch.bool or valid.shape != tokens.shape:
        raise ConfigError(
            f"valid must be bool {tuple(tokens.shape)}, like the tokens that it is for, got "
            f"{valid.dtype} {tuple(valid.shape)}. Of a 0/1 attention mask, take mask.bool()"
        )
