"""Checkpoints: complete or not there, whatever kills the process or fills the disk.

A checkpoint is a folder `step-000100` with the model as `save_pretrained` writes it (`model/`, to
be loaded by any name that takes a folder), the optimiser, other networks that learn, and where the
run was. It is written under another name and renamed when all of it is on the disk. What is to go
is renamed before it is deleted: no half of a checkpoint ever bears the name of one.
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
    """Write a checkpoint, and delete all but the last few up to it.

    Those of later steps go too: the run went on from an earlier one, and theirs is another.

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
    for rubbish in folder.glob(f".{_PREFIX}*"):  # of a process that was killed
        shutil.rmtree(rubbish, ignore_errors=True)
    draft = folder / f".{_PREFIX}{step:06d}-{uuid.uuid4().hex}"
    final = folder / f"{_PREFIX}{step:06d}"
    try:
        _write(learner, draft, step)
        annotate(draft)
        for path in (*draft.rglob("*"), draft):
            _sync(path)
        if final.exists():
            _delete(final)
        draft.rename(final)
        _sync(folder)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        # tokenizers raises no more than an `Exception`.
        if isinstance(error, SafetensorError) or type(error) is Exception:
            raise OSError(f"can't write {final}: {error}") from error
        raise
    saved = checkpoints(folder)
    place = saved.index(final)
    for old in (*saved[: max(0, place + 1 - keep)], *saved[place + 1 :]):
        _delete(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, the latest last."""
    names = [path for path in folder.glob(f"{_PREFIX}*") if path.name[len(_PREFIX) :].isdecimal()]
    return sorted(names, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The steps that were done when a checkpoint was saved."""
    return int(checkpoint.name[len(_PREFIX) :])


def restore(learner: Learner, checkpoint: Path) -> int:
    """Give a learner the state that was saved; its model was loaded from `model/` already.

    Returns:
        The steps that are done.

    Raises:
        ConfigError: If the checkpoint is of another learner, or of a run of another length.
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        moments = load_file(checkpoint / "optimiser.safetensors")
        networks = {name: load_file(checkpoint / f"{name}.safetensors") for name in learner.modules}
    except FileNotFoundError as error:
        raise ConfigError(
            f"{checkpoint} is no checkpoint of this kind of learner: {error}"
        ) from error
    except (SafetensorError, ValueError) as error:
        raise ConfigError(
            f"{checkpoint} is damaged ({error}): take it away to go on from the one before"
        ) from error
    optimiser = learner.optimiser
    lengths = {"total_steps": learner.total_steps, "optimiser_steps": optimiser.total_steps}
    missing = {*lengths, "step", "optimiser", "optimiser_done", "drawn"} - set(state)
    if missing:
        raise ConfigError(
            f"{checkpoint} is damaged (state.json lacks {', '.join(sorted(missing))}): take it "
            "away to go on from the one before"
        )
    if any(state[name] != length for name, length in lengths.items()):
        raise ConfigError(
            f"{checkpoint} is of a run of {state['total_steps']} steps and "
            f"{state['optimiser_steps']} of the optimiser, this one has {learner.total_steps} and "
            f"{optimiser.total_steps}: the schedule would be another. "
            "Start a new run from its model"
        )
    _load_moments(learner, checkpoint, moments, state["optimiser"])
    for name, module in learner.modules.items():
        module.load_state_dict(networks[name])
    optimiser.steps_done, learner.drawn = int(state["optimiser_done"]), int(state["drawn"])
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
        "optimiser_steps": learner.optimiser.total_steps,
        "optimiser_done": learner.optimiser.steps_done,
        "drawn": learner.drawn,
        "optimiser": adamw["param_groups"],
    }
    (draft / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def _load_moments(
    learner: Learner, checkpoint: Path, moments: dict[str, torch.Tensor], groups: Any
) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in moments.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    saved = [state[index]["exp_avg"].shape for index in sorted(state)]
    wanted = [parameter.shape for parameter in learner.optimiser.parameters]
    if saved not in ([], wanted):  # there is nothing before the first step
        raise ConfigError(
            f"{checkpoint} is of a learner of {len(saved)} parameters, this one has {len(wanted)} "
            "or others: resume with the settings that it was started with"
        )
    learner.optimiser.adamw.load_state_dict({"state": state, "param_groups": groups})


def _delete(folder: Path) -> None:
    """Take a checkpoint away at once, its files after that."""
    gone = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, where the system can be asked to."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
