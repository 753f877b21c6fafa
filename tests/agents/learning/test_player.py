from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from agents.learning.collecting import Experience
from agents.learning.player import Player
from agents.llm.model import VisionLanguageModel
from rewards import Reward
from rewards.reward import RewardFunction
from tests.agents.learning.learners import COLLECTOR, SHORT, fresh_model, make_tasks, vowels
from videoseek_env.trajectory import Trajectory


def make_player(
    video: Path, model: VisionLanguageModel, *, reward: RewardFunction = vowels
) -> Player:
    return Player(
        model,
        make_tasks(video),
        COLLECTOR,
        session=SHORT,
        reward=reward,
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


def test_playing_and_learning_are_timed_apart(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(
        "agents.learning.player.time", SimpleNamespace(perf_counter=lambda: clock[0])
    )

    def reward(trajectory: Trajectory) -> Reward:
        clock[0] += 1
        return vowels(trajectory)

    def learn(_: Sequence[Experience]) -> dict[str, float]:
        clock[0] += 100
        return {}

    player = make_player(minute_video, fresh_model(), reward=reward)
    metrics = player.update(0, 0, learn)[0].metrics
    episodes = metrics["questions"] * COLLECTOR.group_size
    assert metrics["rollout_seconds"] == episodes and metrics["learning_seconds"] == 100


def test_replies_of_a_model_that_never_stops_are_seen_to_be_too_long(minute_video: Path) -> None:
    update, _ = make_player(minute_video, fresh_model()).update(0, 0, lambda _: {})
    assert update.metrics["end/reply_cut"] == 1.0


def test_what_goes_wrong_in_learning_is_raised(minute_video: Path) -> None:
    def learn(_: Sequence[Experience]) -> dict[str, float]:
        raise ArithmeticError("NaN")

    with pytest.raises(ArithmeticError, match="NaN"):
        make_player(minute_video, fresh_model()).update(0, 0, learn)
