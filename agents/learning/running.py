"""The loop around a learner: log, save, show, resume, and stop in good order."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from filelock import FileLock, Timeout

from agents.learning.checkpoint import checkpoints, restore, save_checkpoint, step_of
from agents.learning.learner import Learner, Update
from agents.learning.optimiser import NonFiniteLossError
from agents.learning.stop_signal import StopSignal
from agents.learning.tracking import Tracker
from videoseek_env.errors import ConfigError, check_counts

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Where a run is kept, and how often.

    Raises:
        ConfigError: If a number is below one.
    """

    folder: Path
    """Of the run: `checkpoints/` come to lie there."""
    save_every: int = 50
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 3
    """Checkpoints to leave."""

    def __post_init__(self) -> None:
        check_counts(self, "save_every", "keep")

    @property
    def checkpoints(self) -> Path:
        """Holds the checkpoints."""
        return self.folder / "checkpoints"


def latest_checkpoint(folder: Path) -> Path | None:
    """Where a run can go on from; None if it saved nothing yet."""
    saved = checkpoints(folder / "checkpoints")
    return saved[-1] if saved else None


def run(
    learner: Learner,
    config: RunConfig,
    *,
    accelerator: Accelerator,
    checkpoint: Path | None = None,
    trackers: Callable[[int], Sequence[Tracker]] = lambda step: (),
    show: Callable[[int, Update], None] = lambda step, update: None,
    annotate: Callable[[Path], object] = lambda folder: None,
) -> Path:
    """Learn until the end.

    Every step is decided by its number and the seed, so that a run that was killed and goes on from
    a checkpoint is the very same run. Ctrl-C, SIGTERM and SIGHUP end it after its step, which is
    saved. So are the steps before one that fails, unless its loss is not finite.

    Args:
        learner: Its model was loaded from the checkpoint, if there is one.
        config: Where and how often to save.
        accelerator: The learner's; its main process logs, shows and saves.
        checkpoint: Where to go on from; None begins.
        trackers: Called once on the main process, with the steps that are done.
        show: Called on the main process after each step.
        annotate: Called with the folder of a checkpoint before it is complete, to add files to it.

    Returns:
        The last checkpoint.

    Raises:
        KeyboardInterrupt: After Ctrl-C, and `SystemExit` after another signal, once the step is
            saved.
        NonFiniteLossError: With the batch saved in the run's folder.
        ConfigError: If another process is at work in the folder.
        OSError: If the last checkpoint can't be written.
    """
    done = 0 if checkpoint is None else restore(learner, checkpoint)
    is_main = accelerator.is_main_process
    saved = checkpoint
    with _alone(config.folder) if is_main else nullcontext(), StopSignal() as stop:
        logs = list(trackers(done)) if is_main else []
        try:
            for step in range(done, learner.total_steps):
                learned, drawn = learner.optimiser.steps_done, learner.drawn
                try:
                    update = _update(learner, step, config, process=accelerator.process_index)
                except NonFiniteLossError:
                    raise  # the weights may be ruined
                except Exception:
                    is_as_before = learner.optimiser.steps_done == learned
                    if is_main and is_as_before and step > (step_of(saved) if saved else 0):
                        learner.drawn = drawn
                        # Beside the others: whether this model plays on is not known.
                        _try_to_save(learner, replace(config, keep=config.keep + 1), step, annotate)
                    raise
                stop.number = next(filter(None, gather_object([stop.number])), None)
                is_last = stop.number is not None or step + 1 == learner.total_steps
                if is_main:
                    for tracker in logs:
                        with _forgiven(f"step {step} was not logged"):
                            tracker.log(update.metrics, step=step)
                    with _forgiven(f"step {step} was not shown"):
                        show(step, update)
                    saved = _save(learner, config, step + 1, annotate, is_last=is_last) or saved
                if is_last:
                    break
                del update  # and the frames of its episodes, before the next step's are decoded
                learner.batch = ()
        finally:
            for tracker in logs:
                with _forgiven("the end of a log was not written"):
                    tracker.finish()
        accelerator.wait_for_everyone()
    if stop.number is not None and is_main:
        _logger.warning("stopped; --resume goes on from %s", saved)
    stop.heed()
    return saved or latest_checkpoint(config.folder) or config.checkpoints


def _update(learner: Learner, step: int, config: RunConfig, *, process: int) -> Update:
    try:
        return learner.update(step)
    except NonFiniteLossError as error:
        path = save_batch(learner, config.folder / f"bad-batch-{step:06d}-{process}.npz")
        raise NonFiniteLossError(
            f"step {step}: {error}. The optimiser's step was not taken; what it was to learn from "
            f"is in {path}. Checkpoints are as they were"
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder, in which two processes would overwrite each other's log."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"another process is at work in {folder}: let it end first") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _forgiven(consequence: str) -> Iterator[None]:
    """A line that is lost is no reason to lose the run."""
    try:
        yield
    except Exception as error:
        _logger.warning("%s: %s: %s", consequence, type(error).__name__, error)


def _save(
    learner: Learner,
    config: RunConfig,
    done: int,
    annotate: Callable[[Path], object],
    *,
    is_last: bool,
) -> Path | None:
    """Save if it is time; a failure in the middle of a run is no reason to lose the run."""
    if not is_last and done % config.save_every:
        return None
    if not is_last:
        return _try_to_save(learner, config, done, annotate)
    return save_checkpoint(
        learner, config.checkpoints, step=done, keep=config.keep, annotate=annotate
    )


def _try_to_save(
    learner: Learner, config: RunConfig, done: int, annotate: Callable[[Path], object]
) -> Path | None:
    try:
        return save_checkpoint(
            learner, config.checkpoints, step=done, keep=config.keep, annotate=annotate
        )
    except OSError as error:
        _logger.warning("step %d was not saved, earlier checkpoints stand: %s", done, error)
        return None


def save_batch(learner: Learner, path: Path) -> Path:
    """Write the tokens of a learner's batch, and which clips they were read with.

    `numpy.load(path)` gives arrays `tokens_0`, `tokens_1`, ... of `agents.llm.context.TOKEN`, and
    `clips`, a JSON list of each sample's clip references.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"tokens_{i}": one.tokens for i, one in enumerate(learner.batch)}
    refs = [[ref.to_dict() for ref in sample.refs] for sample in learner.batch]
    np.savez_compressed(path, clips=np.array(json.dumps(refs)), **arrays)
    return path
