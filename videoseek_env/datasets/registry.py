"""The names of the datasets, and loading one of them."""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import Any, Final

from videoseek_env.errors import DatasetError
from videoseek_env.task import VideoTask

DATASETS: Final = MappingProxyType(
    {
        "needle": ("videoseek_env.datasets.needle", "load_needle"),
        "folder": ("videoseek_env.datasets.folder", "load_folder"),
    }
)
"""Each dataset's name, and the module and function that load it."""


def load_tasks(name: str = "needle", /, **arguments: Any) -> list[VideoTask]:
    """Load the tasks of a dataset.

    Args:
        name: One of `DATASETS`.
        **arguments: What the dataset's own loader takes.

    Raises:
        DatasetError: If there is no dataset of that name, or it can't be loaded.
    """
    if name not in DATASETS:
        raise DatasetError(f"no dataset is named {name!r}; choose one of {', '.join(DATASETS)}")
    module, function = DATASETS[name]
    tasks: list[VideoTask] = getattr(importlib.import_module(module), function)(**arguments)
    return tasks
