"""The settings of a training run: what is asked for, and what the run was started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, Final

from agents.cli_train import GRPO, PPO, SFT, TrainOptions
from agents.learning.running import latest_checkpoint
from agents.settings_file import read_settings
from videoseek_env.errors import ConfigError

_METHODS: Mapping[str, type[SFT] | type[GRPO] | type[PPO]] = {"sft": SFT, "grpo": GRPO, "ppo": PPO}

_MAY_CHANGE: Final = (
    "workers",
    "rollout_batch",
    "max_tokens",
    "save_every",
    "keep",
    "show_every",
    "tensorboard",
    "wandb_project",
)
"""What a run may go on with another value of: it decides how it runs, not what is learned."""


def settled_options(options: TrainOptions) -> tuple[TrainOptions, Path | None]:
    """The options to go by, and the checkpoint to go on from.

    Raises:
        ConfigError: If the folder holds a run already and `resume` is off, or the other way round,
            or if other options are asked for than the run was started with.
    """
    options = _from_anywhere(options)
    path = options.out / "config.json"
    if not options.resume:
        if path.exists():
            raise ConfigError(
                f"{options.out} holds a run; choose another --out, or --resume to go on with it"
            )
        return options, None
    if not path.exists():
        raise ConfigError(f"there is no run in {options.out} to resume")
    fields = read_settings(path)
    try:
        method = _METHODS[fields.pop("method")]
        _check_names(path, set(fields), {field.name for field in fields_of(method)})
        paths = {name: Path(value) for name, value in fields.items() if _is_path(name) and value}
        settled = method(**{**fields, **paths, "out": options.out})
    except ConfigError:
        raise
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no settings of a run: {error!r}") from error
    _check_resumed(options, settled)
    asked = {
        field.name: value
        for field in fields_of(options)
        if field.name in _MAY_CHANGE and (value := getattr(options, field.name)) != field.default
    }
    return replace(settled, **asked), latest_checkpoint(options.out)


def settings_of(options: TrainOptions) -> dict[str, Any]:
    """What a run keeps of its options, as JSON can hold it."""
    fields = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(options).items()}
    return {"method": _method(options), **fields, "resume": False}


def _check_names(path: Path, found: set[str], wanted: set[str]) -> None:
    """Refuse settings that another version wrote: what they lack would silently be a default."""
    if found != wanted:
        lacking, unknown = (", ".join(sorted(some)) for some in (wanted - found, found - wanted))
        raise ConfigError(
            f"{path} is of another version: it lacks {lacking or 'nothing'}, and holds "
            f"{unknown or 'nothing'} beside. Start a new run from its model"
        )


def _from_anywhere(options: TrainOptions) -> TrainOptions:
    """The same options where paths hold in any directory: a run may go on from another one."""
    paths: dict[str, Any] = {
        field.name: value.expanduser().resolve()
        for field in fields_of(options)
        if isinstance(value := getattr(options, field.name), Path) and field.name != "out"
    }
    for name in ("model", "adapter"):  # which may be hub names
        value = getattr(options, name)
        if value not in (None, "tiny") and (folder := Path(value).expanduser()).is_dir():
            paths[name] = str(folder.resolve())
    return replace(options, **paths)


def _check_resumed(asked: TrainOptions, settled: TrainOptions) -> None:
    """Refuse options that are not those of the run: they would have no effect."""
    if type(asked) is not type(settled):
        raise ConfigError(f"{asked.out} holds a run of {_method(settled)}, not {_method(asked)}")
    others = [
        f"--{field.name.replace('_', '-')}"
        for field in fields_of(asked)
        if field.name not in ("out", "resume", *_MAY_CHANGE)
        and getattr(asked, field.name) not in (field.default, getattr(settled, field.name))
    ]
    if others:
        raise ConfigError(
            f"--resume goes on with the settings that the run was started with, and "
            f"{', '.join(others)} would be another: for that, start a new run from its model"
        )


def _method(options: TrainOptions) -> str:
    return type(options).__name__.lower()


def _is_path(name: str) -> bool:
    return name in ("annotations", "out", "demonstrations")
