from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.learning.from_nothing.episodes import (
    Demonstrations,
    ideal_features,
    imagined_sight,
    real_sight,
)
from agents.learning.from_nothing.examples import Example
from agents.learning.from_nothing.optimise import optimise
from agents.llm.batch import TokenBatch
from agents.llm.decoupling import Scope, TaskDecoupling, decoupled_rows
from agents.llm.likelihood import log_probabilities
from tests.agents.learning.from_nothing.small import imagined_examples, small_model


def test_ideal_features_are_sums_of_the_words_that_are_there() -> None:
    model = small_model()
    table = model.network.get_input_embeddings().weight
    features = ideal_features(model, torch.tensor([[5, 7, 9], [5, -1, -1]]))
    torch.testing.assert_close(features, torch.stack([table[5] + table[7] + table[9], table[5]]))


def test_the_loss_is_what_training_elsewhere_computes() -> None:
    model = small_model()
    examples = imagined_examples()[:1]
    stage = Demonstrations(model, examples, sight=imagined_sight, tokens=1, seed=0)
    loss, figures = stage.loss(0)
    batch = TokenBatch.stack([examples[0].tokens], pad_id=model.vocabulary.end_of_turn)
    scores = log_probabilities(model, batch, [imagined_sight(model, examples)])
    torch.testing.assert_close(loss, -scores.sum() / batch.trained.sum())
    assert figures["loss"] == loss.item()


@pytest.mark.parametrize("scope", ["tags", "turn"])
def test_attention_is_decoupled_where_it_is_asked_for(scope: Scope) -> None:
    model = small_model()
    examples = [e for e in imagined_examples() if int(e.tokens["clip"].max()) > 0][:1]  # with crops
    batch = TokenBatch.stack([examples[0].tokens], pad_id=model.vocabulary.end_of_turn)
    plan = decoupled_rows(batch.role, batch.clip, batch.valid, scope=scope)

    def loss(decoupling: TaskDecoupling | None) -> torch.Tensor:
        return Demonstrations(
            model, examples, sight=imagined_sight, tokens=1, seed=0, decoupling=decoupling
        ).loss(0)[0]

    always, never = (loss(TaskDecoupling(scope=scope, probability=p)) for p in (1.0, 0.0))
    features = [imagined_sight(model, examples)]
    scores = log_probabilities(model, batch, features, decoupling=plan)
    torch.testing.assert_close(always, -scores.sum() / batch.trained.sum())
    assert never == loss(None) != always


def test_real_sight_is_what_the_tower_makes_of_the_frames() -> None:
    model = small_model()
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    tokens = imagined_examples()[0].tokens
    one = Example(tokens, np.zeros((4, 3), np.int64), (frames[:6], frames[6:]))
    other = Example(tokens, np.zeros((4, 3), np.int64), (frames[2:4],))
    features = real_sight(model, [one, other])
    assert features.embeddings.shape == (5, 64)
    torch.testing.assert_close(features.embeddings[4], features.embeddings[1])
    assert len(features.deepstack) == 1


def test_a_clip_of_an_odd_length_ends_with_its_last_frame_twice() -> None:
    model = small_model()
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    tokens = imagined_examples()[0].tokens
    odd = Example(tokens, np.zeros((3, 3), np.int64), (frames[:3], frames[3:]))
    filled = Example(tokens, np.zeros((3, 3), np.int64), (frames[[0, 1, 2, 2]], frames[3:]))
    features = [real_sight(model, [one]).embeddings for one in (odd, filled)]
    assert len(features[0]) == 3
    torch.testing.assert_close(*features)


def test_a_few_steps_lower_the_loss() -> None:
    model = small_model()
    stage = Demonstrations(model, imagined_examples(), sight=imagined_sight, tokens=1500, seed=0)
    lines: list[float] = []
    optimise(
        model.network.model.language_model.parameters(),
        stage.loss,
        steps=50,
        learning_rate=3e-3,
        log=lambda figures: lines.append(figures["loss"]),
    )
    assert lines[1] < 0.8 * lines[0]
