import copy
import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from agents.learning.optimiser import OptimiserConfig
from agents.learning.sft import SFTConfig
from agents.llm.batch import TokenBatch
from agents.llm.decoupling import TaskDecoupling, decoupled_rows
from agents.llm.likelihood import log_probabilities
from agents.llm.roles import TokenRole
from tests.agents.learning.learners import (
    are_equal,
    demonstrations,
    fresh_model,
    gradients_of,
    largest_difference,
    make_tasks,
    parameters,
    sft,
)
from videoseek_env.errors import ConfigError, DatasetError

PLAIN = OptimiserConfig(learning_rate=2e-3)


def plain_gradients(learner: Any, *, decoupled: bool) -> list[torch.Tensor]:
    """The mean over all tokens of the batch, trajectory by trajectory."""
    model, samples = learner.model, learner.batch
    learner.optimiser.adamw.zero_grad()
    tokens = sum(sample.trained_tokens for sample in samples)
    for sample in samples:
        batch = TokenBatch.stack([sample.tokens], pad_id=0)
        plan = (
            decoupled_rows(batch.role, batch.clip, batch.valid, scope="tags") if decoupled else None
        )
        features = model.encode(list(sample.clips))
        scores = log_probabilities(model, batch, features, decoupling=plan)
        (-scores.sum() / tokens).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.optimiser.parameters]


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("max_tokens", [100_000, 1])
def test_the_gradient_is_that_of_a_mean_over_the_batchs_tokens(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch, max_tokens: int, decoupled: bool
) -> None:
    decoupling = TaskDecoupling(probability=1.0) if decoupled else None
    learner = sft(minute_video, max_tokens=max_tokens, decoupling=decoupling)
    found = gradients_of(monkeypatch, learner)
    metrics = learner.update(0).metrics
    assert metrics["decoupled"] == decoupled
    assert largest_difference(found[0], plain_gradients(learner, decoupled=decoupled)) < 2e-5


def test_the_loss_falls_for_every_kind_of_token(minute_video: Path) -> None:
    learner = sft(minute_video, steps=15)
    metrics = [learner.update(step).metrics for step in range(15)]
    for name in ("loss", "loss/think", "loss/grounding", "loss/answer"):
        assert metrics[-1][name] < 0.5 * metrics[0][name], name
    # Up in 3 of 15 steps, down along a cosine.
    rates = [entry["learning_rate"] for entry in metrics]
    assert rates[3] == max(rates) == 2e-3 and 0 < rates[-1] < 1e-4 and 0 < rates[0] < rates[1]


def test_the_loss_is_a_mean_over_tokens_of_each_role(minute_video: Path) -> None:
    learner = sft(minute_video)
    metrics = learner.update(0).metrics
    sums = np.zeros(2)
    for sample in learner.batch:
        with torch.no_grad():
            batch = TokenBatch.stack([sample.tokens], pad_id=0)
            model = fresh_model()
            scores = log_probabilities(model, batch, model.encode(list(sample.clips)))[0].numpy()
        mask = (sample.tokens["role"] == TokenRole.GROUNDING) & sample.tokens["trained"]
        sums += scores[mask].sum(), mask.sum()
    assert metrics["loss/grounding"] == pytest.approx(-sums[0] / sums[1], rel=1e-4)


def test_every_trajectory_is_seen_once_before_any_is_seen_again(minute_video: Path) -> None:
    learner = sft(minute_video, steps=3, batch_size=4)  # of 6: 4, 2 + 2, 4
    seen = []
    for step in range(3):
        learner.update(step)
        seen += [sample.prompt_key for sample in learner.batch]
    assert len({*seen[:6]}) == len({*seen[6:]}) == 6 and learner.drawn == 12
    assert seen[:6] != seen[6:]


def test_a_frozen_vision_tower_stays_as_it_is(minute_video: Path) -> None:
    for train_vision in (False, True):
        model = fresh_model()
        optimiser = dataclasses.replace(PLAIN, train_vision=train_vision, weight_decay=0.1)
        learner = sft(minute_video, model, optimiser=optimiser)
        vision, text = model.base.model.visual, model.base.model.language_model
        before, others = parameters(vision), parameters(text)
        learner.update(0)
        assert are_equal(before, parameters(vision)) is not train_vision
        assert not are_equal(others, parameters(text))


def test_decoupling_comes_as_often_as_asked_and_by_the_seed(minute_video: Path) -> None:
    def drawn(seed: int) -> list[float]:
        learner = sft(
            minute_video,
            trajectories=demonstrations(make_tasks(minute_video, 1)),
            batch_size=1,
            decoupling=TaskDecoupling(probability=0.5),
            seed=seed,
        )
        return [learner.update(step).metrics["decoupled"] for step in range(6)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert 0 < sum(drawn(0)) < 6


def test_a_second_stage_goes_on_with_a_schedule_of_its_own(minute_video: Path) -> None:
    model = fresh_model()
    everything: dict[str, Any] = {"steps": 3, "batch_size": 6}
    first = sft(minute_video, model, **everything)
    losses = [first.update(step).metrics["loss"] for step in range(3)]
    second = sft(minute_video, model, decoupling=TaskDecoupling(probability=1.0), **everything)
    assert second.optimiser.learning_rate == pytest.approx(2e-3 / 2)  # one step of warm-up
    update = second.update(0)
    assert update.metrics["decoupled"] == 1.0 and update.metrics["loss"] < losses[0]


def test_trajectories_that_cannot_be_read_are_left_out_and_counted(
    minute_video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = make_tasks(minute_video, 3)
    sound = demonstrations(tasks)
    lost = dataclasses.replace(tasks[0], video=str(tmp_path / "gone.mp4"))
    empty = dataclasses.replace(sound[1], turns=())
    wrong = [dataclasses.replace(sound[0], task=lost), empty]
    learner = sft(minute_video, trajectories=[*sound, *wrong], batch_size=5)
    with caplog.at_level(logging.WARNING):
        metrics = learner.update(0).metrics
    assert metrics["skipped"] == 2 and len(learner.batch) == 3
    assert "gone.mp4" in caplog.text and "expected a context with a reply" in caplog.text
    nothing = sft(minute_video, trajectories=wrong, batch_size=2)
    nothing.update(0)
    with pytest.raises(DatasetError, match="none of 4 trajectories could be read"):
        nothing.update(1)


def test_trajectories_that_are_too_long_are_left_out_and_counted(minute_video: Path) -> None:
    tasks = make_tasks(minute_video, 3)
    tasks[1] = dataclasses.replace(tasks[1], question="Which? " * 60)
    fields: dict[str, Any] = {"trajectories": demonstrations(tasks), "batch_size": 3}
    learner = sft(minute_video, **fields)
    learner.update(0)
    shorter, longest = sorted({len(sample.tokens) for sample in learner.batch})
    for limit, skipped in ((longest, 0), (longest - 1, 1), (shorter, 1)):
        learner = sft(minute_video, max_context_tokens=limit, **fields)
        assert learner.update(0).metrics["skipped"] == skipped
        assert len(learner.batch) == 3 - skipped


def test_there_has_to_be_something_to_learn_from(minute_video: Path) -> None:
    with pytest.raises(ConfigError, match="there are no trajectories to learn from"):
        sft(minute_video, trajectories=[])
    with pytest.raises(ConfigError, match="at least 1"):
        SFTConfig(batch_size=0)


def test_a_batch_of_which_nothing_can_be_read_is_left_out(minute_video: Path) -> None:
    tasks = make_tasks(minute_video, 3)
    trajectories = demonstrations(tasks)
    trajectories[1] = dataclasses.replace(trajectories[1], turns=())
    learner = sft(minute_video, trajectories=trajectories, batch_size=1, steps=9)
    before, skipped = parameters(learner.model.network), []
    for step in range(9):
        metrics = learner.update(step).metrics
        skipped.append(metrics["skipped"])
        assert ("loss" in metrics) == (not skipped[-1])
    assert sum(skipped) == 3  # as many as there are, but not one after another
    assert learner.optimiser.steps_done == 9
    assert not are_equal(before, parameters(learner.model.network))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_dropout_of_demonstrations_is_decided_by_the_step(minute_video: Path) -> None:
    adapter = LoraConfig(target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False)
    network = get_peft_model(fresh_model().network, adapter)

    def loss(step: int) -> float:
        model = dataclasses.replace(fresh_model(), network=copy.deepcopy(network))
        learner = sft(minute_video, model, batch_size=6)
        return learner.update(step).metrics["loss"]

    assert loss(0) == loss(0) != loss(1)  # the batch is all there is, whatever the step
