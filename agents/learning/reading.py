"""One forward over many samples: every clip is encoded once, and every shared prompt read once.

The rollouts of a question begin with the same system prompt, overview and question. `read` reads
that prompt once and lets each response attend to it, through keys and values that gradients
flow back into: the states are those of separate forwards, and so are the sums of gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import DynamicCache

from agents.learning.sample import Sample
from agents.llm.batch import TokenBatch
from agents.llm.decoupling import Scope, decoupled_rows, query_mask, role_in_scope
from agents.llm.model import VisionLanguageModel
from agents.llm.vision_tower import ClipFeatures
from videoseek_env.video.clip import Clip, ClipRef


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Hidden states of samples, from the last prompt token on."""

    batch: TokenBatch
    """The tokens from there, right-padded, [B, C]; the first one is not trained."""
    hidden: Tensor
    """The states after each, [B, C, width]."""
    offsets: tuple[int, ...]
    """Where in its sample each row begins."""

    def cut(self, per_token: Sequence[Tensor]) -> Tensor:
        """Arrange one number per token of each sample, [L] each, like the batch, [B, C]."""
        rows = self.batch.ids.new_zeros(self.batch.ids.shape, dtype=torch.float32)
        for row, values, offset in zip(rows, per_token, self.offsets, strict=True):
            row[: len(values) - offset] = values[offset:]
        return rows


def read(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    *,
    scope: Scope | None = None,
    share_prompts: bool = True,
) -> Reading:
    """Read samples, with gradients if they are enabled.

    Args:
        model: Reads.
        samples: At least one.
        scope: Attend as task-decoupled masking has it; None is causal.
        share_prompts: Read prompts that several samples begin with once, if the model can go on
            from a cache.
    """
    features = encode_once(model, samples)
    keys = [sample.prompt_key for sample in samples]
    if share_prompts and model.keeps_cache and len(set(keys)) < len(samples):
        return _read_shared(model, samples, keys, features, scope)
    return _read_apart(model, samples, features, scope)


def encode_once(model: VisionLanguageModel, samples: Sequence[Sample]) -> list[list[ClipFeatures]]:
    """The features of each sample's clips; a clip that several have seen is encoded once."""
    frames: dict[ClipRef, Clip] = {}
    for sample in samples:
        frames.update(zip(sample.refs, sample.clips, strict=True))
    if not frames:
        return [[] for _ in samples]
    encoded = dict(zip(frames, model.encode(list(frames.values())), strict=True))
    return [[encoded[ref] for ref in sample.refs] for sample in samples]


def _read_apart(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    features: Sequence[Sequence[ClipFeatures]],
    scope: Scope | None,
) -> Reading:
    batch = _stack(model, [sample.tokens for sample in samples])
    plan = (
        None if scope is None else decoupled_rows(batch.role, batch.clip, batch.valid, scope=scope)
    )
    flat = [clip for clips in features for clip in clips]
    hidden = model.hidden(batch.ids, batch.positions, flat, decoupling=plan)
    return Reading(batch, hidden, (0,) * len(samples))


def _read_shared(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    keys: Sequence[object],
    features: Sequence[Sequence[ClipFeatures]],
    scope: Scope | None,
) -> Reading:
    leaders = {key: index for index, key in reversed(list(enumerate(keys)))}
    places = {key: place for place, key in enumerate(leaders)}
    prompts = [samples[index] for index in leaders.values()]
    shared = _stack(model, [sample.tokens[: sample.prompt_tokens] for sample in prompts])
    seen = [_clips_of_prompt(sample) for sample in samples]
    cache = DynamicCache(config=model.base.config.text_config)
    # Nothing in a prompt is decoupled: it holds no reply.
    states = model.hidden(
        shared.ids,
        shared.positions,
        [clip for index in leaders.values() for clip in features[index][: seen[index]]],
        cache=cache,
    )
    owner = torch.tensor([places[key] for key in keys], device=states.device)
    cache.batch_select_indices(owner)
    responses = _stack(model, [sample.tokens[sample.prompt_tokens :] for sample in samples])
    hidden = model.hidden(
        responses.ids,
        responses.positions,
        [clip for clips, skip in zip(features, seen, strict=True) for clip in clips[skip:]],
        mask=_response_mask(shared, responses, owner, scope),
        cache=cache,
    )
    last = states[torch.arange(len(prompts), device=states.device), shared.lengths - 1][owner]
    offsets = tuple(sample.prompt_tokens - 1 for sample in samples)
    tail = _stack(model, [sample.tokens[at:] for sample, at in zip(samples, offsets, strict=True)])
    return Reading(tail, torch.cat([last[:, None], hidden], 1), offsets)


def _clips_of_prompt(sample: Sample) -> int:
    return int(sample.tokens["clip"][: sample.prompt_tokens].max()) + 1


def _response_mask(
    shared: TokenBatch, responses: TokenBatch, owner: Tensor, scope: Scope | None
) -> Tensor:
    """What response tokens may attend to: their prompt and themselves, bool [B, 1, R, P + R]."""
    prompt = shared.ids.shape[1]
    clip = torch.cat([shared.clip[owner], responses.clip], 1)
    valid = torch.cat([shared.valid[owner], responses.valid], 1)
    index = prompt + torch.arange(responses.ids.shape[1], device=clip.device)
    index = index.expand(responses.ids.shape)
    if scope is None:
        return query_mask(torch.zeros_like(responses.role), index, clip, valid)
    role = role_in_scope(responses.role, responses.valid, scope)
    return query_mask(role, index, clip, valid)


def _stack(model: VisionLanguageModel, tokens: Sequence[npt.NDArray[np.void]]) -> TokenBatch:
    return TokenBatch.stack(tokens, pad_id=model.vocabulary.end_of_turn).to(model.device)
