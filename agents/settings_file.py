"""Settings beside what was made by them, so that nothing goes on by others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoseek_env.errors import ConfigError


def write_settings(path: Path, fields: Mapping[str, Any]) -> None:
    """Write settings as JSON, at once: whoever is killed meanwhile leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that are there; empty if there are none.

    Raises:
        ConfigError: If the file holds something else.
    """
    if not path.exists():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} holds no settings of a run: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} holds no settings of a run: {type(fields).__name__}")
    return fields


def claim(path: Path, fields: Mapping[str, Any]) -> None:
    """Write settings, or compare them with those that are there.

    Raises:
        ConfigError: If others are there.
        OSError: If they can't be written.
    """
    if not path.exists():
        write_settings(path, fields)
        return
    if read_settings(path) != json.loads(json.dumps(fields)):
        raise ConfigError(
            f"{path.parent} holds a run of another configuration; choose another folder"
        )
