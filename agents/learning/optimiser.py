"""One optimiser step over all processes: gradients summed, checked, clipped and applied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn

from videoseek_env.errors import ConfigError, VideoSeekError

_REFUSED: Final = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "TP", "XLA")
"""Ways to spread a model over processes that take the optimiser into their own hands."""


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
    """Share of the steps in which the rate grows up to its peak, in [0, 1)."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients longer than that are shortened to it."""
    train_vision: bool = True
    """Whether the vision tower learns too; released models keep theirs frozen. If not, its
    `requires_grad` is switched off, and stays so."""

    def __post_init__(self) -> None:
        is_rate = 0 < self.learning_rate < math.inf
        if not (is_rate and 0 <= self.warmup_share < 1 and self.max_grad_norm > 0):
            raise ConfigError(
                "expected learning_rate and max_grad_norm above 0, the rate finite, and "
                f"warmup_share in [0, 1), got {self.learning_rate}, {self.max_grad_norm} and "
                f"{self.warmup_share}"
            )

    def rate(self, step: int, total_steps: int) -> float:
        """The learning rate of a step; neither the first nor the last one is 0.

        >>> config = OptimiserConfig(learning_rate=1.0, schedule="cosine", warmup_share=0.5)
        >>> [round(config.rate(step, 4), 2) for step in range(4)]
        [0.33, 0.67, 1.0, 0.5]

        Args:
            step: From 0.
            total_steps: Of the run.
        """
        warmup = round(self.warmup_share * total_steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        if self.schedule == "constant":
            return self.learning_rate
        share = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return self.learning_rate * (1 + math.cos(math.pi * share)) / 2


class Optimiser:
    """AdamW over the parameters of some modules, the same on every process.

    Losses are sums over the global batch, weighted so that no process needs to know the others'
    share: gradients are added up over processes, not averaged. `step` and `skip` are for all
    processes to call, as often and in the same order.
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

        Raises:
            ConfigError: If the accelerator scales losses, or shares a model out among processes, or
                if a parameter that learns has less than 32 bits: most updates would be rounded off.
        """
        _check(accelerator)
        self.config, self.total_steps = config, total_steps
        self.steps_done = 0
        """Those that were skipped included."""
        self._is_alone = accelerator.num_processes == 1
        self._refused: list[float] = []
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
        _check_precision(self.parameters)
        if not self._is_alone:
            for parameter in self.parameters:  # a new adapter begins differently on each process
                broadcast(parameter.data)
        self.adamw = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            # Elsewhere than on a CPU the default makes copies of all parameters.
            fused=True if accelerator.device.type == "cuda" else None,
        )

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.config.rate(self.steps_done, self.total_steps)

    def backward(self, loss: Tensor) -> None:
        """Add a part of the loss; `step` refuses one that is not finite, on all processes alike."""
        if bool(torch.isfinite(loss)):
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._refused.append(loss.item())

    def step(self) -> float:
        """Apply the gradients of all processes.

        Returns:
            Their norm before clipping.

        Raises:
            NonFiniteLossError: If it or a loss is NaN or infinite; no parameter has changed.
        """
        refused: list[float] = gather_object(self._refused)
        self._add_up()
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        is_sound = not refused and math.isfinite(norm)
        if is_sound:
            for group in self.adamw.param_groups:
                group["lr"] = self.learning_rate
            self.adamw.step()
            self.steps_done += 1
        self.adamw.zero_grad()
        self._refused = []
        if not is_sound:
            what = f"the loss is {refused[0]}" if refused else f"the gradient's norm is {norm}"
            raise NonFiniteLossError(what)
        return norm

    def skip(self) -> None:
        """Let a step go by in which there is nothing to learn: its part of the schedule is over."""
        self.steps_done += 1

    def _add_up(self) -> None:
        """Sum gradients over processes; what was not touched counts 0, on one process too."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if not self._is_alone:
                torch.distributed.all_reduce(parameter.grad)


def _check_precision(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        if torch.finfo(parameter.dtype).bits < 32:
            raise ConfigError(
                f"weights that learn are float32, got {parameter.dtype}: load the model so and let "
                "the accelerator compute in bf16, or learn a LoRA adapter"
            )


def _check(accelerator: Accelerator) -> None:
    if accelerator.mixed_precision == "fp16":
        raise ConfigError('fp16 needs losses that are scaled: use mixed_precision "bf16" or "no"')
    if accelerator.distributed_type.value in _REFUSED:
        raise ConfigError(
            f"every process needs the whole model, got {accelerator.distributed_type.value}: "
            "launch with --multi_gpu or --cpu alone"
        )
