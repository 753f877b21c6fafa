from __future__ import annotations

import torch

from agents.learning.from_nothing.measures import TokenClasses
from agents.llm.roles import TokenRole
from tests.agents.learning.from_nothing.small import small_model


def test_each_class_counts_its_own_tokens() -> None:
    vocabulary = small_model().vocabulary
    texts = ["5", "7", "30", "B", "red", " card", " yes", " no", " two", "12", "B"]
    wanted = torch.tensor([vocabulary.encode(text)[0] for text in texts])
    role = torch.full((11,), TokenRole.THINK)
    role[9], role[10] = TokenRole.GROUNDING, TokenRole.ANSWER
    predicted = wanted.clone()
    predicted[1] = wanted[0]  # one of two digits is wrong
    predicted[9] = wanted[2]  # the only number of a segment is wrong
    logits = torch.nn.functional.one_hot(predicted, vocabulary.size).float()
    assert TokenClasses(vocabulary).accuracies(logits, wanted, role) == {
        "digit": 0.5, "time": 1.0, "letter": 1.0, "colour": 1.0, "kind": 1.0, "yes": 1.0,
        "no": 1.0, "count": 1.0,
        "segment": 0.0, "answer": 1.0,
    }  # fmt: skip
