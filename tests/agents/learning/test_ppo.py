import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.learning.collecting import CollectorConfig, Experience
from agents.learning.optimiser import NonFiniteLossError, OptimiserConfig
from agents.learning.ppo import PPOConfig, PPOLearner
from agents.learning.values import ValueHead
from agents.llm.batch import TokenBatch
from agents.llm.likelihood import read_out
from rewards import Reward
from rewards.credit import CoverageShaping
from tests.agents.learning.learners import (
    ALONE,
    ANSWER,
    CROP,
    LONG,
    are_equal,
    assert_same_gradients,
    constant,
    gradient_of,
    gradients_of,
    parameters,
    ppo,
    script,
)
from videoseek_env.errors import ConfigError
from videoseek_env.trajectory import Trajectory

ALL_DIFFERENT: dict[str, Any] = {
    "epochs": 3,
    "clip": 0.1,
    "value_clip": 0.4,
    "value_weight": 0.3,
    "gamma": 0.9,
    "lam": 0.8,
    "temperature": 0.7,
}


def by_answer(trajectory: Trajectory) -> Reward:
    """2 for an answer after a crop, 1 for one without, 0 for none."""
    return Reward(float(len(trajectory.turns)) if trajectory.answer else 0.0)


def token_rewards(one: Experience, shaping: CoverageShaping | None) -> torch.Tensor:
    """Of the written tokens: what a turn is paid at its last one, the reward at the very last."""
    turns = one.samples[0].turn_of_tokens()
    turns = turns[turns >= 0]  # observations between replies count for nothing
    rewards = torch.zeros(len(turns))
    if shaping is not None:
        for turn, extra in enumerate(shaping(one.trajectory)):
            rewards[np.flatnonzero(turns == turn)[-1]] += extra
    rewards[-1] += one.reward.value
    return rewards


def states_of(learner: PPOLearner, one: Experience) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the written tokens: log-probabilities now, and the states before them."""
    model, (sample,) = learner.model, one.samples
    batch = TokenBatch.stack([sample.tokens], pad_id=0)
    hidden = model.hidden(batch.ids, batch.positions, model.encode(list(sample.clips)))
    logprobs = read_out(model, hidden, batch, temperature=learner.config.temperature)
    trained = batch.trained[0]
    return logprobs[0][trained], hidden[0][trained.nonzero()[:, 0] - 1]


def values_of(head: ValueHead, states: torch.Tensor) -> torch.Tensor:
    values: torch.Tensor = head.linear(head.norm(states))
    return values[:, 0]


def plain_gradients(
    learner: PPOLearner, experiences: Sequence[Experience], before: ValueHead, head: ValueHead
) -> list[torch.Tensor]:
    """PPO from its equations, episode by episode, with the value head before learning and now."""
    config, advantages, old_values = learner.config, list[torch.Tensor](), list[torch.Tensor]()
    learner.optimiser.adamw.zero_grad()
    for one in experiences:
        with torch.no_grad():
            values = values_of(before, states_of(learner, one)[1])
        after = torch.cat([values[1:], torch.zeros(1)])
        deltas = token_rewards(one, config.shaping) + config.gamma * after - values
        steps = torch.arange(len(deltas))
        ahead = (steps[None] - steps[:, None]).float()
        discounts = (config.gamma * config.lam) ** ahead.clamp(min=0) * (ahead >= 0)
        advantages.append(discounts @ deltas)
        old_values.append(values)
    flat = torch.cat(advantages)
    for one, advantage, old in zip(experiences, advantages, old_values, strict=True):
        now, states = states_of(learner, one)
        tokens = one.samples[0].tokens
        ratio = (now - torch.from_numpy(tokens["logprob"][tokens["trained"]].copy())).exp()
        white = (advantage - flat.mean()) / (flat.std() + 1e-6)
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        terms = torch.minimum(ratio * white, clipped * white)
        values = values_of(head, states)
        near = old + (values - old).clamp(-config.value_clip, config.value_clip)
        target = old + advantage
        errors = torch.maximum((values - target).square(), (near - target).square())
        loss = (-terms + config.value_weight * 0.5 * errors).sum() / len(flat)
        loss.backward()
    learned = [*learner.model.network.parameters(), *head.parameters()]
    return [gradient_of(parameter) for parameter in learned]


@pytest.mark.parametrize("max_tokens", [100_000, 200])
@pytest.mark.parametrize(("shaping", "gamma"), [(None, 0.9), (CoverageShaping(), 1.0)])
def test_the_gradient_is_that_of_the_equations(
    minute_video: Path,
    monkeypatch: pytest.MonkeyPatch,
    shaping: CoverageShaping | None,
    gamma: float,
    max_tokens: int,
) -> None:
    script(monkeypatch, CROP, ANSWER, CROP)
    learner = ppo(
        minute_video,
        session=LONG,
        reward=by_answer,
        minibatches=1,
        shaping=shaping,
        max_tokens=max_tokens,
        **{**ALL_DIFFERENT, "gamma": gamma},
    )
    linear, moves = learner.value_head.linear, iter([1.0, -2.0, 0.0])
    torch.nn.init.normal_(linear.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    heads: list[ValueHead] = []
    found = gradients_of(monkeypatch, learner)
    step = learner.optimiser.step

    def step_and_move() -> float:
        norm = step()
        heads.append(copy.deepcopy(learner.value_head))
        linear.bias.data += next(moves)
        return norm

    monkeypatch.setattr(learner.optimiser, "step", step_and_move)
    update = learner.update(0)
    assert {len(one.trajectory.turns) for one in update.experiences} == {1, 2}
    assert len(found) == learner.config.epochs
    for gradients, head in zip(found, heads, strict=True):
        expected = plain_gradients(learner, update.experiences, heads[0], head)
        assert_same_gradients(gradients, expected, least=1e-2)


def test_values_begin_at_zero_and_come_to_tell_what_is_still_to_be_earned(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, "B B B B B B", "A A A A A A")

    def by_letter(trajectory: Trajectory) -> Reward:
        return Reward(float("B" in trajectory.turns[-1].reply))

    learner = ppo(
        minute_video,
        session=LONG,
        reward=by_letter,
        steps=12,
        minibatches=1,
        value_clip=float("inf"),
        collector=CollectorConfig(questions=8, group_size=1),
    )
    assert all(not p.any() for p in learner.value_head.linear.parameters())
    first, *_, last = [learner.update(step).metrics for step in range(12)]
    # From the second token on, the state tells which reply it is.
    assert first["explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert last["explained_variance"] > 0.25
    assert first["value_loss"] == pytest.approx(0.25)  # half of the squares of 0 and 1
    assert last["value_loss"] < 0.1


def test_it_learns(minute_video: Path) -> None:
    learner = ppo(
        minute_video,
        steps=10,
        minibatches=1,
        collector=CollectorConfig(questions=16, group_size=1),
        optimiser=OptimiserConfig(learning_rate=1e-2),
    )
    rewards = [learner.update(step).metrics["reward"] for step in range(10)]
    assert np.mean(rewards[-3:]) > 1.6 * np.mean(rewards[:3])


def test_every_epoch_goes_through_every_episode_once(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = ppo(minute_video, epochs=2, minibatches=2)
    assert learner.optimiser.total_steps == 6 * 2 * 2
    batches: list[list[int]] = []

    def step() -> float:
        batches.append([id(sample) for sample in learner.batch])
        return 1.0

    monkeypatch.setattr(learner.optimiser, "step", step)
    update = learner.update(0)
    everyone = sorted(id(one.samples[0]) for one in update.experiences)
    assert len(batches) == 4 and all(len(batch) == 3 for batch in batches)
    assert sorted(batches[0] + batches[1]) == sorted(batches[2] + batches[3]) == everyone
    assert set(batches[0]) not in ({*batches[2]}, {*batches[3]})  # by the seed, in another order


def test_more_minibatches_than_episodes_pass_by(minute_video: Path) -> None:
    learner = ppo(minute_video, minibatches=8)
    update = learner.update(0)
    assert learner.optimiser.steps_done == 8 and len(update.experiences) == 6
    taken = {float(state["step"]) for state in learner.optimiser.adamw.state.values()}
    assert taken == {6.0}


def test_what_was_written_is_as_likely_to_the_learner_as_to_the_player(minute_video: Path) -> None:
    metrics = ppo(minute_video, minibatches=1, temperature=0.7).update(0).metrics
    # With ratios of 1 it is the mean of whitened advantages.
    assert metrics["policy_loss"] == pytest.approx(0.0, abs=1e-5)


def test_a_batch_of_one_token_deviates_from_nothing(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, "B")
    collector = CollectorConfig(questions=1, group_size=1)
    learner = ppo(minute_video, minibatches=1, reward=constant, collector=collector)
    metrics = learner.update(0).metrics
    assert metrics["policy_loss"] == 0.0 and metrics["explained_variance"] == 0.0
    assert metrics["value_loss"] == pytest.approx(0.125)  # 0.5 (0 - 0.5)^2


@pytest.mark.parametrize("first", [True, False])
def test_a_loss_that_is_not_finite_stops_before_its_own_step(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    learner, sound = ppo(minute_video), ppo(minute_video)
    counts = iter([np.nan if first else 1.0, np.nan])
    backward = learner.optimiser.backward
    monkeypatch.setattr(learner.optimiser, "backward", lambda loss: backward(loss * next(counts)))
    steps: list[list[torch.Tensor]] = [parameters(sound.model.network, sound.value_head)]
    step = sound.optimiser.step
    monkeypatch.setattr(
        sound.optimiser,
        "step",
        lambda: (step(), steps.append(parameters(sound.model.network, sound.value_head)))[0],
    )
    sound.update(0)
    with pytest.raises(NonFiniteLossError, match="the loss is nan"):
        learner.update(0)
    left = parameters(learner.model.network, learner.value_head)
    assert are_equal(left, steps[0 if first else 1])


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"gamma": 0.0}, "gamma in"),
        ({"lam": 1.1}, "lam in"),
        ({"temperature": float("nan")}, "temperature > 0"),
        ({"clip": 0.0}, "clip"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"gamma": 0.9, "shaping": CoverageShaping()}, r"both are 1, got 0\.9 and 1"),
        ({"shaping": CoverageShaping(gamma=0.9)}, r"both are 1, got 1\.0 and 0\.9"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        PPOConfig(collector=ALONE, **fields)
