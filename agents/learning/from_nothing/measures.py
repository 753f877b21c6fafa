"""How well each class of token is predicted: in a total the format's tokens hide what matters."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_uppercase

import torch
from torch import Tensor

from agents.llm.roles import TokenRole
from agents.llm.vocabulary import Vocabulary
from videoseek_env.datasets.needle_scene import COLOURS, SHAPES

_NUMBERS = 1000


class TokenClasses:
    """Classes of written tokens: by what they are, and where they stand."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Look up what the ids mean."""
        kinds = [f" {word}" for word in ("card", "banner", "none", *SHAPES)]
        self._ids = {
            "digit": _ids(vocabulary, map(str, range(10))),
            "time": _ids(vocabulary, map(str, range(10, _NUMBERS))),
            "letter": _ids(vocabulary, ascii_uppercase),
            "colour": _ids(vocabulary, COLOURS),
            "kind": _ids(vocabulary, kinds),
            "yes": _ids(vocabulary, [" yes"]),
            "no": _ids(vocabulary, [" no"]),
            "count": _ids(vocabulary, [" one", " two", " three", " four"]),
            "again": _ids(vocabulary, [" again"]),
        }

    def accuracies(self, logits: Tensor, wanted: Tensor, role: Tensor) -> dict[str, float]:
        """The share that is predicted right of each class that occurs.

        Args:
            logits: [n, V].
            wanted: Ids, [n].
            role: `TokenRole` of the tokens, [n].
        """
        right = logits.argmax(-1) == wanted
        thought = role == TokenRole.THINK
        masks = {name: thought & torch.isin(wanted, ids) for name, ids in self._ids.items()}
        numbers = torch.isin(wanted, torch.cat([self._ids["digit"], self._ids["time"]]))
        masks["segment"] = (role == TokenRole.GROUNDING) & numbers
        masks["answer"] = role == TokenRole.ANSWER
        return {
            name: float(right[mask].float().mean()) for name, mask in masks.items() if mask.any()
        }


def _ids(vocabulary: Vocabulary, texts: Iterable[str]) -> Tensor:
    return torch.tensor([vocabulary.encode(text)[0] for text in texts])
