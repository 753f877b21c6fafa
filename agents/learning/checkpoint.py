"""Checkpoints: complete or not there, whatever kills the process or fills the disk.

A checkpoint is a folder `step-000100` with the model as `save_pretrained` writes it (`model/`, to
be loaded by any name that takes a folder), the optimiser, other networks that learn, and where the
run was. It is written under another name and renamed when all of it is on the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agents.learning.learner import Learner
from videoseek_env.errors import ConfigError

_PREFIX = "step-"


def save_checkpoint(
    learner: Learner,
    folder: Path,
    *,
    step: int,
    keep: int,
    annotate: Callable[[Path], object] = lambda draft: None,
) -> Path:
    """Write a checkpoint, and delete all but the last few.

    Args:
        learner: What to save.
        folder: Holds the checkpoints of a run.
        step: Steps that are done.
        keep: How many to leave, at least 1.
        annotate: Called with the folder before it is complete, to add files to it.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: If the disk is full, say: earlier checkpoints are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{_PREFIX}{step:06d}-{uuid.uuid4().hex}"
    final = folder / f"{_PREFIX}{step:06d}"
    try:
        _write(learner, draft, step)
        annotate(draft)
        for path in (*draft.rglob("*"), draft):
            _sync(path)
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
        _sync(folder)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, SafetensorError):
            raise OSError(f"can't write {final}: {error}") from error
        raise
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, the latest last."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def restore(learner: Learner, checkpoint: Path) -> int:
    """Give a learner the state that was saved; its model was loaded from `model/` already.

    Returns:
        The steps that are done.

    Raises:
        ConfigError: If the checkpoint is of another learner, or of a run of another length.
    """
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if state["total_steps"] != learner.total_steps:
        raise ConfigError(
            f"{checkpoint} is of a run of {state['total_steps']} steps, this one has "
            f"{learner.total_steps}: the schedule would be another. Start a new run from its model"
        )
    moments = load_file(checkpoint / "optimiser.safetensors")
    _load_moments(learner, moments, state["optimiser"])
    learner.optimiser.schedule.load_state_dict(state["schedule"])
    for name, module in learner.modules.items():
        module.load_state_dict(load_file(checkpoint / f"{name}.safetensors"))
    learner.drawn = state["drawn"]
    return int(state["step"])


def _write(learner: Learner, draft: Path, step: int) -> None:
    learner.model.save_pretrained(draft / "model")
    for name, module in learner.modules.items():
        tensors = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(tensors, draft / f"{name}.safetensors")
    adamw = learner.optimiser.adamw.state_dict()
    moments = {
        f"{index}.{name}": torch.as_tensor(value).contiguous()
        for index, entry in adamw["state"].items()
        for name, value in entry.items()
    }
    save_file(moments, draft / "optimiser.safetensors")
    state = {
        "step": step,
        "total_steps": learner.total_steps,
        "drawn": learner.drawn,
        "optimiser": adamw["param_groups"],
        "schedule": _plain(learner.optimiser.schedule.state_dict()),
    }
    (draft / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def _load_moments(learner: Learner, moments: dict[str, torch.Tensor], groups: Any) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in moments.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    sizes = [entry["exp_avg"].shape for _, entry in sorted(state.items())]
    shapes = [parameter.shape for parameter in learner.optimiser.parameters]
    if state and sizes != shapes:
        raise ConfigError(
            f"the checkpoint's optimiser is of {len(sizes)} parameters of other shapes than this "
            f"model's {len(shapes)}"
        )
    learner.optimiser.adamw.load_state_dict({"state": state, "param_groups": groups})


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """What JSON can hold: the schedule's functions are made anew."""
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, int | float | list) and key != "lr_lambdas"
    }


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
