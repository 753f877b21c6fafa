"""Wrappers of the discrete environment for what some learners can't take."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.discrete import ActionArray, ObservationArrays


class FlatActions(gymnasium.ActionWrapper[ObservationArrays, np.integer[Any], ActionArray]):
    """One number for each action, for learners that know `Discrete` alone, such as DQN.

    First every crop (start bin, length bin, strategy, the last one running fastest), then every
    answer: none twice, where flattening the `MultiDiscrete` would repeat each answer for each crop.
    """

    def __init__(self, env: gymnasium.Env[ObservationArrays, ActionArray]) -> None:
        """Wrap a discrete environment, or a wrapper of one.

        Raises:
            TypeError: If the environment's action space is not that of `VideoSeekDiscreteEnv`.
        """
        super().__init__(env)
        if not isinstance(env.action_space, spaces.MultiDiscrete):
            raise TypeError(f"expected a MultiDiscrete action space, got {env.action_space}")
        *self._crop_sizes, answers = env.action_space.nvec.tolist()
        self._crops = math.prod(self._crop_sizes)
        self.action_space = spaces.Discrete(self._crops + answers - 1)

    def action(self, action: np.integer[Any] | int) -> ActionArray:
        """The array that a number stands for.

        Raises:
            ValueError: If the number is not in the action space.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"expected an action of {self.action_space}, got {action!r}")
        if action >= self._crops:
            return np.array([0, 0, 0, action - self._crops + 1])
        return np.array([*np.unravel_index(action, self._crop_sizes), 0])


class PlainInfo(gymnasium.Wrapper[ObservationArrays, Any, ObservationArrays, Any]):
    """Leaves of `info` the counts that every step has: for replay buffers that store it.

    Such a buffer, tianshou's for one, takes a key that other steps lack for a fault, and would keep
    every trajectory alive.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObservationArrays, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, _counts(info)

    def step(self, action: Any) -> tuple[ObservationArrays, float, bool, bool, dict[str, Any]]:
        """Carry out an action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), terminated, truncated, _counts(info)


def _counts(info: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in info.items() if isinstance(value, int)}
