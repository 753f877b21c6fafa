"""What the Gymnasium ids call. The factories live in `envs`, which this package never imports."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import gymnasium

from videoseek_env.errors import ConfigError


def make_video_seek(**arguments: Any) -> gymnasium.Env[Any, Any]:
    """Call `envs.registration.make_video_seek`.

    Raises:
        ConfigError: If another package named `envs` hides ours.
    """
    env: gymnasium.Env[Any, Any] = _call("registration", "make_video_seek", arguments)
    return env


def make_video_seek_vector(**arguments: Any) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Call `envs.vector.make_video_seek_vector`; errors as in `make_video_seek`."""
    env: gymnasium.vector.VectorEnv[Any, Any, Any] = _call(
        "vector", "make_video_seek_vector", arguments
    )
    return env


def make_video_seek_discrete(**arguments: Any) -> gymnasium.Env[Any, Any]:
    """Call `envs.discrete.make_video_seek_discrete`; errors as in `make_video_seek`."""
    env: gymnasium.Env[Any, Any] = _call("discrete", "make_video_seek_discrete", arguments)
    return env


def make_video_seek_live(**arguments: Any) -> gymnasium.Env[Any, Any]:
    """Call `envs.live.make_video_seek_live`; errors as in `make_video_seek`."""
    env: gymnasium.Env[Any, Any] = _call("live", "make_video_seek_live", arguments)
    return env


def _call(module: str, factory: str, arguments: dict[str, Any]) -> Any:
    try:
        found = importlib.import_module(f"envs.{module}")
    except ModuleNotFoundError as error:
        if error.name not in ("envs", f"envs.{module}"):
            raise
        spec = importlib.util.find_spec("envs")
        where = "is not installed" if spec is None else f"is hidden by {spec.origin}"
        raise ConfigError(
            f"the package 'envs' of videoseek-env {where}. Rename your own 'envs', or run from "
            "another folder"
        ) from error
    return getattr(found, factory)(**arguments)
