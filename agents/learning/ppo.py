"""Proximal policy optimisation of episodes, with a value head on the policy's own states.

Every token that the model wrote is an action. Advantages are generalised ones whose recursion runs
from written token to written token, over the observations between them as if they were not there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from agents.learning.advantages import generalized_advantages, whiten
from agents.learning.collecting import Collector, CollectorConfig, Experience
from agents.learning.episode_metrics import episode_metrics
from agents.learning.global_weights import global_weights
from agents.learning.learner import Update
from agents.learning.losses import policy_terms, value_terms
from agents.learning.micro_batches import micro_batches
from agents.learning.optimiser import Optimiser, OptimiserConfig
from agents.learning.reading import Reading, read
from agents.learning.sample import Sample
from agents.llm.generation import Sampling
from agents.llm.hf_policy import HFPolicy
from agents.llm.likelihood import read_out
from agents.llm.model import VisionLanguageModel
from rewards.credit import CoverageShaping
from rewards.reward import RewardFunction
from videoseek_env.budget import get_budget
from videoseek_env.errors import ConfigError
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
        default_factory=lambda: CollectorConfig(
            questions=128, group_size=1, drop_uninformative=False
        )
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
    lam: float = 0.95
    """Trade of bias for variance: 0 trusts the values, 1 the rewards."""
    temperature: float = 1.0
    """Of sampling, and of the likelihood that is trained."""
    shaping: CoverageShaping | None = None
    """Pays turns for what they have shown."""
    max_tokens: int = 16_384
    """Tokens of one forward and backward, which bounds memory; see `micro_batches`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.epochs, self.minibatches, self.max_tokens) < 1:
            raise ConfigError(f"steps, epochs, minibatches, max_tokens: at least 1, got {self}")
        if not (self.temperature > 0 and 0 < self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ConfigError(
                f"expected temperature > 0, gamma in (0, 1] and lam in [0, 1], got {self}"
            )


class ValueHead(nn.Module):
    """What is still to be earned, from a hidden state; 0 everywhere before it has learned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values [B, L] of hidden states [B, L, width]: entry t is of the state before token t."""
        values = self.linear(self.norm(hidden.float()))[..., 0]
        return torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Targets:
    """What a sample's tokens are moved towards, float32 [L] each."""

    old_values: Tensor
    advantages: Tensor
    returns: Tensor


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
        longest_reply = get_budget(session.budget).max_reply_tokens
        sampling = Sampling(temperature=config.temperature, max_tokens=longest_reply + 1)
        self._collector = Collector(
            HFPolicy.factory(model, sampling=sampling),
            tasks,
            config.collector,
            session=model.counting(session),
            reward=reward,
            cache=ClipCache(2**29) if cache is None else cache,
            seed=config.seed,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )

    def update(self, step: int) -> Update:
        """Play the episodes of a step and learn from them.

        Raises:
            NonFiniteLossError: If the loss or its gradient is not finite; the optimiser steps of
                this update that came before stay.
        """
        started = time.perf_counter()
        self.model.network.eval()
        collected = self._collector.collect(step, self.drawn)
        played = time.perf_counter()
        self.model.network.train()
        learned = self._learn(collected.experiences, step)
        self.drawn += collected.drawn
        seconds = time.perf_counter() - started
        tokens = sum(len(one.sample.tokens) for one in collected.all_played if one.sample)
        speed = {
            "rollout_seconds": played - started,
            "learning_seconds": seconds - (played - started),
            "tokens_per_second": tokens / seconds,
        }
        return Update({**episode_metrics(collected), **learned, **speed}, collected.all_played)

    def _learn(self, experiences: Sequence[Experience], step: int) -> dict[str, float]:
        samples = [one.sample for one in experiences if one.sample is not None]
        targets = self._targets(experiences, samples)
        rng = np.random.default_rng([self.config.seed, 2, step])
        totals: dict[str, list[float]] = {"policy_loss": [], "value_loss": [], "grad_norm": []}
        for _ in range(self.config.epochs):
            order = rng.permutation(len(samples))
            for part in range(self.config.minibatches):
                chosen = order[part :: self.config.minibatches]
                if not sum(gather_object([len(chosen)])):
                    continue
                losses = self._accumulate(
                    [samples[i] for i in chosen], [targets[i] for i in chosen]
                )
                totals["policy_loss"].append(losses[0])
                totals["value_loss"].append(losses[1])
                totals["grad_norm"].append(self.optimiser.step())
        metrics = {name: float(np.mean(values)) for name, values in totals.items() if values}
        return metrics | {
            "explained_variance": _explained_variance(targets, samples),
            "learning_rate": self.optimiser.learning_rate,
        }

    def _accumulate(
        self, samples: Sequence[Sample], targets: Sequence[_Targets]
    ) -> tuple[float, float]:
        """Add up the gradients of a minibatch; its two losses."""
        self.batch = samples
        weights = global_weights(samples)
        old = [torch.from_numpy(sample.tokens["logprob"].copy()) for sample in samples]
        config, policy_loss, value_loss = self.config, 0.0, 0.0
        for portion in micro_batches(samples, config.max_tokens):
            with self.accelerator.autocast():
                reading = read(self.model, [samples[i] for i in portion])
                logprobs = read_out(
                    self.model, reading.hidden, reading.batch, temperature=config.temperature
                )
            chosen = [targets[i] for i in portion]
            kept = reading.cut([weights[i] for i in portion])
            policy = policy_terms(
                logprobs,
                reading.cut([old[i] for i in portion]),
                reading.cut([target.advantages for target in chosen]),
                reading.batch.trained,
                clip_low=config.clip,
                clip_high=config.clip,
            )
            value = value_terms(
                self.value_head(reading.hidden),
                reading.cut([target.old_values for target in chosen]),
                reading.cut([target.returns for target in chosen]),
                clip=config.value_clip,
            )
            losses = (policy.terms * kept).sum(), (value * kept).sum()
            self.optimiser.backward(losses[0] + config.value_weight * losses[1])
            policy_loss += losses[0].item()
            value_loss += losses[1].item()
        return policy_loss, value_loss

    @torch.no_grad()
    def _targets(
        self, experiences: Sequence[Experience], samples: Sequence[Sample]
    ) -> list[_Targets]:
        """Values as they are before learning, advantages and returns."""
        found: list[_Targets] = [_Targets(*[torch.zeros(0)] * 3)] * len(samples)
        for portion in micro_batches(samples, self.config.max_tokens):
            with self.accelerator.autocast():
                reading = read(self.model, [samples[i] for i in portion])
            values = self.value_head(reading.hidden)
            rewards = reading.cut([self._token_rewards(experiences[i]) for i in portion])
            advantages, returns = generalized_advantages(
                values, rewards, reading.batch.trained, gamma=self.config.gamma, lam=self.config.lam
            )
            for row, i in enumerate(portion):
                found[i] = _Targets(
                    *(
                        _uncut(reading, row, part, samples[i])
                        for part in (values, advantages, returns)
                    )
                )
        return self._whitened(found, samples)

    def _token_rewards(self, one: Experience) -> Tensor:
        """The episode's reward at its last written token, shaping at the end of each turn."""
        if one.sample is None:
            raise ValueError("a failed episode has no tokens")
        turns = one.sample.turn_of_tokens()
        rewards = torch.zeros(len(turns))
        ends = [int(np.flatnonzero(turns == turn)[-1]) for turn in range(turns.max() + 1)]
        if self.config.shaping is not None:
            for end, extra in zip(ends, self.config.shaping(one.trajectory), strict=True):
                rewards[end] += extra
        rewards[ends[-1]] += one.reward.value
        return rewards

    def _whitened(self, targets: Sequence[_Targets], samples: Sequence[Sample]) -> list[_Targets]:
        """Advantages of mean 0 and deviation 1 over the written tokens of all processes."""
        masks = [torch.from_numpy(sample.tokens["trained"].copy()) for sample in samples]
        own = [t.advantages[mask] for t, mask in zip(targets, masks, strict=True)]
        flat = torch.cat(own) if own else torch.zeros(0)
        shares: list[Tensor] = gather_object([flat])
        everyone = torch.cat(shares)
        if not len(everyone):
            return []
        white = whiten(everyone[None], torch.ones(1, len(everyone), dtype=torch.bool))[0]
        mine = torch.split(white, [len(share) for share in shares])[self.accelerator.process_index]
        whitened = []
        for target, mask, part in zip(
            targets, masks, torch.split(mine, [len(a) for a in own]), strict=True
        ):
            advantages = torch.zeros_like(target.advantages)
            advantages[mask] = part
            whitened.append(_Targets(target.old_values, advantages, target.returns))
        return whitened


def _uncut(reading: Reading, row: int, table: Tensor, sample: Sample) -> Tensor:
    """The numbers of one row, on all tokens of its sample."""
    offset = reading.offsets[row]
    whole = torch.zeros(len(sample.tokens))
    whole[offset:] = table[row, : len(sample.tokens) - offset].cpu()
    return whole


def _explained_variance(targets: Sequence[_Targets], samples: Sequence[Sample]) -> float:
    """1 - Var(returns - values) / Var(returns) over written tokens; 0 for constant values."""
    if not samples:
        return 0.0
    masks = [torch.from_numpy(sample.tokens["trained"].copy()) for sample in samples]
    returns = torch.cat([t.returns[mask] for t, mask in zip(targets, masks, strict=True)])
    values = torch.cat([t.old_values[mask] for t, mask in zip(targets, masks, strict=True)])
    spread = returns.var(correction=0)
    if float(spread) == 0.0:
        return 0.0
    return float(1 - (returns - values).var(correction=0) / spread)
