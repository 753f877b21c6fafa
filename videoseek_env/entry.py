"""What the Gymnasium ids call. The factories live in `envs`, which this package never imports."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from videoseek_env.env import VideoSeekEnv
from videoseek_env.errors import ConfigError


def make_video_seek(**arguments: Any) -> VideoSeekEnv:
    """Call `envs.registration.make_video_seek`.

    Raises:
        ConfigError: If another package named `envs` hides ours.
    """
    try:
        factories = importlib.import_module("envs.registration")
    except ModuleNotFoundError as error:
        found = importlib.util.find_spec("envs")
        where = "is not installed" if found is None else f"is hidden by {found.origin}"
        raise ConfigError(
            f"the package 'envs' of videoseek-env {where}. Rename your own 'envs', or run from "
            "another folder"
        ) from error
    env: VideoSeekEnv = factories.make_video_seek(**arguments)
    return env
