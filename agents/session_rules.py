"""The rules that a model was trained by, kept beside its weights.

A model that learned with one budget and one wording is only itself with these. `videoseek train`
writes them into every checkpoint, and `videoseek eval` and `play` read them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from videoseek_env.budget import Budget, CropQuotas, Quota, get_budget
from videoseek_env.errors import ConfigError
from videoseek_env.prompts import Prompts
from videoseek_env.session import SessionConfig

FILE_NAME = "videoseek.json"


def write_rules(folder: str | Path, rules: SessionConfig) -> Path:
    """Write a session's rules; how tokens are counted is the model's affair and is not written.

    Returns:
        The file.
    """
    fields = {
        "budget": asdict(get_budget(rules.budget)),
        "prompts": asdict(rules.prompts),
        "overview": rules.overview,
        "max_turns": rules.max_turns,
        "max_clips": rules.max_clips,
    }
    path = Path(folder) / FILE_NAME
    path.write_text(json.dumps(fields, indent=2), encoding="utf-8")
    return path


def read_rules(folder: str | Path) -> SessionConfig | None:
    """The rules in a model's folder; None if there are none.

    Raises:
        ConfigError: If the file is there but can't be understood.
    """
    path = Path(folder).expanduser() / FILE_NAME
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return SessionConfig(
            budget=_budget(fields.pop("budget")),
            prompts=Prompts(**fields.pop("prompts")),
            **fields,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} holds no rules of an episode: {error}") from error


def first_rules(*folders: str | Path | None) -> SessionConfig | None:
    """The rules in the first of some folders that has any.

    Raises:
        ConfigError: As `read_rules`.
    """
    found = (read_rules(folder) for folder in folders if folder is not None)
    return next((rules for rules in found if rules is not None), None)


def overridden(rules: SessionConfig, *, budget: str | None, max_turns: int | None) -> SessionConfig:
    """Rules with what a command asks for in their place; None asks for nothing."""
    return replace(
        rules,
        budget=rules.budget if budget is None else budget,
        max_turns=rules.max_turns if max_turns is None else max_turns,
    )


def _budget(fields: dict[str, Any] | str) -> Budget:
    if isinstance(fields, str):
        return get_budget(fields)
    crops = {name: Quota(**quota) for name, quota in fields.pop("crops").items()}
    overview = Quota(**fields.pop("overview"))
    return Budget(overview=overview, crops=CropQuotas(**crops), **fields)
