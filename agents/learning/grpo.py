"""Group relative policy optimisation of episodes: GRPO, and what DAPO, Dr.GRPO and GSPO change.

The policy plays groups of episodes of each question. An episode's advantage is how much more it
earned than its group; every token that the model wrote is made more or less likely by it. Episodes
that ran out of turns, clips or context count in their group's statistics, but carry no loss.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from agents.learning.advantages import (
    GroupAdvantages,
    TurnAdvantages,
    group_advantages,
    turn_advantages,
)
from agents.learning.collecting import Experience
from agents.learning.global_weights import global_weights
from agents.learning.grpo_config import GRPOConfig
from agents.learning.learner import Update
from agents.learning.losses import PolicyStatistics, policy_statistics, policy_terms
from agents.learning.micro_batches import micro_batches
from agents.learning.optimiser import Optimiser
from agents.learning.player import Player
from agents.learning.reading import read
from agents.learning.sample import Sample
from agents.llm.decoupling import Scope
from agents.llm.likelihood import read_out
from agents.llm.model import VisionLanguageModel
from agents.ongoing import MakeSession
from rewards.reward import RewardFunction
from videoseek_env.budget import get_budget
from videoseek_env.errors import ConfigError
from videoseek_env.session import SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache

_Floats = npt.NDArray[np.float64]

_logger = logging.getLogger(__name__)


class GRPOLearner:
    """Plays and learns."""

    def __init__(
        self,
        model: VisionLanguageModel,
        tasks: Sequence[VideoTask],
        config: GRPOConfig,
        *,
        session: SessionConfig,
        reward: RewardFunction,
        accelerator: Accelerator | None = None,
        cache: ClipCache | None = None,
        make_session: MakeSession = VideoSession,
    ) -> None:
        """Prepare to learn.

        Args:
            model: Learns; moved to the accelerator's device.
            tasks: Questions to play.
            config: How.
            session: The rules of an episode; contexts are counted in the model's own tokens.
            reward: Scores a trajectory.
            accelerator: Device, precision and processes; by default one process.
            cache: Decoded clips.
            make_session: Makes the session of an episode. Its policy may play several roles in
                turn: each is a context of its own, and learns from the episode's reward.

        Raises:
            ConfigError: If turns are to be credited of any other session than `VideoSession`, or
                ratios of sequences to be clipped in half precision.
        """
        self.accelerator = accelerator or Accelerator()
        if config.shaping is not None and make_session is not VideoSession:
            raise ConfigError("shaping needs episodes of one role: leave make_session out")
        if config.ratio == "sequence":
            _check_sequence_ratio(config.minibatches, model, self.accelerator.mixed_precision)
        self.model, self.config = model, config
        self.modules: Mapping[str, nn.Module] = {}
        self.total_steps, self.drawn = config.steps, 0
        self.batch: Sequence[Sample] = ()
        model.network.to(self.accelerator.device)
        self.optimiser = Optimiser(
            {"model": model.network},
            config.optimiser,
            total_steps=config.steps * config.minibatches,
            accelerator=self.accelerator,
        )
        self._longest_reply = get_budget(session.budget).max_reply_tokens
        self._scope: Scope | None = "tags" if config.task_decoupling else None
        self._player = Player(
            model,
            tasks,
            config.collector,
            session=session,
            reward=reward,
            accelerator=self.accelerator,
            cache=cache,
            temperature=config.temperature,
            seed=config.seed,
            scope=self._scope,
            make_session=make_session,
            teaches=self._teaches if config.drop_uninformative else lambda group: True,
        )

    def update(self, step: int) -> Update:
        """Play the episodes of a step and learn from them.

        Raises:
            NonFiniteLossError: If a loss or its gradient is not finite; earlier minibatches stay.
            NothingPlayedError: If every episode failed.
        """
        update, self.drawn = self._player.update(step, self.drawn, self._learn)
        if "grad_norm" not in update.metrics and self.accelerator.is_main_process:
            _logger.warning(
                "step %d taught nothing: the episodes of each question had equal rewards, or none "
                "came to an end. A model that is always wrong needs demonstrations first",
                step,
            )
        return update

    def _learn(self, experiences: Sequence[Experience]) -> dict[str, float]:
        """Minibatch after minibatch; each is one optimiser step on every process."""
        lessons = self._lessons(experiences)
        groups = sorted(set(gather_object([one.group for one in lessons])))
        rate, norms = self.optimiser.learning_rate, list[float]()
        statistics: list[PolicyStatistics] = []
        for part in range(self.config.minibatches):
            chosen = set(groups[part :: self.config.minibatches])
            mine = [one for one in lessons if one.group in chosen]
            if not sum(gather_object([one.is_kept for one in mine])):
                self.optimiser.skip()
                continue
            statistics += self._accumulate(mine)
            norms.append(self.optimiser.step())
        metrics = _means(gather_object(statistics))
        if norms:
            metrics["grad_norm"] = float(np.mean(norms))
        return metrics | {"learning_rate": rate}

    def _accumulate(self, lessons: Sequence[_Lesson]) -> list[PolicyStatistics]:
        """Add up the gradients of a minibatch."""
        self.batch, config = [one.sample for one in lessons], self.config
        weights = global_weights(
            self.batch,
            keep=[one.is_kept for one in lessons],
            normalise=config.normalise,
            constant=self._longest_reply if config.normalise == "constant" else None,
        )
        # What carries no loss need not be read.
        kept = [pair for pair in zip(lessons, weights, strict=True) if pair[0].is_kept]
        portions = micro_batches(
            [lesson.sample for lesson, _ in kept],
            config.max_tokens,
            share_prompts=config.share_prompts and self.model.keeps_cache,
        )
        return [self._backward([kept[i] for i in portion]) for portion in portions]

    def _backward(self, pairs: Sequence[tuple[_Lesson, Tensor]]) -> PolicyStatistics:
        """Add the gradients of as many samples as are read at once, with their tokens' weights."""
        config, (lessons, weights) = self.config, zip(*pairs, strict=True)
        samples = [one.sample for one in lessons]
        with self.accelerator.autocast():
            reading = read(
                self.model, samples, scope=self._scope, share_prompts=config.share_prompts
            )
            logprobs = read_out(
                self.model, reading.hidden, reading.batch, temperature=config.temperature
            )
        old = reading.batch.logprob
        if config.ratio == "sequence" and config.minibatches == 1:
            # The model is still the one that played. In bfloat16 it reads with other roundings than
            # it wrote with, and over a sequence they pass clips as narrow as GSPO's.
            old = logprobs.detach()
        table = reading.cut(weights)
        terms = policy_terms(
            logprobs,
            old,
            reading.cut([one.advantages for one in lessons]),
            reading.batch.trained,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            ratio=config.ratio,
        )
        self.optimiser.backward((terms.terms * table).sum())
        return policy_statistics(terms, logprobs.detach(), old.nan_to_num(), table)

    def _lessons(self, experiences: Sequence[Experience]) -> list[_Lesson]:
        """What was played in each role, with what it was worth."""
        if not experiences:
            return []
        return [
            _Lesson(one.group, sample, _of_tokens(sample, advantages), not _is_exceeded(one))
            for one, advantages in zip(
                experiences, self._advantages(experiences).values, strict=True
            )
            for sample in one.samples
        ]

    def _teaches(self, group: Sequence[Experience]) -> bool:
        """Whether a token of a group has an advantage, and is not in an exceeded episode."""
        informative = self._advantages(group).is_informative
        return bool(informative.any()) and not all(_is_exceeded(one) for one in group)

    def _advantages(self, experiences: Sequence[Experience]) -> GroupAdvantages | TurnAdvantages:
        """Of episodes, or of their turns if those are paid."""
        groups = [one.group for one in experiences]
        scale, tolerance = self.config.scale, self.config.tolerance
        if self.config.shaping is None:
            rewards = [one.reward.value for one in experiences]
            return group_advantages(rewards, groups, scale=scale, tolerance=tolerance)
        paid = [self.config.shaping(one.trajectory) for one in experiences]
        for turns, one in zip(paid, experiences, strict=True):
            turns[-1] += one.reward.value
        return turn_advantages(paid, groups, scale=scale, tolerance=tolerance)


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """One role of an episode."""

    group: int
    sample: Sample
    advantages: Tensor
    """float32 [L]."""
    is_kept: bool
    """False for an exceeded episode, whose tokens carry no loss."""


def _of_tokens(sample: Sample, advantages: _Floats) -> Tensor:
    """The advantage of an episode [] or of its turns [T] for each token, float32 [L]."""
    if not advantages.ndim:
        return torch.full((len(sample.tokens),), float(advantages))
    return torch.from_numpy(advantages[sample.turn_of_tokens()].astype(np.float32))


def _check_sequence_ratio(minibatches: int, model: VisionLanguageModel, precision: str) -> None:
    if minibatches == 1:
        _logger.warning(
            "with one minibatch the ratios of sequences are 1 and never clipped: this is GRPO, and "
            "GSPO only with several"
        )
        return
    # Weights beneath an adapter stay as they were saved.
    coarse = {str(p.dtype) for p in model.network.parameters() if p.dtype != torch.float32}
    if precision != "no":
        coarse.add(precision)
    if coarse:
        raise ConfigError(
            f"ratios of sequences are clipped more narrowly than {' and '.join(sorted(coarse))} "
            "rounds them: with several minibatches compute in float32, by --mixed-precision no, "
            "and by --dtype float32 beneath an adapter"
        )


def _is_exceeded(one: Experience) -> bool:
    reason = one.trajectory.end_reason
    return reason is not None and reason.is_exceeded


def _means(statistics: Sequence[PolicyStatistics]) -> dict[str, float]:
    """Over all tokens that were learned from; none if there were none."""
    pooled = PolicyStatistics.pooled(statistics)
    return (
        {}
        if not pooled.tokens
        else {
            "clipped_low": pooled.clipped_low,
            "clipped_high": pooled.clipped_high,
            "approximate_kl": pooled.approximate_kl,
            "mean_ratio": pooled.mean_ratio,
        }
    )
