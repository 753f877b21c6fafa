"""Small learners on real videos, for tests of learning."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.baselines import OraclePolicy
from agents.learning.collecting import CollectorConfig
from agents.learning.demonstration_reader import DemonstrationReader
from agents.learning.grpo import GRPOLearner
from agents.learning.grpo_config import GRPOConfig
from agents.learning.optimiser import OptimiserConfig
from agents.learning.ppo import PPOConfig, PPOLearner
from agents.learning.sft import SFTConfig, SFTLearner
from agents.llm.generation import Sampling
from agents.llm.model import VisionLanguageModel
from agents.llm.prefill import Row
from agents.llm.tiny import TINY_PROMPTS, TinyConfig, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer
from agents.ongoing import MakeSession
from agents.rollout import rollout
from rewards import Reward
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from videoseek_env.budget import TINY
from videoseek_env.session import SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory
from videoseek_env.video.clip import Clip

SHORT = SessionConfig(budget=dataclasses.replace(TINY, max_reply_tokens=8), prompts=TINY_PROMPTS)
"""Episodes of a few tokens, for a model that has learned nothing."""
LONG = SessionConfig(budget="tiny", prompts=TINY_PROMPTS, max_turns=2)
"""Episodes of one or two turns, for scripts."""

CROP, ANSWER, WRONG = crop_reply(10, 20), answer_reply("B"), answer_reply("A")
COLLECTOR = CollectorConfig(questions=2, group_size=3)
ALONE = CollectorConfig(questions=6, group_size=1)


def fresh_model(*, seed: int = 0, initializer_range: float = 0.06) -> VisionLanguageModel:
    """A model of one layer that nobody else has."""
    config = TinyConfig(layers=1, seed=seed, initializer_range=initializer_range)
    return VisionLanguageModel.wrap(tiny_model(config), tiny_tokenizer())


def make_tasks(video: Path, count: int = 4) -> list[VideoTask]:
    """Questions about one video that differ in their words."""
    colours = ("red", "blue", "green", "cyan", "white", "yellow")
    return [
        dataclasses.replace(
            make_task(), id=f"task-{n}", video=str(video), question=f"Which {colours[n % 6]} {n}?"
        )
        for n in range(count)
    ]


def vowels(trajectory: Trajectory) -> Reward:
    """The share of vowels among the letters of the last reply, in [0, 1]."""
    reply = trajectory.turns[-1].reply
    share = sum(letter in "aeiou" for letter in reply) / max(len(reply), 1)
    return Reward(share, {"vowels": share})


def constant(trajectory: Trajectory) -> Reward:
    return Reward(0.5)


def grpo(
    video: Path,
    model: VisionLanguageModel | None = None,
    *,
    session: SessionConfig = SHORT,
    reward: Any = vowels,
    tasks: Sequence[VideoTask] | None = None,
    accelerator: Any = None,
    make_session: MakeSession = VideoSession,
    **fields: Any,
) -> GRPOLearner:
    config = GRPOConfig(
        **{
            "steps": 6,
            "collector": COLLECTOR,
            "optimiser": OptimiserConfig(learning_rate=1e-3),
            **fields,
        }
    )
    return GRPOLearner(
        model or fresh_model(),
        tasks or make_tasks(video),
        config,
        session=session,
        reward=reward,
        accelerator=accelerator,
        make_session=make_session,
    )


def ppo(
    video: Path,
    model: VisionLanguageModel | None = None,
    *,
    session: SessionConfig = SHORT,
    reward: Any = vowels,
    accelerator: Any = None,
    **fields: Any,
) -> PPOLearner:
    config = PPOConfig(
        **{
            "steps": 6,
            "minibatches": 2,
            "collector": ALONE,
            "optimiser": OptimiserConfig(learning_rate=1e-3),
            **fields,
        }
    )
    return PPOLearner(
        model or fresh_model(),
        make_tasks(video),
        config,
        session=session,
        reward=reward,
        accelerator=accelerator,
    )


def demonstrations(tasks: Sequence[VideoTask]) -> list[Trajectory]:
    """What the oracle does."""
    played = rollout(OraclePolicy, tasks, session=LONG)
    return [episode.trajectory for episode in played]


def sft(
    video: Path,
    model: VisionLanguageModel | None = None,
    *,
    trajectories: Sequence[Trajectory] | None = None,
    accelerator: Any = None,
    **fields: Any,
) -> SFTLearner:
    model = model or fresh_model()
    if trajectories is None:
        trajectories = demonstrations(make_tasks(video, 6))
    reader = DemonstrationReader(model.builder, trajectories, prompts=TINY_PROMPTS)
    config = SFTConfig(
        **{
            "steps": 6,
            "batch_size": 4,
            "optimiser": OptimiserConfig(learning_rate=2e-3, schedule="cosine", warmup_share=0.2),
            **fields,
        }
    )
    return SFTLearner(model, reader, config, accelerator=accelerator)


def script(monkeypatch: pytest.MonkeyPatch, *replies: str) -> None:
    """Let the model's policies write these replies, one after the other and over again.

    What they note as log-probabilities is made up, so that ratios are not 1.
    """
    turns = cycle(replies)

    def write(
        model: VisionLanguageModel,
        rows: Sequence[Row],
        clips: Sequence[Sequence[Clip]],
        sampling: Sampling,
        *,
        scope: Any = None,
    ) -> list[str]:
        texts = []
        for row in rows:
            ids = model.vocabulary.encode(next(turns))
            logprobs = row.rng.uniform(-8.4, -7.4, len(ids)).tolist()
            texts.append(model.builder.reply(row.context, ids, logprobs))
        return texts

    monkeypatch.setattr("agents.llm.hf_policy.generate", write)


def parameters(*modules: nn.Module) -> list[Tensor]:
    """A copy of all of them."""
    return [p.detach().clone() for module in modules for p in module.parameters()]


def are_equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether they are the same bit by bit."""
    assert len(one) == len(other)
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def largest_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def assert_same_gradients(
    found: Sequence[Tensor], expected: Sequence[Tensor], *, least: float
) -> None:
    """They agree to 1e-5 of the largest number expected, which is at least so large."""
    scale = max(float(gradient.abs().max()) for gradient in expected)
    assert scale > least
    assert largest_difference(found, expected) < 1e-5 * scale


def gradients_of(monkeypatch: pytest.MonkeyPatch, learner: Any) -> list[list[Tensor]]:
    """Collects the gradients that the learner's optimiser is asked to apply; it applies none."""
    found: list[list[Tensor]] = []

    def step() -> float:
        found.append([gradient_of(p) for p in learner.optimiser.parameters])
        learner.optimiser.adamw.zero_grad()
        return 1.0

    monkeypatch.setattr(learner.optimiser, "step", step)
    return found


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """A copy of it."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


def poison(model: VisionLanguageModel) -> None:
    """Make every likelihood NaN."""
    with torch.no_grad():
        next(iter(model.base.model.language_model.layers)).mlp.down_proj.weight.fill_(np.nan)
