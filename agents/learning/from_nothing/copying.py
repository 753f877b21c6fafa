"""The first stage: looking things up in short random sequences, which everything else builds on.

Half of the sequences repeat themselves: what followed a token's last occurrence comes again. The
others list options and ask for the letters of their values: what stood before a token's last
occurrence. Neither is learned from whole episodes, where few tokens ask for it from far away.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from agents.llm.model import VisionLanguageModel
from agents.llm.vocabulary import Vocabulary
from videoseek_env.datasets.needle_questions import OPTIONS
from videoseek_env.datasets.needle_scene import COLOURS, LETTERS
from videoseek_env.errors import ConfigError

PERIODS: Final = (2, 12)
"""Shortest and longest sequence that is repeated."""
MOST_OFFSET: Final = 250
"""Sequences begin at any position up to this: they are short, episodes are not."""
MOST_BEFORE: Final = 12
"""Random tokens before a list of options, at most."""

_Drawn = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""Ids [rows, length], and which of them can be looked up."""


class Copying:
    """Random sequences, half of each kind."""

    def __init__(
        self,
        model: VisionLanguageModel,
        ids: npt.NDArray[np.int64],
        *,
        rows: int,
        length: int,
        seed: int,
        part: int = 0,
    ) -> None:
        """Prepare.

        Args:
            model: Learns.
            ids: Tokens to draw from.
            rows: Sequences of each kind in a step.
            length: Tokens of each, at least 32: up to 12 random ones, 16 that list the options,
                and 4 for each query.
            seed: Of the draws.
            part: Other draws of the same seed.

        Raises:
            ConfigError: If a sequence is too short to ask for a letter.
        """
        least = MOST_BEFORE + 4 * OPTIONS + 4
        if length < least:
            raise ConfigError(f"length must be at least {least}, got {length}")
        self._model, self._ids = model, ids
        self._rows, self._length = rows, length
        self._rng = np.random.default_rng([seed, 1 + part])
        self._options = _OptionTokens(model.vocabulary)

    def loss(self, _step: int) -> tuple[Tensor, Mapping[str, float]]:
        """Of predicting each token that can be looked up."""
        repeated, is_copy = self.draw_repeated()
        listed, is_letter = self.draw_listed()
        ids = torch.from_numpy(np.concatenate([repeated, listed]))
        offset = int(self._rng.integers(MOST_OFFSET + 1))
        positions = (offset + torch.arange(self._length)).expand(3, len(ids), -1)
        hidden = self._model.hidden(ids, positions)
        asked = torch.from_numpy(np.concatenate([is_copy, is_letter]))[:, 1:]
        logits = self._model.base.lm_head(hidden[:, :-1][asked]).float()
        wanted = ids[:, 1:][asked]
        loss = functional.cross_entropy(logits, wanted)
        right = (logits.argmax(-1) == wanted).float()
        copies = int(is_copy.sum())
        figures = {"copy": right[:copies].mean().item(), "look_up": right[copies:].mean().item()}
        return loss, {"loss": loss.item()} | figures

    def draw_repeated(self) -> _Drawn:
        """Sequences of random tokens with a period of their own each."""
        fresh = self._rng.choice(self._ids, (self._rows, self._length))
        periods = self._rng.integers(PERIODS[0], PERIODS[1] + 1, (self._rows, 1))
        places = np.arange(self._length)[None]
        return np.take_along_axis(fresh, places % periods, axis=1), places >= periods

    def draw_listed(self) -> _Drawn:
        """Options, and then values and their letters, as a last thought writes them.

        ". A 7, B 5, C 2, D 9", and then ". 5 B", ". 9 D" and so on. Random tokens come first, so
        that the place in the sequence tells nothing.
        """
        rows, tokens = self._rows, self._options
        before = self._rng.choice(self._ids, (rows, self._rng.integers(MOST_BEFORE + 1)))
        drawn = self._rng.random((rows, len(tokens.values))).argsort(1)[:, :OPTIONS]
        values = tokens.values[drawn]
        asked = self._rng.integers(0, OPTIONS, (rows, -(-self._length // 4)))
        found = np.take_along_axis(values, asked, axis=1)
        options = _in_turn(tokens.before, tokens.letters, tokens.space, values)
        queries = _in_turn(tokens.before[:1], found, tokens.space, tokens.letters[asked])
        sequence = np.concatenate([before, options, queries], axis=1)[:, : self._length]
        places = np.arange(self._length) - before.shape[1]
        is_letter = (places % 4 == 3) & (places >= options.shape[1])
        return sequence, np.broadcast_to(is_letter, sequence.shape)


class _OptionTokens:
    """Ids that lists of options are made of."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        def id_of(text: str) -> int:
            return vocabulary.encode(text)[0]

        texts = [*map(str, range(100)), *LETTERS, *COLOURS]
        self.values = np.array([id_of(text) for text in texts])
        self.letters = np.array([id_of(letter) for letter in ascii_uppercase[:OPTIONS]])
        # One token only where a value follows.
        self.before = np.array([id_of(". 7"), *[id_of(", 7")] * (OPTIONS - 1)])
        self.space = np.array([id_of(" ")])


def _in_turn(*columns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Columns that broadcast to [rows, n], one token of each in turn: [rows, n * columns]."""
    table = np.stack(np.broadcast_arrays(*columns), axis=-1)
    return table.reshape(len(table), -1)
