from __future__ import annotations

import pytest
import torch

from agents.learning.from_nothing.optimise import LOG_EVERY_STEPS, optimise


def run(steps: int) -> tuple[torch.Tensor, list[dict[str, float]]]:
    weight = torch.nn.Parameter(torch.tensor(3.0))
    lines: list[dict[str, float]] = []

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        figures = {"number": float(step)} | ({"even": 1.0} if step % 2 == 0 else {})
        return (weight - 1) ** 2, figures

    optimise(
        [weight], loss, steps=steps, learning_rate=0.1, log=lambda line: lines.append(dict(line))
    )
    return weight.detach(), lines


def test_it_descends() -> None:
    weight, _ = run(200)
    assert weight == pytest.approx(1.0, abs=0.05)


def test_logs_are_means_since_the_last_and_the_last_step_is_logged() -> None:
    _, lines = run(LOG_EVERY_STEPS + 3)
    assert [line["step"] for line in lines] == [25, 28]
    # The mean of 0..24, and of 25..27.
    assert [line["number"] for line in lines] == [12.0, 26.0]


def test_a_figure_that_is_not_always_there_is_averaged_over_where_it_is() -> None:
    _, lines = run(LOG_EVERY_STEPS)
    assert lines[0]["even"] == 1.0
