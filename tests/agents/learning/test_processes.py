"""Two real processes over gloo give what one gives."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from tests.agents.learning import training_script
from tests.agents.learning.learners import are_equal, fresh_model, largest_difference
from tests.agents.learning.training_script import MAKERS, learn

TOLERANCE = 2e-4
"""Sums in another order differ by about 1e-7 of a gradient. Adam divides a gradient by its own
size, so where it is all but 0 that difference is worth a part of a whole step, which is 1e-3."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def shares(minute_video: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes came to."""
    folder = tmp_path_factory.mktemp("shares")
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, training_script.__file__, "share", minute_video, folder],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", list(MAKERS))
def test_two_processes_come_to_what_one_comes_to(
    minute_video: Path, shares: list[dict[str, Any]], kind: str
) -> None:
    assert [share["processes"] for share in shares] == [2, 2]
    assert are_equal(shares[0][kind], shares[1][kind])
    alone, metrics = learn(kind, minute_video, Accelerator(cpu=True))
    moved = largest_difference(alone, training_script.weights(MAKERS[kind](minute_video)))
    assert moved > 5 * TOLERANCE
    assert largest_difference(alone, shares[0][kind]) < TOLERANCE
    for one, share in zip(metrics, shares[0][f"{kind} metrics"], strict=True):
        assert one.keys() == share.keys()
        for name in one.keys() - {"rollout_seconds", "learning_seconds", "tokens_per_second"}:
            assert share[name] == pytest.approx(one[name], rel=1e-2, abs=1e-4), name


def test_a_process_without_samples_learns_with_the_others(
    minute_video: Path, shares: list[dict[str, Any]]
) -> None:
    """Steps of one trajectory leave the second process nothing."""
    assert are_equal(shares[0]["few"], shares[1]["few"])
    alone, _ = learn("sft", minute_video, Accelerator(cpu=True), batch_size=1)
    assert largest_difference(alone, shares[0]["few"]) < TOLERANCE


def test_a_loss_that_is_not_finite_on_one_process_stops_all(shares: list[dict[str, Any]]) -> None:
    for share in shares:
        assert share["bad"] == "NonFiniteLossError: the loss is nan; unchanged: True"


def test_one_process_gathers_its_own_list() -> None:
    Accelerator(cpu=True)
    assert gather_object([3]) == [3]
    assert fresh_model().network.training is False
