"""Tasks by name: each dataset is one module, imported when it is asked for."""

from videoseek_env.datasets.registry import DATASETS, load_tasks

__all__ = ["DATASETS", "load_tasks"]
