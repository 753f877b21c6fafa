"""Where the numbers of a run go: JSON Lines always; TensorBoard and wandb where they are asked for.

TensorBoard and wandb are driven by accelerate's own trackers.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from accelerate import PartialState
from accelerate.tracking import TensorBoardTracker, WandBTracker

from videoseek_env.errors import ConfigError, MissingExtraError
from videoseek_env.trajectory import append_jsonl, filter_jsonl


class Tracker(Protocol):
    """Takes the numbers of a step; accelerate's trackers are some."""

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Note the numbers of a step."""

    def finish(self) -> None:
        """Write what has not been written yet."""


class JsonLinesTracker:
    """One line a step: `{"step": 7, "reward": 1.25, ...}`."""

    def __init__(self, path: Path, *, resume_from: int = 0) -> None:
        """Append to a file.

        Args:
            path: Made if need be.
            resume_from: Lines of this step and later are taken out: they will be written again.
        """
        self._path = path
        if path.exists():
            filter_jsonl(path, lambda line: line.get("step", -1) < resume_from)

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Append a line."""
        append_jsonl(self._path, [{"step": step, **values}])

    def finish(self) -> None:
        """Nothing is left to write."""


def make_trackers(
    folder: Path,
    *,
    config: Mapping[str, Any],
    resume_from: int = 0,
    tensorboard: bool = False,
    wandb_project: str | None = None,
) -> list[Tracker]:
    """The trackers of a run.

    Args:
        folder: Of the run: `log.jsonl` and `tensorboard/` come to lie there.
        config: The run's settings.
        resume_from: Steps that are done.
        tensorboard: Whether to write event files.
        wandb_project: Its name; wandb's own environment variables say whether it is online.

    Raises:
        MissingExtraError: If a package is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trackers: list[Tracker] = [JsonLinesTracker(folder / "log.jsonl", resume_from=resume_from)]
    if tensorboard:
        trackers.append(_TensorBoard(folder, config, resume_from))
    if wandb_project is not None:
        trackers.append(_WandB(folder, wandb_project, config))
    return trackers


class _Accelerated:
    """A tracker of accelerate, by the two calls that we make."""

    def __init__(self, tracker: Any, config: Mapping[str, Any]) -> None:
        self._tracker = tracker
        PartialState()  # accelerate's trackers log, which needs it
        tracker.start()
        tracker.store_init_configuration(dict(config))

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        self._tracker.log(dict(values), step=step)

    def finish(self) -> None:
        self._tracker.finish()


class _TensorBoard(_Accelerated):
    def __init__(self, folder: Path, config: Mapping[str, Any], resume_from: int) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtraError("tensorboard", "tensorboard", "--tensorboard") from error
        # It takes numbers, texts and truth values alone.
        flat = {
            key: value if isinstance(value, int | float) else str(value)
            for key, value in config.items()
        }
        # Steps that will be done again are taken out of what is shown.
        tracker = TensorBoardTracker("tensorboard", logging_dir=folder, purge_step=resume_from)
        super().__init__(tracker, flat)


class _WandB(_Accelerated):
    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtraError("wandb", "wandb", "--wandb-project") from error
        # The same run goes on after a restart.
        options = {
            "dir": str(folder),
            "name": folder.name,
            "id": _run_id(folder),
            "resume": "allow",
        }
        try:
            super().__init__(WandBTracker(project, **options), config)
        except Exception as error:  # wandb raises many kinds
            raise ConfigError(
                f"wandb could not begin: {' '.join(str(error).split()):.300}. Log in by "
                "`wandb login`, or set WANDB_MODE=offline"
            ) from error


def _run_id(folder: Path) -> str:
    path = folder / "wandb_id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return path.read_text(encoding="utf-8")
