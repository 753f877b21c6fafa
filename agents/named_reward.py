"""Find a reward function by a name such as "my_module:my_reward"."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from rewards.reward import Reward, RewardFunction
from videoseek_env.errors import VideoSeekError
from videoseek_env.trajectory import Trajectory


class NamedRewardError(VideoSeekError, ValueError):
    """A name leads to no reward function."""


class RewardFailedError(VideoSeekError, RuntimeError):
    """A reward function raised an exception, or returned no reward of finite numbers."""


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
    found = load_attribute(name)
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


def load_attribute(name: str) -> Any:
    """What "module:attribute" names; the current directory is searched too.

    Raises:
        NamedRewardError: If the module can't be imported, or has no such attribute.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise NamedRewardError(
            f'expected a name as "module:name", such as "rewards:Accuracy", got {name!r}'
        )
    return _attribute(_import(module_name), path)


def checked(reward: RewardFunction) -> RewardFunction:
    """The same reward, checked as `apply_reward` does."""
    return partial(apply_reward, reward)


def apply_reward(reward: RewardFunction, trajectory: Trajectory) -> Reward:
    """Call a reward that may be anybody's, and check what it returns.

    Raises:
        RewardFailedError: If it raises, or returns anything but a `Reward` of finite numbers.
    """
    task = f"task {trajectory.task.id!r}"
    try:
        scored = reward(trajectory)
    except Exception as error:
        raise RewardFailedError(f"{task}: the reward raised {one_line(error)}") from error
    if not isinstance(scored, Reward):
        raise RewardFailedError(
            f"{task}: expected the reward to return a rewards.Reward, got {describe(scored)}"
        )
    value = finite(scored.value)
    parts = {str(name): finite(amount) for name, amount in scored.parts.items()}
    known = {name: amount for name, amount in parts.items() if amount is not None}
    if value is None or len(known) < len(parts):
        raise RewardFailedError(f"{task}: expected finite numbers, got {describe(scored)}")
    return Reward(value, known)


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


def finite(value: Any) -> float | None:
    """A value as a number, None if it is no finite one."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
