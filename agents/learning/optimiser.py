"""One optimiser step over all processes: gradients summed, checked, clipped and applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from videoseek_env.errors import ConfigError, VideoSeekError


class NonFiniteLossError(VideoSeekError, ArithmeticError):
    """A loss or its gradient is NaN or infinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserConfig:
    """AdamW and its schedule.

    Raises:
        ConfigError: If a number is out of its range.
    """

    learning_rate: float = 1e-6
    """At its peak."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: stay, or fall to zero along half a cosine."""
    warmup_share: float = 0.0
    """Share of the steps in which the rate grows from zero, in [0, 1)."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients longer than that are shortened to it."""
    train_vision: bool = True
    """Whether the vision tower learns too; released models keep theirs frozen."""

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and 0 <= self.warmup_share < 1 and self.max_grad_norm > 0):
            raise ConfigError(
                "expected learning_rate and max_grad_norm above 0 and warmup_share in [0, 1), got "
                f"{self}"
            )


class Optimiser:
    """AdamW over the parameters of some modules, the same on every process.

    Losses are sums over the global batch, weighted so that no process needs to know the others'
    share: gradients are added up over processes, not averaged.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        config: OptimiserConfig,
        *,
        total_steps: int,
        accelerator: Accelerator,
    ) -> None:
        """Prepare the optimiser.

        Args:
            modules: What learns. Parameters with `requires_grad` off, as peft leaves them, do not.
            config: Its settings.
            total_steps: Optimiser steps of the whole run, for the schedule.
            accelerator: Device, precision and processes.
        """
        self.config, self.accelerator = config, accelerator
        if not config.train_vision:
            for module in modules.values():
                for name, parameter in module.named_parameters():
                    if ".visual." in f".{name}":
                        parameter.requires_grad_(False)
        self.parameters = [
            parameter
            for module in modules.values()
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        self.adamw = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        warmup = round(config.warmup_share * total_steps)
        if config.schedule == "cosine":
            self.schedule = get_cosine_schedule_with_warmup(self.adamw, warmup, total_steps)
        else:
            self.schedule = get_constant_schedule_with_warmup(self.adamw, warmup)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def backward(self, loss: Tensor) -> None:
        """Add a part of the loss.

        Raises:
            NonFiniteLossError: If it is NaN or infinite.
        """
        if not bool(torch.isfinite(loss)):
            raise NonFiniteLossError(f"the loss is {loss.item()}")
        self.accelerator.backward(loss)

    def step(self) -> float:
        """Apply the gradients of all processes.

        Returns:
            Their norm before clipping.

        Raises:
            NonFiniteLossError: If it is NaN or infinite; no parameter has changed.
        """
        self._add_up()
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not torch.isfinite(torch.tensor(norm)):
            raise NonFiniteLossError(f"the gradient's norm is {norm}")
        self.adamw.step()
        self.schedule.step()
        self.adamw.zero_grad()
        return norm

    def _add_up(self) -> None:
        """Sum gradients over processes in one exchange; what a process has not touched counts 0."""
        if self.accelerator.num_processes == 1:
            return
        parts = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in self.parameters]
        total: Any = self.accelerator.reduce(torch.cat([part.flatten() for part in parts]))
        for parameter, part in zip(
            self.parameters, torch.split(total, [p.numel() for p in self.parameters]), strict=True
        ):
            parameter.grad = part.view_as(parameter)
