"""Two real processes over gloo give what one gives."""

import time
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from tests.agents.learning.learners import are_equal, largest_difference
from tests.agents.learning.training_script import MAKERS, learn, started, weights

TOLERANCE = 2e-4
"""Sums in another order differ by about 1e-7 of a gradient. Adam divides a gradient by its own
size, so where it is all but 0 that difference is worth a part of a whole step, which is 1e-3."""


PATIENCE_SECONDS = 100


def output_of(process: Popen[str], *, until: float) -> str:
    """All that it writes, or has written until a monotonic time."""
    try:
        return process.communicate(timeout=max(0.0, until - time.monotonic()))[0]
    except TimeoutExpired:
        process.kill()
        return process.communicate()[0]


@pytest.fixture(scope="module")
def shares(minute_video: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes came to."""
    folder = tmp_path_factory.mktemp("shares")
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    until = time.monotonic() + PATIENCE_SECONDS
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                started("share", minute_video, folder, RANK=rank, LOCAL_RANK=rank, **common)
            )
            for rank in ("0", "1")
        ]
        outputs = [output_of(process, until=until) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", list(MAKERS))
def test_two_processes_come_to_what_one_comes_to(
    minute_video: Path, shares: list[dict[str, Any]], kind: str
) -> None:
    assert [share["processes"] for share in shares] == [2, 2]
    assert are_equal(shares[0][kind], shares[1][kind])
    alone, metrics = learn(kind, minute_video, Accelerator(cpu=True))
    moved = largest_difference(alone, weights(MAKERS[kind](minute_video)))
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


def test_each_process_has_dropout_of_its_own(shares: list[dict[str, Any]]) -> None:
    one, other = (share["dropout"] for share in shares)
    assert abs(one - other) > 1e-3


def test_where_one_process_is_asked_to_stop_all_do_and_the_first_saves(
    shares: list[dict[str, Any]],
) -> None:
    first, last = (share["stopped"] for share in shares)
    assert first["logged"] == first["shown"] == [0, 1] and first["finished"]
    assert first["saved"] == [".step-000002"]
    assert last == {"logged": [], "finished": False, "shown": [], "saved": [], "code": 143}


def test_a_loss_that_is_not_finite_on_one_process_stops_all(shares: list[dict[str, Any]]) -> None:
    for process, share in enumerate(shares):
        complaint = share["bad"]["complaint"]
        assert complaint.startswith("NonFiniteLossError: step 0: the loss is nan.")
        assert f"/bad-batch-000000-{process}.npz" in complaint
        assert share["bad"]["unchanged"]
