"""Proximal policy optimisation of episodes, with a value head on the policy's own states.

Every token that the model wrote is an action. Advantages are generalised ones whose recursion runs
from written token to written token, over the observations between them as if they were not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from agents.learning.advantages import generalized_advantages
from agents.learning.collecting import CollectorConfig, Experience
from agents.learning.global_weights import global_weights
from agents.learning.learner import Update
from agents.learning.losses import policy_terms, value_terms
from agents.learning.micro_batches import micro_batches
from agents.learning.optimiser import Optimiser, OptimiserConfig
from agents.learning.player import Player
from agents.learning.reading import read
from agents.learning.sample import Sample
from agents.learning.values import Targets, ValueHead, explained_variance, whitened
from agents.llm.likelihood import read_out
from agents.llm.model import VisionLanguageModel
from rewards.credit import CoverageShaping
from rewards.reward import RewardFunction
from videoseek_env.errors import ConfigError, check_counts, check_seed
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig:
    """How a policy and its values learn from single episodes.

    Raises:
        ConfigError: If a number is out of its range.
    """

    steps: int = 100
    """Batches of episodes in all."""
    collector: CollectorConfig = field(
        default_factory=lambda: CollectorConfig(questions=128, group_size=1)
    )
    """Episodes of a step."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    epochs: int = 1
    """How often a batch is gone through."""
    minibatches: int = 4
    """Optimiser steps of each time."""
    clip: float = 0.2
    """Ratios outside 1 - clip to 1 + clip gain nothing further."""
    value_clip: float = 0.2
    """Values move no further than this from what they were, as far as the loss rewards it."""
    value_weight: float = 0.5
    """Of the value loss, beside the policy's."""
    gamma: float = 1.0
    """Discount of a written token."""
    lam: float = 1.0
    """Trade of bias for variance: 0 trusts the values, 1 the rewards. Below 1, what comes of a crop
    hardly reaches the tokens that asked for it, some hundred tokens before: 0.95 to the power of
    100 is 0.006. While values know nothing, only the last turn is then paid, and cropping is
    unlearned. Source: "What's Behind PPO's Collapse in Long-CoT?", arXiv 2503.01491."""
    temperature: float = 1.0
    """Of sampling, and of the likelihood that is trained."""
    shaping: CoverageShaping | None = None
    """Pays turns for what they have shown."""
    max_tokens: int = 16_384
    """Tokens of one forward and backward, which bounds memory; see `micro_batches`."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "steps", "epochs", "minibatches", "max_tokens")
        check_seed(self.seed)
        if not (0 < self.clip <= 1 and self.value_clip > 0):
            raise ConfigError(
                f"expected clip in (0, 1] and value_clip above 0, got {self.clip} and "
                f"{self.value_clip}"
            )
        if not (self.temperature > 0 and 0 < self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ConfigError(
                "expected temperature > 0, gamma in (0, 1] and lam in [0, 1], got "
                f"{self.temperature}, {self.gamma} and {self.lam}"
            )
        if self.shaping is not None and not self.gamma == self.shaping.gamma == 1:
            raise ConfigError(
                "tokens are discounted by gamma, turns by that of shaping: with shaping both are "
                f"1, got {self.gamma} and {self.shaping.gamma}"
            )


class PPOLearner:
    """Plays and learns."""

    def __init__(
        self,
        model: VisionLanguageModel,
        tasks: Sequence[VideoTask],
        config: PPOConfig,
        *,
        session: SessionConfig,
        reward: RewardFunction,
        accelerator: Accelerator | None = None,
        cache: ClipCache | None = None,
    ) -> None:
        """Prepare to learn; arguments as for `GRPOLearner`."""
        self.model, self.config = model, config
        self.accelerator = accelerator or Accelerator()
        self.total_steps, self.drawn = config.steps, 0
        self.batch: Sequence[Sample] = ()
        self.value_head = ValueHead(model.base.config.text_config.hidden_size)
        self.modules: Mapping[str, nn.Module] = {"value_head": self.value_head}
        for module in (model.network, self.value_head):
            module.to(self.accelerator.device)
        self.optimiser = Optimiser(
            {"model": model.network, **self.modules},
            config.optimiser,
            total_steps=config.steps * config.epochs * config.minibatches,
            accelerator=self.accelerator,
        )
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
        )

    def update(self, step: int) -> Update:
        """Play the episodes of a step and learn from them.

        Raises:
            NonFiniteLossError: If a loss or its gradient is not finite; the optimiser steps of
                this update that came before stay.
            NothingPlayedError: If every episode failed.
        """
        learn = partial(self._learn, step=step)
        update, self.drawn = self._player.update(step, self.drawn, learn)
        return update

    def _learn(self, experiences: Sequence[Experience], *, step: int) -> dict[str, float]:
        rate, samples = self.optimiser.learning_rate, [_sample(one) for one in experiences]
        targets = self._targets(experiences)
        white = whitened(targets, process=self.accelerator.process_index)
        names = _names(experiences)
        everyone = sorted(gather_object(names))
        rng = np.random.default_rng([self.config.seed, 2, step])
        losses, norms = list[tuple[float, float]](), list[float]()
        for _ in range(self.config.epochs):
            order = rng.permutation(len(everyone))
            for part in range(self.config.minibatches):
                chosen = {everyone[i] for i in order[part :: self.config.minibatches]}
                if not chosen:
                    self.optimiser.skip()
                    continue
                mine = [i for i, name in enumerate(names) if name in chosen]
                losses.append(
                    self._accumulate([samples[i] for i in mine], [white[i] for i in mine])
                )
                norms.append(self.optimiser.step())
        metrics = {"explained_variance": explained_variance(targets), "learning_rate": rate}
        if norms:
            shares = gather_object([np.mean(losses, axis=0)])
            metrics["policy_loss"], metrics["value_loss"] = np.sum(shares, axis=0).tolist()
            metrics["grad_norm"] = float(np.mean(norms))
        return metrics

    def _accumulate(
        self, samples: Sequence[Sample], targets: Sequence[Targets]
    ) -> tuple[float, float]:
        """Add up the gradients of a minibatch; this process's share of its two losses."""
        self.batch = samples
        weights = global_weights(samples)
        losses = np.zeros(2)
        share = self.model.keeps_cache
        for portion in micro_batches(samples, self.config.max_tokens, share_prompts=share):
            losses += self._backward(
                [samples[i] for i in portion],
                [targets[i] for i in portion],
                [weights[i] for i in portion],
            )
        return float(losses[0]), float(losses[1])

    def _backward(
        self, samples: Sequence[Sample], targets: Sequence[Targets], weights: Sequence[Tensor]
    ) -> tuple[float, float]:
        """Add the gradients of as many samples as are read at once."""
        config = self.config
        with self.accelerator.autocast():
            reading = read(self.model, samples)
            logprobs = read_out(
                self.model, reading.hidden, reading.batch, temperature=config.temperature
            )
        table = reading.cut(weights)
        policy = policy_terms(
            logprobs,
            reading.batch.logprob,
            reading.cut([target.advantages for target in targets]),
            reading.batch.trained,
            clip_low=config.clip,
            clip_high=config.clip,
        )
        value = value_terms(
            self.value_head(reading.hidden),
            reading.cut([target.old_values for target in targets]),
            reading.cut([target.returns for target in targets]),
            clip=config.value_clip,
        )
        losses = (policy.terms * table).sum(), (value * table).sum()
        self.optimiser.backward(losses[0] + config.value_weight * losses[1])
        return losses[0].item(), losses[1].item()

    @torch.no_grad()
    def _targets(self, experiences: Sequence[Experience]) -> list[Targets]:
        """Values as they are before learning, advantages and returns."""
        samples = [_sample(one) for one in experiences]
        found: dict[int, Targets] = {}
        share = self.model.keeps_cache
        for portion in micro_batches(samples, self.config.max_tokens, share_prompts=share):
            with self.accelerator.autocast():
                reading = read(self.model, [samples[i] for i in portion])
            # On the host: going back token by token is many small steps.
            values = self.value_head(reading.hidden).cpu()
            rewards = reading.cut([self._token_rewards(experiences[i]) for i in portion]).cpu()
            trained = reading.batch.trained.cpu()
            advantages, returns = generalized_advantages(
                values, rewards, trained, gamma=self.config.gamma, lam=self.config.lam
            )
            for row, i in enumerate(portion):
                found[i] = Targets(
                    torch.from_numpy(samples[i].tokens["trained"].copy()),
                    *(
                        _uncut(part[row], reading.offsets[row], len(samples[i].tokens))
                        for part in (values, advantages, returns)
                    ),
                )
        return [found[i] for i in range(len(samples))]

    def _token_rewards(self, one: Experience) -> Tensor:
        """The episode's reward at its last written token, shaping at the end of each turn."""
        turns = _sample(one).turn_of_tokens()
        rewards = torch.zeros(len(turns))
        ends = [int(np.flatnonzero(turns == turn)[-1]) for turn in range(turns.max() + 1)]
        if self.config.shaping is not None:
            for end, extra in zip(ends, self.config.shaping(one.trajectory), strict=True):
                rewards[end] += extra
        rewards[ends[-1]] += one.reward.value
        return rewards


def _sample(one: Experience) -> Sample:
    (sample,) = one.samples  # sound, and of a `VideoSession`, which has one role
    return sample


def _names(experiences: Sequence[Experience]) -> list[tuple[int, int]]:
    """Group and number within it of each episode: the same whichever process played it."""
    numbers = Counter[int]()
    names = []
    for one in experiences:
        names.append((one.group, numbers[one.group]))
        numbers[one.group] += 1
    return names


def _uncut(row: Tensor, offset: int, length: int) -> Tensor:
    """The numbers of a row that begins somewhere in a sample, on all tokens of it."""
    whole = torch.zeros(length)
    whole[offset:] = row[: length - offset]
    return whole
