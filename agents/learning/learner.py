"""What every learner is, for the loop that runs, logs and saves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from agents.learning.collecting import Experience
from agents.learning.optimiser import Optimiser
from agents.learning.sample import Sample
from agents.llm.model import VisionLanguageModel


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What one step did."""

    metrics: Mapping[str, float]
    """Named numbers for the logs, of all processes together."""
    experiences: Sequence[Experience] = field(default_factory=tuple)
    """Episodes that this process played for it."""


class Learner(Protocol):
    """Learns step by step; a step's number and the seed decide everything that is random in it."""

    model: VisionLanguageModel
    """What learns."""
    modules: Mapping[str, nn.Module]
    """Networks beside the model's that learn too, such as a value head, by name."""
    optimiser: Optimiser
    total_steps: int
    drawn: int
    """Tasks or demonstrations drawn so far; saved and restored with the checkpoint."""
    batch: Sequence[Sample]
    """What the current step learns from, to be saved if it goes wrong."""

    def update(self, step: int) -> Update:
        """Do one step.

        Raises:
            NonFiniteLossError: If a loss or its gradient is not finite, on every process; the
                optimiser step that it was for has changed nothing.
        """
