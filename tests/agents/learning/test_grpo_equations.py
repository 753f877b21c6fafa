"""GRPO's gradient is that of its equations, computed here episode by episode."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from agents.learning.collecting import CollectorConfig, Experience
from agents.learning.grpo import GRPOLearner
from agents.learning.grpo_config import VARIANTS, GRPOConfig
from agents.learning.learner import Update
from agents.learning.sample import Sample
from agents.llm.batch import TokenBatch
from agents.llm.decoupling import decoupled_rows
from agents.llm.likelihood import log_probabilities
from envs.decoupled import DecoupledSession
from rewards import Reward, TrajectoryGuidedReward
from rewards.credit import CoverageShaping
from tests.agents.learning.learners import (
    ANSWER,
    CROP,
    LONG,
    WRONG,
    assert_same_gradients,
    constant,
    gradient_of,
    gradients_of,
    grpo,
    script,
)
from videoseek_env.trajectory import EndReason, Trajectory

LONGEST = 256  # tokens of a reply in the tiny budget


def is_exceeded(one: Experience) -> bool:
    reason = one.trajectory.end_reason
    return reason is not None and reason.is_exceeded


def plain_advantages(members: Sequence[Experience], config: GRPOConfig) -> npt.NDArray[np.float64]:
    """Of the first and the second turn of each episode of a group, [B, 2]."""
    rewards = np.array([[one.reward.value] for one in members])
    if config.shaping is None:
        to_go, baseline = rewards.repeat(2, 1), rewards.mean()
    else:
        # Shaping cancels over an episode. One that is over counts with all that it earned.
        second = [sum(config.shaping(one.trajectory)[1:]) for one in members]
        to_go = rewards + np.stack([np.zeros(len(members)), second], 1)
        baseline = (to_go.sum(0) - to_go) / (len(members) - 1)
    divisor = to_go.std(0, ddof=1).max() + 1e-6 if config.scale == "std" else 1.0
    return np.asarray((to_go - baseline) / divisor)


def log_ratio(learner: GRPOLearner, sample: Sample) -> torch.Tensor:
    """Of the tokens of one context, read alone."""
    model, config = learner.model, learner.config
    batch = TokenBatch.stack([sample.tokens], pad_id=0)
    decoupling = (
        decoupled_rows(batch.role, batch.clip, batch.valid) if config.task_decoupling else None
    )
    logprobs = log_probabilities(
        model,
        batch,
        model.encode(list(sample.clips)),
        decoupling=decoupling,
        temperature=config.temperature,
    )
    trained = batch.trained[0]
    return logprobs[0][trained] - torch.from_numpy(sample.tokens["logprob"].copy())[trained]


def plain_gradients(
    learner: GRPOLearner, experiences: Sequence[Experience], *, part: int = 0
) -> list[torch.Tensor]:
    """Those of a minibatch by the equations: episode by episode, no batches, no sharing."""
    config = learner.config
    learner.model.network.zero_grad()
    groups = defaultdict(list)
    for one in experiences:
        groups[one.group].append(one)
    played = [(members, plain_advantages(members, config)) for _, members in sorted(groups.items())]
    differing = [(members, table) for members, table in played if np.abs(table).max() > 1e-3]
    lessons = [
        (sample, advantages, is_exceeded(one))
        for members, table in differing[part :: config.minibatches]
        for one, advantages in zip(members, table, strict=True)
        for sample in one.samples
    ]
    tokens = sum(sample.trained_tokens for sample, _, exceeded in lessons if not exceeded)
    for sample, advantages, exceeded in lessons:
        if exceeded:
            continue
        divisor = {
            "tokens": tokens,
            "sequences": len(lessons) * sample.trained_tokens,
            "constant": len(lessons) * LONGEST,
        }[config.normalise]
        turns = sample.turn_of_tokens()
        advantage = torch.from_numpy(advantages[turns[turns >= 0]]).float()
        ratio = log_ratio(learner, sample)
        if config.ratio == "sequence":
            ratio = ratio.mean().expand(len(ratio))
        ratio = ratio.exp()
        clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
        terms = torch.minimum(ratio * advantage, clipped * advantage)
        (-terms.sum() / divisor).backward()
    return [gradient_of(parameter) for parameter in learner.optimiser.parameters]


def checked_update(
    monkeypatch: pytest.MonkeyPatch, learner: GRPOLearner, *, minibatches: int = 1
) -> Update:
    """A step, in which so many minibatches teach, each by its equations."""
    found = gradients_of(monkeypatch, learner)
    update = learner.update(0)
    assert len(found) == minibatches
    for part, gradients in enumerate(found):
        expected = plain_gradients(learner, update.experiences, part=part)
        assert_same_gradients(gradients, expected, least=1e-3)
    return update


def guided(video: Path, **settings: Any) -> GRPOLearner:
    """It plays two questions six times, for the reward of the paper."""
    collector = CollectorConfig(questions=2, group_size=6)
    reward = TrajectoryGuidedReward()
    return grpo(video, session=LONG, reward=reward, collector=collector, **settings)


@pytest.mark.parametrize(
    ("max_tokens", "share_prompts"), [(100_000, True), (100_000, False), (300, True), (1, False)]
)
def test_the_gradient_is_that_of_the_equations_however_it_is_computed(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch, max_tokens: int, share_prompts: bool
) -> None:
    script(monkeypatch, CROP, CROP, ANSWER, WRONG)
    learner = guided(minute_video, max_tokens=max_tokens, share_prompts=share_prompts)
    update = checked_update(monkeypatch, learner)
    ends = {str(one.trajectory.end_reason) for one in update.experiences}
    assert ends == {"answered", "turns_exhausted"}  # two crops, and no answer


@pytest.mark.parametrize(
    "fields",
    [
        VARIANTS["grpo"],
        VARIANTS["dr_grpo"],
        {**VARIANTS["gspo"], "minibatches": 2, "seed": 1},
        {"temperature": 0.7},
        {"task_decoupling": True},
        {"shaping": CoverageShaping()},
        {"shaping": CoverageShaping(), "scale": "none"},
    ],
)
def test_every_setting_that_changes_the_gradient_changes_it_by_its_equations(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch, fields: Mapping[str, Any]
) -> None:
    script(monkeypatch, CROP, CROP, ANSWER, WRONG)
    learner = guided(minute_video, **fields)
    update = checked_update(monkeypatch, learner, minibatches=learner.config.minibatches)
    assert min(update.metrics["clipped_low"], update.metrics["clipped_high"]) > 0


def test_every_role_of_an_episode_learns_from_its_reward(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, CROP, ANSWER, WRONG)
    update = checked_update(monkeypatch, guided(minute_video, make_session=DecoupledSession))
    roles = [sample for one in update.experiences for sample in one.samples]
    assert len(roles) == 2 * len(update.experiences)  # a seeker's context, and an answerer's
    assert update.metrics["reply_tokens"] == pytest.approx(
        sum(sample.trained_tokens for sample in roles) / len(update.experiences)
    )


def test_an_exceeded_episode_counts_in_its_group_and_carries_no_loss(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, CROP, ANSWER)

    def reward(trajectory: Trajectory) -> Reward:
        return Reward(5.0 if trajectory.end_reason is EndReason.TURNS_EXHAUSTED else 1.0)

    session = dataclasses.replace(LONG, max_turns=1)
    collector = CollectorConfig(questions=1, group_size=6)
    learner = grpo(minute_video, session=session, reward=reward, collector=collector)
    update = checked_update(monkeypatch, learner)
    # All answers earned the same: only beside the exceeded ones are they worse than the mean.
    assert 0 < update.metrics["end/turns_exhausted"] < 1


def test_credit_by_turns_punishes_what_came_after_a_good_turn(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, CROP, ANSWER)
    learner = grpo(
        minute_video,
        session=LONG,
        reward=constant,
        collector=CollectorConfig(questions=1, group_size=6),
        shaping=CoverageShaping(),
    )
    update = checked_update(monkeypatch, learner)
    turns = {len(one.trajectory.turns) for one in update.experiences}
    # Whole episodes earn the same, since shaping cancels; turns do not, and the group is kept.
    assert len(turns) > 1 and update.metrics["reward_std"] == 0.0
    assert update.metrics["uninformative_groups"] == 0


def test_minibatches_hold_whole_groups_and_take_a_step_each(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = grpo(minute_video, minibatches=3)
    # Two groups, one in each of the first two; there is none for the third, which passes.
    checked_update(monkeypatch, learner, minibatches=2)
    assert learner.optimiser.steps_done == 1
    assert learner.optimiser.total_steps == 18
