"""Demonstrations as a loss: with imagined sight, where words stand for pixels, or with real."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from agents.learning.from_nothing.batches import batches
from agents.learning.from_nothing.examples import Example
from agents.learning.from_nothing.measures import TokenClasses
from agents.llm.batch import TokenBatch
from agents.llm.decoupling import TaskDecoupling
from agents.llm.model import VisionLanguageModel
from agents.llm.vision import patchify
from agents.llm.vision_tower import ClipFeatures, encode_clips

Sight = Callable[[VisionLanguageModel, Sequence[Example]], ClipFeatures]
"""What the visual tokens of a batch are, in reading order."""


def imagined_sight(model: VisionLanguageModel, examples: Sequence[Example]) -> ClipFeatures:
    """Each visual token is the sum of the embeddings of the words that describe it."""
    words = torch.from_numpy(np.concatenate([example.words for example in examples]))
    embeddings = ideal_features(model, words)
    depth = len(model.base.config.vision_config.deepstack_visual_indexes)
    return ClipFeatures(embeddings, (torch.zeros_like(embeddings),) * depth)


def ideal_features(model: VisionLanguageModel, words: Tensor) -> Tensor:
    """Sums of the embeddings of words, [V, D].

    Args:
        model: Whose embeddings.
        words: Ids, int64 [V, W]; -1 is none.
    """
    table = model.base.get_input_embeddings().weight
    vectors = functional.embedding(words.clamp(min=0), table)
    return (vectors * (words >= 0)[..., None]).sum(1)


def real_sight(model: VisionLanguageModel, examples: Sequence[Example]) -> ClipFeatures:
    """What the vision tower makes of the frames."""
    clips = [clip for example in examples for clip in example.frames]
    # The tower reads pairs, whoever they are of; a clip of an odd length ends with a frame twice.
    frames = np.concatenate([part for clip in clips for part in (clip, clip[-1:][: len(clip) % 2])])
    return encode_clips(model.network, [patchify(frames, model.spec)])[0]


class Demonstrations:
    """Batches of demonstrations."""

    def __init__(
        self,
        model: VisionLanguageModel,
        examples: Sequence[Example],
        *,
        sight: Sight,
        tokens: int,
        seed: int,
        decoupling: TaskDecoupling | None = None,
    ) -> None:
        """Prepare.

        Args:
            model: Learns.
            examples: What from.
            sight: How it sees.
            tokens: Of a batch, padding included.
            seed: Of the order.
            decoupling: How often to attend as task-decoupled masking has it; by default never.
        """
        self._model, self._sight = model, sight
        self._decoupling = decoupling or TaskDecoupling(probability=0.0)
        self._rng = np.random.default_rng([seed, 5])
        self._batches = batches(examples, tokens=tokens, rng=np.random.default_rng([seed, 2]))
        self._classes = TokenClasses(model.vocabulary)

    def loss(self, _step: int) -> tuple[Tensor, Mapping[str, float]]:
        """The mean cross-entropy of what the demonstrator wrote."""
        examples = next(self._batches)
        batch = TokenBatch.stack(
            [example.tokens for example in examples], pad_id=self._model.vocabulary.end_of_turn
        )
        features = self._sight(self._model, examples)
        plan = self._decoupling.draw(batch.role, batch.clip, batch.valid, generator=self._rng)
        hidden = self._model.hidden(batch.ids, batch.positions, [features], decoupling=plan)
        trained = batch.trained[:, 1:]
        logits = self._model.logits(hidden[:, :-1][trained])
        wanted = batch.ids[:, 1:][trained]
        loss = functional.cross_entropy(logits, wanted)
        figures = {"loss": loss.item(), "tokens": float(batch.ids.numel())}
        figures |= self._classes.accuracies(logits, wanted, batch.role[:, 1:][trained])
        return loss, figures
