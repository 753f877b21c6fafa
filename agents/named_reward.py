"""Find a reward function by a name such as "my_module:my_reward"."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from rewards.reward import RewardFunction
from videoseek_env.errors import VideoSeekError


class NamedRewardError(VideoSeekError, ValueError):
    """A name leads to no reward function."""


def load_reward(name: str) -> RewardFunction:
    """The reward function that "module:attribute" names; the current directory is searched too.

    The attribute may be dotted. What can be called with no arguments is a factory: it is called,
    and what it returns is the reward. So are a class whose arguments have defaults, and a class
    method such as "rewards:TrajectoryGuidedReward.hardened". Anything else that can be called with
    one argument, the trajectory, is the reward itself.

    Raises:
        NamedRewardError: If the module can't be imported, or the attribute is neither.

    >>> load_reward("rewards:TurnEfficiency")
    TurnEfficiency(penalty=0.05, free_calls=1)
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise NamedRewardError(
            f'expected a reward as "module:name", such as "rewards:Accuracy", got {name!r}'
        )
    found = _attribute(_import(module_name), path)
    if not callable(found):
        raise NamedRewardError(
            f"{name} is {describe(found)}; expected a reward function, or a factory of one"
        )
    reward = _make(found, name) if _takes(found) else found
    if not (callable(reward) and _takes(reward, object())):
        raise NamedRewardError(
            f"{name} leads to {describe(reward)}, which can't be called with one trajectory. "
            "Name a reward function, or something that returns one when called with no arguments"
        )
    return cast(RewardFunction, reward)


def one_line(error: BaseException) -> str:
    r"""An exception with the place that raised it, on one line.

    >>> one_line(ValueError("too\nlong"))
    'ValueError: too long'
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{text:.400}{place}"


def describe(value: object) -> str:
    """A value on one line, cut where it is long.

    >>> describe(0.5)
    '0.5'
    """
    return f"{' '.join(repr(value).split()):.100}"


def _import(module_name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:  # a console script's own path lacks it
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise NamedRewardError(f"can't import {module_name}: {one_line(error)}") from error
        raise NamedRewardError(
            f"no module {error.name!r} in {here} or among the installed packages"
        ) from error
    except Exception as error:  # whatever a module does when it is imported
        raise NamedRewardError(f"can't import {module_name}: {one_line(error)}") from error


def _attribute(module: Any, path: str) -> Any:
    found = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            file = getattr(module, "__file__", None)
            raise NamedRewardError(
                f"{module.__name__} ({file or 'built in'}) has no {path!r}"
            ) from error
    return found


def _make(factory: Callable[[], Any], name: str) -> Any:
    try:
        return factory()
    except Exception as error:
        raise NamedRewardError(f"making the reward {name} failed: {one_line(error)}") from error


def _takes(function: Callable[..., Any], *arguments: object) -> bool:
    """Whether a call with these arguments fits; a function that hides its own takes one."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return len(arguments) == 1
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
