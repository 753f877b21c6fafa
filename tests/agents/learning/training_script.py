"""Trains in a process of its own: one that hangs in a save, to be killed, or one of several.

Usage: training_script.py hang KIND VIDEO FOLDER, or training_script.py share VIDEO FOLDER.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from agents.learning.collecting import CollectorConfig
from agents.learning.learner import Update
from agents.learning.running import RunConfig, latest_checkpoint, run
from agents.learning.tracking import make_trackers
from agents.llm.decoupling import TaskDecoupling
from agents.llm.model import VisionLanguageModel
from tests.agents.learning.learners import (
    are_equal,
    demonstrations,
    fresh_model,
    grpo,
    make_tasks,
    parameters,
    ppo,
    sft,
)

MAKERS: dict[str, Callable[..., Any]] = {"grpo": grpo, "ppo": ppo, "sft": sft}
SETTINGS: dict[str, dict[str, Any]] = {
    "grpo": {"minibatches": 2, "collector": CollectorConfig(questions=3, group_size=3)},
    "ppo": {"minibatches": 2, "epochs": 2},
    "sft": {"batch_size": 3, "decoupling": TaskDecoupling(probability=0.5)},
}


@contextmanager
def started(*arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run this script; it is killed where the block ends."""
    with subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Notes:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.steps: list[int | None] = []
        self.is_finished = False

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        self.steps.append(step)

    def finish(self) -> None:
        self.is_finished = True


def weights(learner: Any) -> list[Tensor]:
    return parameters(learner.model.network, *learner.modules.values())


def go_on(kind: str, video: Path, folder: Path, *, steps: int = 6, **options: Any) -> Any:
    """Begin a run, or go on with it, to its end; the learner."""
    accelerator = Accelerator(cpu=True)
    saved = latest_checkpoint(folder)
    model = fresh_model() if saved is None else VisionLanguageModel.from_pretrained(saved / "model")
    learner = MAKERS[kind](video, model, accelerator=accelerator, steps=steps, **SETTINGS[kind])
    run(
        learner,
        RunConfig(folder=folder, save_every=1),
        accelerator=accelerator,
        checkpoint=saved,
        trackers=lambda done: make_trackers(folder, config={}, resume_from=done),
        **options,
    )
    return learner


def hang(draft: Path) -> None:
    """Say so in the middle of the third save, and wait."""
    if draft.name.startswith(".step-000003"):
        print("saving", flush=True)
        signal.pause()


def share(video: Path, folder: Path) -> None:
    """Learn as one of several processes; each leaves what it came to."""
    # Whoever waits for another one that has gone astray gives up.
    meeting = InitProcessGroupKwargs(
        backend="gloo", init_method=f"file://{folder}/meeting", timeout=timedelta(seconds=60)
    )
    accelerator = Accelerator(cpu=True, kwargs_handlers=[meeting])
    # All learn what the first one begins with.
    seed = accelerator.process_index
    found: dict[str, Any] = {"processes": accelerator.num_processes}
    for kind in MAKERS:
        found[kind], found[f"{kind} metrics"] = learn(kind, video, accelerator, seed=seed)
    found["few"] = learn("sft", video, accelerator, seed=seed, batch_size=1)[0]
    found["dropout"] = loss_under_dropout(video, accelerator)
    found["stopped"] = stopped(video, folder / "stopped", accelerator)
    found["bad"] = refused(video, folder / "bad", accelerator)
    torch.save(found, folder / f"{accelerator.process_index}.pt")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def learn(kind: str, video: Path, accelerator: Accelerator, *, seed: int = 0, **fields: Any) -> Any:
    """Two steps of a learner that samples nothing, else one.

    What processes differ by in the last digit after a step may make a later one sample another
    token, and from there on everything is another run.
    """
    steps = 2 if kind == "sft" else 1
    model = fresh_model(seed=seed)
    learner = MAKERS[kind](video, model, accelerator=accelerator, **{**SETTINGS[kind], **fields})
    metrics = [dict(learner.update(step).metrics) for step in range(steps)]
    return weights(learner), metrics


def loss_under_dropout(video: Path, accelerator: Accelerator) -> float:
    """This process's part of a loss, where each has the same to learn from."""
    twins = demonstrations(make_tasks(video, 1)) * accelerator.num_processes
    learner = sft(video, trajectories=twins, batch_size=len(twins), accelerator=accelerator)
    layer = learner.model.base.model.language_model.layers[0]
    layer.mlp.register_forward_hook(lambda mlp, inputs, output: nn.functional.dropout(output))
    losses, backward = list[float](), learner.optimiser.backward
    learner.optimiser.backward = lambda loss: losses.append(loss.item()) or backward(loss)  # type: ignore[method-assign,func-returns-value]
    learner.update(0)
    return sum(losses)


def stopped(video: Path, folder: Path, accelerator: Accelerator) -> dict[str, Any]:
    """What a process did in a run whose last process alone is asked to stop in its second step."""
    learner = sft(video, accelerator=accelerator)
    notes, shown, saved = Notes(), list[int](), list[str]()
    code, update = None, learner.update

    def update_and_ask(step: int) -> Update:
        if step == 1 and accelerator.is_last_process:
            signal.raise_signal(signal.SIGTERM)
        return update(step)

    learner.update = update_and_ask  # type: ignore[method-assign]
    try:
        run(
            learner,
            RunConfig(folder=folder),
            accelerator=accelerator,
            trackers=lambda done: [notes],
            show=lambda step, update: shown.append(step),
            annotate=lambda draft: saved.append(draft.name[: len(".step-000000")]),
        )
    except SystemExit as stop:
        code = stop.code
    logged = {"logged": notes.steps, "finished": notes.is_finished}
    return {**logged, "shown": shown, "saved": saved, "code": code}


def refused(video: Path, folder: Path, accelerator: Accelerator) -> dict[str, Any]:
    """What comes of a run whose loss is NaN on the last process alone."""
    learner = grpo(video, accelerator=accelerator)
    before, backward = weights(learner), learner.optimiser.backward
    if accelerator.is_last_process:
        learner.optimiser.backward = lambda loss: backward(loss * torch.nan)  # type: ignore[method-assign]
    complaint = ""
    try:
        run(learner, RunConfig(folder=folder), accelerator=accelerator)
    except ArithmeticError as error:
        complaint = f"{type(error).__name__}: {error}"
    return {"complaint": complaint, "unchanged": are_equal(before, weights(learner))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "share":
        share(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        go_on(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), annotate=hang)
