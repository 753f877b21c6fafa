"""Seeing, before reading: the vision tower learns to turn a pair of frames into its words.

The language model has learned what a visual token would have to be like for it to read, the sum of
the embeddings of the words that describe it. So the tower can learn by itself, from single pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.learning.from_nothing.episodes import ideal_features
from agents.learning.from_nothing.examples import Example
from agents.llm.model import VisionLanguageModel
from agents.llm.vision import patchify
from agents.llm.vision_tower import encode_clips

MAX_SHIFT_PX = 3
"""Frames are moved by up to so many pixels: every pair is a hundred pairs."""


class Pairs:
    """Single pairs of frames, every description as likely as any other of its length."""

    def __init__(
        self, model: VisionLanguageModel, examples: Sequence[Example], *, pairs: int, seed: int
    ) -> None:
        """Collect the pairs.

        Args:
            model: Its tower learns.
            examples: With frames.
            pairs: Of a batch.
            seed: Of the draws.
        """
        self._model, self._pairs = model, pairs
        self._rng = np.random.default_rng([seed, 3])
        self._frames, self._words = _distinct_pairs(examples)
        _, kind, counts = np.unique(self._words, axis=0, return_inverse=True, return_counts=True)
        weights = 1 / counts[kind]
        self._chances = weights / weights.sum()

    def loss(self, _step: int) -> tuple[Tensor, Mapping[str, float]]:
        """The mean squared distance from the words' embeddings, in shares of their variance."""
        drawn = self._rng.choice(len(self._frames), self._pairs, p=self._chances)
        frames = self._shifted(self._frames[drawn])
        features = encode_clips(self._model.network, [patchify(frames, self._model.spec)])[0]
        words = torch.from_numpy(self._words[drawn])
        with torch.no_grad():
            wanted = ideal_features(self._model, words)
            spread = wanted.var(0).sum()
        distance = (features.embeddings - wanted).square().sum(-1).mean() / spread
        deeper = [layer.square().sum(-1).mean() for layer in features.deepstack]
        rest = torch.stack([torch.zeros(()), *deeper]).sum() / spread
        figures = {"distance": distance.item(), "rest": rest.item()}
        return distance + rest, figures | self._accuracies(features.embeddings.detach(), words)

    def _shifted(self, pairs: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Frames of pairs [P, 2, H, W, 3], each pair moved by its own step: [2 * P, H, W, 3]."""
        most = MAX_SHIFT_PX
        height, width = pairs.shape[2:4]
        room = ((0, 0), (0, 0), (most, most), (most, most), (0, 0))
        wide = np.pad(pairs, room, mode="edge")
        moved = np.empty_like(pairs)
        steps = self._rng.integers(0, 2 * most + 1, (len(pairs), 2)).tolist()
        for number, (down, across) in enumerate(steps):
            moved[number] = wide[number, :, down : down + height, across : across + width]
        return moved.reshape(-1, height, width, 3)

    def _accuracies(self, features: Tensor, words: Tensor) -> dict[str, float]:
        """How often the nearest of the descriptions is the right one."""
        kinds, place = torch.unique(words, dim=0, return_inverse=True)
        nearest = torch.cdist(features, ideal_features(self._model, kinds).detach()).argmin(1)
        right = (nearest == place).float()
        return {"right": right.mean().item()}


def _distinct_pairs(
    examples: Sequence[Example],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The pairs of all clips, [P, 2, H, W, 3], and their words; a shared clip counts once."""
    frames: dict[int, npt.NDArray[np.uint8]] = {}
    words: dict[int, npt.NDArray[np.int64]] = {}
    for example in examples:
        start = 0
        for clip in example.frames:
            end = start + len(clip) // 2
            frames[id(clip)], words[id(clip)] = clip, example.words[start:end]
            start = end
    pairs = np.concatenate([clip.reshape(-1, 2, *clip.shape[1:]) for clip in frames.values()])
    return pairs, np.concatenate(list(words.values()))
