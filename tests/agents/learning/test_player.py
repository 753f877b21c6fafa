from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from accelerate import Accelerator

from agents.learning.collecting import Experience
from agents.learning.player import Player
from agents.llm.model import VisionLanguageModel
from tests.agents.learning.learners import COLLECTOR, SHORT, fresh_model, make_tasks, vowels


def make_player(video: Path, model: VisionLanguageModel) -> Player:
    return Player(
        model,
        make_tasks(video),
        COLLECTOR,
        session=SHORT,
        reward=vowels,
        accelerator=Accelerator(),
        cache=None,
        temperature=1.0,
        seed=0,
    )


def test_a_step_plays_in_evaluation_and_learns_in_training_mode(minute_video: Path) -> None:
    model = fresh_model()
    modes: list[bool] = []
    seen: list[Sequence[Experience]] = []
    model.network.register_forward_pre_hook(lambda *_: modes.append(model.network.training))

    def learn(experiences: Sequence[Experience]) -> dict[str, float]:
        assert model.network.training
        seen.append(experiences)
        return {"loss": 0.25}

    update, drawn = make_player(minute_video, model).update(0, 3, learn)
    assert not any(modes)
    (experiences,) = seen
    assert len(experiences) == 6 and set(map(id, experiences)) <= set(map(id, update.experiences))
    assert drawn == 3 + update.metrics["questions"] >= 5
    assert update.metrics["loss"] == 0.25
    assert min(update.metrics[f"{part}_seconds"] for part in ("rollout", "learning")) >= 0


def test_what_goes_wrong_in_learning_is_raised(minute_video: Path) -> None:
    def learn(_: Sequence[Experience]) -> dict[str, float]:
        raise ArithmeticError("NaN")

    with pytest.raises(ArithmeticError, match="NaN"):
        make_player(minute_video, fresh_model()).update(0, 0, learn)
