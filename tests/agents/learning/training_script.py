"""Trains in a process of its own: one that is killed and started again, or one of several.

Usage: training_script.py resume KIND VIDEO FOLDER, or training_script.py share VIDEO FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from agents.learning.collecting import CollectorConfig
from agents.learning.running import RunConfig, latest_checkpoint, run
from agents.learning.tracking import make_trackers
from agents.llm.decoupling import TaskDecoupling
from agents.llm.model import VisionLanguageModel
from tests.agents.learning.learners import fresh_model, grpo, parameters, ppo, sft

MAKERS: dict[str, Callable[..., Any]] = {"grpo": grpo, "ppo": ppo, "sft": sft}
SETTINGS: dict[str, dict[str, Any]] = {
    "grpo": {"minibatches": 2, "collector": CollectorConfig(questions=3, group_size=3)},
    "ppo": {"minibatches": 2, "epochs": 2},
    "sft": {"batch_size": 3, "decoupling": TaskDecoupling(probability=0.5)},
}


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


def share(video: Path, folder: Path) -> None:
    """Learn as one of several processes; each leaves what it came to."""
    accelerator = Accelerator(cpu=True)
    found: dict[str, Any] = {"processes": accelerator.num_processes}
    for kind in MAKERS:
        found[kind], found[f"{kind} metrics"] = learn(kind, video, accelerator)
    found["few"] = learn("sft", video, accelerator, batch_size=1)[0]
    found["bad"] = refused(video, accelerator)
    torch.save(found, folder / f"{accelerator.process_index}.pt")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def learn(kind: str, video: Path, accelerator: Accelerator, **fields: Any) -> Any:
    """Two steps of a learner that samples nothing, else one.

    What processes differ by in the last digit after a step may make a later one sample another
    token, and from there on everything is another run.
    """
    steps = 2 if kind == "sft" else 1
    learner = MAKERS[kind](video, accelerator=accelerator, **{**SETTINGS[kind], **fields})
    metrics = [dict(learner.update(step).metrics) for step in range(steps)]
    return weights(learner), metrics


def refused(video: Path, accelerator: Accelerator) -> str:
    """What comes of a loss that is NaN on the last process alone."""
    learner = grpo(video, accelerator=accelerator)
    before, backward = weights(learner), learner.optimiser.backward
    if accelerator.is_last_process:
        learner.optimiser.backward = lambda loss: backward(loss * torch.nan)  # type: ignore[method-assign]
    try:
        learner.update(0)
    except ArithmeticError as error:
        same = all(torch.equal(a, b) for a, b in zip(before, weights(learner), strict=True))
        return f"{type(error).__name__}: {error}; unchanged: {same}"
    return "nothing was raised"


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "share":
        share(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        go_on(
            sys.argv[2],
            Path(sys.argv[3]),
            Path(sys.argv[4]),
            show=lambda step, update: print(step, flush=True),
        )
