"""Supervised fine-tuning on trajectories: make every token that a demonstrator wrote likelier.

Video-o3 trains in two stages, each with a cosine of its own: plain attention first, then with
task-decoupled attention on a share of the batches. Each stage is a run, the second from what the
first one saved. Source: arXiv 2601.23224.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from agents.learning.demonstration_reader import DemonstrationReader
from agents.learning.learner import Update
from agents.learning.micro_batches import micro_batches
from agents.learning.optimiser import Optimiser, OptimiserConfig
from agents.learning.reading import read
from agents.learning.sample import Sample
from agents.llm.context import TokenRole
from agents.llm.decoupling import Scope, TaskDecoupling
from agents.llm.likelihood import read_out
from agents.llm.model import VisionLanguageModel
from videoseek_env.errors import ConfigError, DatasetError, check_counts, check_seed

_logger = logging.getLogger(__name__)

_ROLES = (TokenRole.THINK, TokenRole.GROUNDING, TokenRole.ANSWER)


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTConfig:
    """One stage of supervised fine-tuning.

    Raises:
        ConfigError: If a number is below its least value.
    """

    steps: int = 1000
    """Updates in all."""
    batch_size: int = 32
    """Trajectories of a step, over all processes."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(
            learning_rate=1e-5, schedule="cosine", warmup_share=0.1, train_vision=False
        )
    )
    decoupling: TaskDecoupling | None = None
    """How often to train with task-decoupled attention; None never does: the first stage."""
    max_tokens: int = 16_384
    """Tokens of one forward and backward, which bounds memory; see `micro_batches`."""
    max_context_tokens: int = 40_000
    """Longer trajectories are left out, and counted."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "steps", "batch_size", "max_tokens", "max_context_tokens")
        check_seed(self.seed)


class SFTLearner:
    """Learns from trajectories, each once before any is seen again."""

    def __init__(
        self,
        model: VisionLanguageModel,
        demonstrations: DemonstrationReader,
        config: SFTConfig,
        *,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Prepare to learn.

        Args:
            model: Learns; moved to the accelerator's device.
            demonstrations: Trajectories as samples of this model's tokens.
            config: How.
            accelerator: Device, precision and processes; by default one process.

        Raises:
            ConfigError: If there are no demonstrations.
        """
        if not len(demonstrations):
            raise ConfigError("there are no trajectories to learn from")
        self.model, self.config, self._demonstrations = model, config, demonstrations
        self.modules: Mapping[str, nn.Module] = {}
        self.accelerator = accelerator or Accelerator()
        self.total_steps, self.drawn = config.steps, 0
        self.batch: Sequence[Sample] = ()
        self._unreadable = 0
        model.network.to(self.accelerator.device)
        self.optimiser = Optimiser(
            {"model": model.network},
            config.optimiser,
            total_steps=config.steps,
            accelerator=self.accelerator,
        )

    def update(self, step: int) -> Update:
        """Learn from one batch.

        Raises:
            DatasetError: If twice as many trajectories as there are could not be read, one after
                another.
            NonFiniteLossError: If the loss or its gradient is not finite; nothing has changed.
        """
        started = time.perf_counter()
        self.model.network.train()
        self._seed_dropout(step)
        self.batch, counts = self._next_samples()
        scope, rate = self._scope(step), self.optimiser.learning_rate
        skipped = {"skipped": float(counts["skipped"])}
        if not counts["trained"]:
            self.optimiser.skip()
            self.model.network.eval()
            return Update({"learning_rate": rate, **skipped})
        sums = torch.zeros(len(_ROLES) + 1, 2)
        share = self.model.keeps_cache
        for portion in micro_batches(self.batch, self.config.max_tokens, share_prompts=share):
            with self.accelerator.autocast():
                reading = read(self.model, [self.batch[i] for i in portion], scope=scope)
                logprobs = read_out(self.model, reading.hidden, reading.batch)
            self.optimiser.backward(-logprobs.sum() / counts["trained"])
            sums += _sums_by_role(logprobs.detach(), reading.batch.role, reading.batch.trained)
        norm = self.optimiser.step()
        self.model.network.eval()  # whoever plays it next need not know that it has learned
        return Update(
            {
                **_losses(sum(gather_object([sums]))),
                "grad_norm": norm,
                "learning_rate": rate,
                "decoupled": float(scope is not None),
                **skipped,
                "tokens_per_second": counts["read"] / (time.perf_counter() - started),
            }
        )

    def _scope(self, step: int) -> Scope | None:
        """Whether this step's batch is decoupled: the same on every process."""
        if self.config.decoupling is None:
            return None
        return self.config.decoupling.draw_scope(np.random.default_rng([self.config.seed, 1, step]))

    def _next_samples(self) -> tuple[list[Sample], Counter[str]]:
        """This process's share of the next batch, and what all processes have of it together."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        numbers = range(self.drawn + process, self.drawn + self.config.batch_size, processes)
        samples = [sample for sample in map(self._read, numbers) if sample is not None]
        self.drawn += self.config.batch_size
        own = {
            "trained": sum(sample.trained_tokens for sample in samples),
            "read": sum(len(sample.tokens) for sample in samples),
            "skipped": len(numbers) - len(samples),
        }
        counts: Counter[str] = Counter()
        for share in gather_object([own]):
            counts.update(share)
        self._unreadable = 0 if counts["trained"] else self._unreadable + self.config.batch_size
        if self._unreadable >= 2 * len(self._demonstrations):  # each twice, in any order
            raise DatasetError(
                f"none of {self._unreadable} trajectories could be read; see the log"
            )
        return samples, counts

    def _seed_dropout(self, step: int) -> None:
        """Let a step's dropout, which an adapter may have, be decided by the step alone."""
        seeds = np.random.SeedSequence([self.config.seed, 2, step, self.accelerator.process_index])
        torch.manual_seed(int(seeds.generate_state(1)[0]))

    def _read(self, number: int) -> Sample | None:
        epoch, place = divmod(number, len(self._demonstrations))
        order = np.random.default_rng([self.config.seed, 0, epoch]).permutation(
            len(self._demonstrations)
        )
        try:
            sample = self._demonstrations[int(order[place])]
        except DatasetError as error:
            _logger.warning("left out: %s", error)
            return None
        if len(sample.tokens) > self.config.max_context_tokens:
            _logger.warning(
                "left out: a trajectory of %d tokens passes %d",
                len(sample.tokens),
                self.config.max_context_tokens,
            )
            return None
        return sample


def _losses(sums: Tensor) -> dict[str, float]:
    """Means over tokens, of all and by role."""
    names = ("loss", *(f"loss/{role.name.lower()}" for role in _ROLES))
    return {
        name: float(-logprob / count)
        for name, (logprob, count) in zip(names, sums, strict=True)
        if count
    }


def _sums_by_role(logprobs: Tensor, role: Tensor, trained: Tensor) -> Tensor:
    """Sums and counts of log-probabilities: of all trained tokens, then by role, [R + 1, 2]."""
    masks = [trained, *(trained & (role == wanted) for wanted in _ROLES)]
    return torch.stack(
        [torch.stack([logprobs[mask].sum(), mask.sum().float()]) for mask in masks]
    ).cpu()
