"""Hypothesis, or a word on how to get it."""

from __future__ import annotations

from videoseek_env.errors import MissingExtraError

try:
    import hypothesis
    from hypothesis import strategies
except ModuleNotFoundError as error:
    raise MissingExtraError("hypothesis", "testing", "rewards.testing") from error

__all__ = ["hypothesis", "strategies"]
