"""What the host or the programmer can get wrong.

What the *model* does wrong is data instead: an error observation, a named ending, a counter.
"""

from __future__ import annotations

from typing import Any, get_args


class VideoSeekError(Exception):
    """Base of every error that this library raises on purpose."""


class SegmentError(VideoSeekError, ValueError):
    """A time segment is not a finite, non-empty range of seconds."""


class TaskError(VideoSeekError, ValueError):
    """A task contradicts itself, such as an answer that is none of its options."""


class BudgetError(VideoSeekError, ValueError):
    """A frame, pixel or token budget is impossible."""


class ConfigError(VideoSeekError, ValueError):
    """A setting is outside its range."""


def check_counts(config: object, *names: str) -> None:
    """Refuse a configuration with a number below 1, by the name of its field.

    Raises:
        ConfigError: If there is one.
    """
    for name in names:
        value = getattr(config, name)
        if not value >= 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


def check_seed(seed: int) -> None:
    """Refuse what numpy's `SeedSequence` does not take.

    Raises:
        ConfigError: If it is negative.
    """
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")


def check_one_of(options: Any, **values: object) -> None:
    """Refuse a value that is none of a `Literal`'s, by its name.

    Raises:
        ConfigError: If there is one.
    """
    for name, value in values.items():
        if value not in get_args(options):
            raise ConfigError(f"{name} must be one of {list(get_args(options))}, got {value!r}")


class DatasetError(VideoSeekError, ValueError):
    """A dataset is missing, or one of its records can't be read."""


class TrajectoryError(VideoSeekError, ValueError):
    """A saved trajectory can't be read back."""


class EpisodeError(VideoSeekError, RuntimeError):
    """An episode was driven out of order, such as a reply after its end."""


class JudgeError(VideoSeekError, RuntimeError):
    """A model that judges answers gave no verdict."""


class PolicyError(VideoSeekError, RuntimeError):
    """A policy could not write a reply, such as when its server gave none."""


class MissingExtraError(VideoSeekError, ImportError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'videoseek-env[{extra}]'"
        )


class VideoDecodeError(VideoSeekError, RuntimeError):
    """A video can't be opened or decoded.

    Attributes:
        path: The file or folder.
        backend: The decoder that gave up.
        cause: What it found.
        remedy: What to do about it.
    """

    def __init__(self, path: str, backend: str, cause: str, remedy: str) -> None:
        super().__init__(path, backend, cause, remedy)
        self.path, self.backend, self.cause, self.remedy = path, backend, cause, remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.cause} (backend {self.backend}). {self.remedy}"
