import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from agents.learning.optimiser import NonFiniteLossError, Optimiser, OptimiserConfig
from tests.agents.learning.learners import are_equal, fresh_model, parameters
from videoseek_env.errors import ConfigError


def optimiser(module: nn.Module, *, total_steps: int = 10, **fields: Any) -> Optimiser:
    config = OptimiserConfig(**{"learning_rate": 0.1, **fields})
    return Optimiser(
        {"net": module}, config, total_steps=total_steps, accelerator=Accelerator(cpu=True)
    )


def linear() -> nn.Linear:
    module = nn.Linear(3, 1)
    nn.init.ones_(module.weight)
    nn.init.zeros_(module.bias)
    return module


def test_parts_of_a_loss_add_up_to_one_step() -> None:
    whole, parts = linear(), linear()
    inputs = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]])
    one, other = optimiser(whole), optimiser(parts)
    one.backward(whole(inputs).square().sum())
    for row in inputs:
        other.backward(parts(row).square().sum())
    assert one.step() == pytest.approx(other.step())
    assert all(
        torch.allclose(a, b) for a, b in zip(parameters(whole), parameters(parts), strict=True)
    )
    assert not are_equal(parameters(whole), parameters(linear()))


def test_the_norm_is_told_as_it_was_and_long_gradients_are_shortened() -> None:
    module = linear()
    found = optimiser(module, max_grad_norm=0.5)
    # d/dw of w . (3, 4, 0) is (3, 4, 0) and d/db is 0 with a bias that is not used.
    found.backward((module.weight * torch.tensor([3.0, 4.0, 0.0])).sum())
    before = found.adamw.step
    seen: list[float] = []

    def step() -> None:
        seen.append(
            float(
                torch.cat([p.grad.flatten() for p in found.parameters if p.grad is not None]).norm()
            )
        )
        before()

    found.adamw.step = step  # type: ignore[method-assign,assignment]
    assert found.step() == pytest.approx(5.0)
    assert seen == [pytest.approx(0.5, rel=1e-4)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing_and_leaves_nothing_behind(bad: float) -> None:
    module = linear()
    found = optimiser(module, weight_decay=0.1)
    found.backward(module(torch.ones(3)).sum())
    found.backward(module(torch.ones(3)).sum() * bad)
    with pytest.raises(NonFiniteLossError, match=f"the loss is {bad}"):
        found.step()
    assert are_equal(parameters(module), parameters(linear()))
    found.backward(module(torch.ones(3)).sum())
    assert found.step() == pytest.approx(2.0)  # three ones, and the bias: nothing of before


def test_a_gradient_that_is_not_finite_is_refused_too() -> None:
    module = linear()
    found = optimiser(module)
    # The root of 0 is 0, and its slope infinite.
    found.backward((module.bias * 0.0).sqrt().sum())
    with pytest.raises(NonFiniteLossError, match="the gradient's norm is"):
        found.step()
    assert are_equal(parameters(module), parameters(linear()))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_rate_grows_then_stays_or_falls(schedule: Any) -> None:
    config = OptimiserConfig(learning_rate=2.0, schedule=schedule, warmup_share=0.4)
    rates = [config.rate(step, 10) for step in range(10)]
    # Four steps up: 1/5 to 4/5 of the peak.
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    if schedule == "constant":
        assert rates[5:] == [2.0] * 5
    else:
        expected = [1 + math.cos(math.pi * k / 6) for k in range(1, 6)]
        assert rates[5:] == pytest.approx(expected)


def test_steps_go_by_at_the_rate_of_the_schedule_also_where_nothing_is_learned() -> None:
    module = linear()
    found = optimiser(module, total_steps=4, schedule="cosine")
    rates = []
    for step in range(4):
        rates.append(found.learning_rate)
        if step == 1:
            found.skip()
            continue
        before = parameters(module)
        found.backward(module(torch.ones(3)).sum())
        found.step()
        # Adam's step of a constant gradient is the rate itself.
        moved = float((before[0] - parameters(module)[0]).abs().max())
        assert moved == pytest.approx(rates[-1], rel=1e-3)
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])


def test_what_no_loss_touched_is_as_if_its_gradient_were_zero() -> None:
    module = linear()
    found = optimiser(module, weight_decay=0.5)
    found.backward(module.weight.sum())
    found.step()
    assert found.adamw.state[module.bias]["step"] == 1.0


def test_adamw_is_what_was_configured() -> None:
    found = optimiser(linear(), betas=(0.7, 0.8), weight_decay=0.3).adamw.defaults
    assert (found["betas"], found["weight_decay"]) == ((0.7, 0.8), 0.3)


def test_a_frozen_tower_and_what_peft_froze_do_not_learn() -> None:
    model = fresh_model()
    names = {name for name, _ in model.network.named_parameters()}
    model.base.lm_head.weight.requires_grad_(False)  # tied: the embedding is the same tensor
    found = Optimiser(
        {"model": model.network},
        OptimiserConfig(train_vision=False),
        total_steps=1,
        accelerator=Accelerator(cpu=True),
    )
    learned = {id(parameter) for parameter in found.parameters}
    for name, parameter in model.network.named_parameters():
        assert (id(parameter) in learned) == ("visual" not in name and "embed_tokens" not in name)
    assert 0 < len(learned) < len(names)


@pytest.mark.parametrize(
    "fields",
    [{"learning_rate": 0.0}, {"warmup_share": 1.0}, {"max_grad_norm": -1.0},
     {"learning_rate": np.nan}, {"learning_rate": np.inf}],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected learning_rate and max_grad_norm above 0"):
        OptimiserConfig(**fields)


@pytest.mark.parametrize(
    ("precision", "spread", "message"),
    [
        ("fp16", "NO", "use mixed_precision"),
        *(("no", kind, f"the whole model, got {kind}")
          for kind in ("DEEPSPEED", "FSDP", "MEGATRON_LM", "TP", "XLA")),
    ],
)  # fmt: skip
def test_losses_to_be_scaled_and_models_in_pieces_are_refused(
    precision: str, spread: str, message: str
) -> None:
    accelerator: Any = SimpleNamespace(
        mixed_precision=precision, distributed_type=SimpleNamespace(value=spread)
    )
    with pytest.raises(ConfigError, match=message):
        Optimiser({"net": linear()}, OptimiserConfig(), total_steps=1, accelerator=accelerator)


def test_weights_that_would_round_updates_off_are_refused() -> None:
    modules = {"net": linear().to(torch.bfloat16)}
    accelerator = Accelerator(cpu=True)
    with pytest.raises(ConfigError, match=r"float32, got torch\.bfloat16"):
        Optimiser(modules, OptimiserConfig(), total_steps=1, accelerator=accelerator)
    modules["net"].weight.requires_grad_(False)
    modules["net"].bias.data = modules["net"].bias.data.float()  # as an adapter's are
    Optimiser(modules, OptimiserConfig(), total_steps=1, accelerator=accelerator)
