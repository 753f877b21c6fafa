from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.learning.collecting import CollectorConfig, Experience
from agents.learning.optimiser import NonFiniteLossError, OptimiserConfig
from agents.learning.ppo import PPOConfig
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
    constant,
    gradients_of,
    largest_difference,
    parameters,
    ppo,
    script,
)
from videoseek_env.errors import ConfigError
from videoseek_env.trajectory import Trajectory

LAM = 0.9


def by_answer(trajectory: Trajectory) -> Reward:
    """2 for an answer after a crop, 1 for one without, 0 for none."""
    return Reward(float(len(trajectory.turns)) if trajectory.answer else 0.0)


def plain_advantages(one: Experience, shaping: CoverageShaping | None) -> torch.Tensor:
    """By hand, for values of 0: each written token gets what comes later, LAM a written token."""
    turns = one.samples[0].turn_of_tokens()
    turns = turns[turns >= 0]  # observations between replies count for nothing
    rewards = np.zeros(len(turns))
    if shaping is not None:
        for turn, extra in enumerate(shaping(one.trajectory)):
            rewards[np.flatnonzero(turns == turn)[-1]] += extra
    rewards[-1] += one.reward.value
    steps = np.arange(len(turns))
    later = np.where(steps[None] >= steps[:, None], LAM ** (steps[None] - steps[:, None]), 0.0)
    return torch.from_numpy(later @ rewards).float()


def plain_gradients(
    learner: Any, experiences: Any, shaping: CoverageShaping | None
) -> list[torch.Tensor]:
    """PPO from its equations, episode by episode, for a value head that says 0."""
    model, head = learner.model, learner.value_head
    learner.optimiser.adamw.zero_grad()
    advantages = [plain_advantages(one, shaping) for one in experiences]
    flat = torch.cat(advantages)
    for one, advantage in zip(experiences, advantages, strict=True):
        batch = TokenBatch.stack([one.samples[0].tokens], pad_id=0)
        clips = model.encode(list(one.samples[0].clips))
        hidden = model.hidden(batch.ids, batch.positions, clips)
        trained = batch.trained[0]
        now = read_out(model, hidden, batch)[0][trained]
        ratio = (now - torch.from_numpy(one.samples[0].tokens["logprob"].copy())[trained]).exp()
        white = (advantage - flat.mean()) / (flat.std() + 1e-6)
        terms = torch.minimum(ratio * white, ratio.clamp(0.8, 1.2) * white)
        # The value of a token is that of the state before it.
        values = head.linear(head.norm(hidden[0]))[:, 0]
        before = values[trained.nonzero()[:, 0] - 1]
        loss = (-terms + 0.5 * 0.5 * (before - advantage).square()).sum() / len(flat)
        loss.backward()
    found = [
        torch.zeros_like(p) if p.grad is None else p.grad for p in learner.optimiser.parameters
    ]
    return [gradient.clone() for gradient in found]


@pytest.mark.parametrize("max_tokens", [100_000, 200])
@pytest.mark.parametrize("shaping", [None, CoverageShaping()])
def test_the_gradient_is_that_of_the_equations(
    minute_video: Path,
    monkeypatch: pytest.MonkeyPatch,
    shaping: CoverageShaping | None,
    max_tokens: int,
) -> None:
    script(monkeypatch, CROP, ANSWER, CROP)
    learner = ppo(
        minute_video,
        session=LONG,
        reward=by_answer,
        minibatches=1,
        lam=LAM,
        shaping=shaping,
        max_tokens=max_tokens,
    )
    found = gradients_of(monkeypatch, learner)
    update = learner.update(0)
    assert {len(one.trajectory.turns) for one in update.experiences} == {1, 2}
    expected = plain_gradients(learner, update.experiences, shaping)
    scale = max(float(gradient.abs().max()) for gradient in expected)
    assert scale > 1e-2
    assert largest_difference(found[0], expected) < 2e-5 * max(1.0, scale)


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
        steps=20,
        minibatches=1,
        lam=1.0,
        value_clip=float("inf"),
        collector=CollectorConfig(questions=8, group_size=1),
        optimiser=OptimiserConfig(learning_rate=5e-3),
    )
    assert all(not p.any() for p in learner.value_head.linear.parameters())
    metrics = [learner.update(step).metrics for step in range(20)]
    # From the second token on, the state tells which reply it is.
    assert metrics[0]["explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert max(entry["explained_variance"] for entry in metrics[-5:]) > 0.3
    assert metrics[0]["value_loss"] == pytest.approx(0.25)  # half of the squares of 0 and 1
    assert min(entry["value_loss"] for entry in metrics[-5:]) < 0.2


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
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        PPOConfig(collector=ALONE, **fields)
