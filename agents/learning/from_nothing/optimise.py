"""One loop for every stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import Final

import torch
from torch import Tensor

BETAS: Final = (0.9, 0.98)
GRADIENT_NORM: Final = 1.0
LOG_EVERY_STEPS: Final = 25

Loss = Callable[[int], tuple[Tensor, Mapping[str, float]]]
"""From the step's number, the loss to descend and what to log."""
Log = Callable[[Mapping[str, float]], None]


def optimise(
    parameters: Iterable[Tensor],
    loss: Loss,
    *,
    steps: int,
    learning_rate: float,
    log: Log,
    warmup_steps: int = 20,
    final_share: float = 0.1,
) -> None:
    """Descend with AdamW: a linear warm-up, then half a cosine.

    Args:
        parameters: What learns.
        loss: Of each step, on data of its own.
        steps: How many.
        learning_rate: At its highest.
        log: Called every 25 steps with means since the last call.
        warmup_steps: Until the highest rate is reached.
        final_share: The last step's share of the highest rate.
    """
    weights = list(parameters)
    optimiser = torch.optim.AdamW(weights, lr=learning_rate, betas=BETAS, weight_decay=0.0)
    seen: dict[str, list[float]] = {}
    started = time.perf_counter()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * _schedule(step, steps, warmup_steps, final_share)
        value, figures = loss(step)
        optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, GRADIENT_NORM)
        optimiser.step()
        for name, figure in figures.items():
            seen.setdefault(name, []).append(figure)
        if (step + 1) % LOG_EVERY_STEPS == 0 or step + 1 == steps:
            seconds = time.perf_counter() - started
            log({"step": step + 1, "seconds": seconds} | {n: fmean(v) for n, v in seen.items()})
            seen = {}


def _schedule(step: int, steps: int, warmup_steps: int, final_share: float) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final_share + (1 - final_share) * (1 + math.cos(math.pi * progress)) / 2
