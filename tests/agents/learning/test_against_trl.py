"""The same batch through TRL's `GRPOTrainer` and through our functions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("trl", reason="TRL is an extra")

import datasets
import trl

from agents.learning.advantages import group_advantages
from agents.learning.losses import (
    Normalise,
    Ratio,
    kl_terms,
    policy_statistics,
    policy_terms,
    token_weights,
)
from agents.llm.tiny import TinyConfig, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*importance_sampling_level.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]

LONGEST = 12
METHODS: list[tuple[str, Ratio, Normalise]] = [
    ("dapo", "token", "tokens"),
    ("grpo", "token", "sequences"),
    ("dr_grpo", "token", "constant"),
    ("grpo", "sequence", "sequences"),  # GSPO
    ("dapo", "sequence", "tokens"),
    ("dr_grpo", "sequence", "constant"),
]
"""Their loss type and both our ratios' level; our normalisation."""


def trainer(folder: Path, *, reward: Any = len, **options: Any) -> Any:
    """A real trainer of the tiny model; its steps are 8 rows long."""
    tokenizer = tiny_tokenizer()
    config = trl.GRPOConfig(
        output_dir=str(folder),
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=LONGEST,
        epsilon=0.2,
        epsilon_high=0.3,
        report_to="none",
        use_cpu=True,
        bf16=False,
        **options,
    )
    return trl.GRPOTrainer(
        tiny_model(TinyConfig(layers=1, vision_layers=1), tokenizer=tokenizer),
        reward_funcs=reward,
        args=config,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["What ?"] * 8}),
        processing_class=tokenizer,
    )


def batch() -> dict[str, Tensor]:
    """8 replies with an observation in between and padding behind; ratios beyond both clips."""
    generator = torch.Generator().manual_seed(0)
    shape, exact = (8, LONGEST), {"generator": generator, "dtype": torch.float64}
    old = -3 * torch.rand(shape, **exact) - 0.5
    at, lengths = torch.arange(LONGEST), torch.randint(4, LONGEST + 1, (8, 1), generator=generator)
    return {
        "old": old,
        "new": old + 0.4 * torch.randn(shape, **exact) + 0.4 * torch.randn(8, 1, **exact),
        "reference": old + 0.4 * torch.randn(shape, **exact),
        "completion": (at < lengths).int(),
        "tool": ((at < 2) | (at >= 5)).int().expand(shape),
        "advantages": torch.randn(8, **exact),
    }


def trained_of(data: dict[str, Tensor]) -> Tensor:
    return (data["completion"] * data["tool"]).bool()


def theirs(judge: Any, data: dict[str, Tensor], *, micro_batches: int = 1) -> tuple[float, Tensor]:
    """TRL's loss of one step, and its gradient by each log-probability."""
    judge.model.train()
    judge.current_gradient_accumulation_steps = micro_batches
    judge.args.steps_per_generation = micro_batches
    ids, losses, gradients = torch.ones((8, LONGEST), dtype=torch.long), [], []
    for rows in torch.arange(8).chunk(micro_batches):
        leaf = data["new"][rows].requires_grad_()
        # The model's forward is passed over; all that follows it is TRL's.
        forward = (leaf, torch.zeros_like(leaf), None)
        judge._get_per_token_logps_and_entropies = lambda *_, forward=forward, **__: forward
        inputs = {
            "prompt_ids": ids[rows, :1],
            "prompt_mask": ids[rows, :1],
            "completion_ids": ids[rows],
            "completion_mask": data["completion"][rows],
            "tool_mask": data["tool"][rows],
            "advantages": data["advantages"][rows],
            "old_per_token_logps": data["old"][rows],
            "ref_per_token_logps": data["reference"][rows],
            "num_items_in_batch": trained_of(data).sum(),
        }
        loss = judge.compute_loss(judge.model, inputs)
        gradients += torch.autograd.grad(loss, leaf)
        losses.append(loss.item())
    return sum(losses), torch.cat(gradients)


def ours(
    data: dict[str, Tensor], weights: Tensor, *, ratio: Ratio = "token", kl: float = 0.0
) -> tuple[float, Tensor]:
    """Our loss and gradient of the same."""
    new = data["new"].clone().requires_grad_()
    terms = policy_terms(new, data["old"], data["advantages"], trained_of(data), ratio=ratio).terms
    loss = ((terms + kl * kl_terms(new, data["reference"])) * weights).sum()
    (gradient,) = torch.autograd.grad(loss, new)
    return loss.item(), gradient


def assert_same(mine: tuple[float, Tensor], judges: tuple[float, Tensor]) -> None:
    assert mine[0] == pytest.approx(judges[0], abs=1e-6)
    torch.testing.assert_close(mine[1], judges[1], rtol=0, atol=1e-6)
    # At least 20 of at most 96 log-probabilities are pulled at.
    assert (judges[1].abs() > 1e-4).sum() >= 20


@pytest.mark.parametrize(("loss_type", "ratio", "normalise"), METHODS)
def test_loss_and_gradients_are_trls_however_the_batch_is_split(
    loss_type: str, ratio: Ratio, normalise: Normalise, tmp_path: Path
) -> None:
    judge = trainer(tmp_path, loss_type=loss_type, importance_sampling_level=ratio)
    data = batch()
    weights = token_weights(trained_of(data), normalise=normalise, constant=LONGEST)
    for micro_batches in (1, 2, 8):
        judges = theirs(judge, data, micro_batches=micro_batches)
        assert_same(ours(data, weights, ratio=ratio), judges)


@pytest.mark.parametrize(("loss_type", "ratio", "normalise"), METHODS[:3])
def test_rows_that_are_not_kept_count_as_trls_truncated_ones(
    loss_type: str, ratio: Ratio, normalise: Normalise, tmp_path: Path
) -> None:
    judge = trainer(tmp_path, loss_type=loss_type)
    data = batch()
    keep = torch.arange(8) % 4 != 0
    weights = token_weights(trained_of(data), keep=keep, normalise=normalise, constant=LONGEST)
    # What `mask_truncated_completions` does to a reply that was cut.
    truncated = data | {"completion": data["completion"] * keep[:, None]}
    assert_same(ours(data, weights), theirs(judge, truncated))


def test_the_kl_term_is_trls(tmp_path: Path) -> None:
    judge, data = trainer(tmp_path, use_bias_correction_kl=False), batch()
    judge.beta = 0.3  # as an argument it asks for a reference model on disk, whose scores we give
    weights = token_weights(trained_of(data))
    assert_same(ours(data, weights, kl=0.3), theirs(judge, data))
    assert ours(data, weights, kl=0.3)[0] > ours(data, weights)[0] + 0.01


def test_the_shares_of_clipped_tokens_are_trls(tmp_path: Path) -> None:
    judge, data = trainer(tmp_path, loss_type="dapo"), batch()
    theirs(judge, data)
    trained = trained_of(data)
    terms = policy_terms(data["new"], data["old"], data["advantages"], trained)
    statistics = policy_statistics(terms, data["new"], data["old"], token_weights(trained))
    logged = judge._metrics["train"]
    assert [statistics.clipped_low] == pytest.approx(logged["clip_ratio/low_mean"], abs=1e-6)
    assert [statistics.clipped_high] == pytest.approx(logged["clip_ratio/high_mean"], abs=1e-6)
    assert statistics.clipped_low > 0.02 and statistics.clipped_high > 0.02


REWARDS = [0.0, 2.5, 1.0, 2.75, 1.5, 1.5, 1.5, 0.5]


@pytest.mark.parametrize("scale", ["group", "none"])
def test_advantages_are_trls(scale: str, tmp_path: Path) -> None:
    judge = trainer(
        tmp_path, reward=lambda prompts, **_: REWARDS[: len(prompts)], scale_rewards=scale
    )
    scored = judge._generate_and_score_completions([{"prompt": "What ?"}] * 8)
    mine = group_advantages(REWARDS, [0] * 4 + [1] * 4, scale="std" if scale == "group" else "none")
    deviation = np.std(np.reshape(REWARDS, (2, 4)), axis=1, ddof=1).repeat(4)
    # The epsilon beside the std is 1e-4 there and 1e-6 here.
    factor = (deviation + 1e-6) / (deviation + 1e-4) if scale == "group" else 1.0
    np.testing.assert_allclose(mine.values * factor, scored["advantages"].numpy(), atol=1e-6)
