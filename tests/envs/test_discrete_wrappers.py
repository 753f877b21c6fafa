import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.discrete import VideoSeekDiscreteEnv
from envs.discrete_wrappers import FlatActions, PlainInfo
from rewards import Accuracy
from tests.sample_trajectories import make_task


def make_env(path: Path) -> VideoSeekDiscreteEnv:
    task = dataclasses.replace(make_task(), video=str(path))
    return VideoSeekDiscreteEnv([task], Accuracy())


def test_flat_actions_number_every_crop_and_every_answer_once(minute_video: Path) -> None:
    env = FlatActions(make_env(minute_video))
    assert env.action_space == spaces.Discrete(10 * 3 * 3 + 4)
    arrays = [tuple(env.action(number).tolist()) for number in range(94)]
    # The strategy runs fastest, then the length: 90 crops, then four answers.
    assert arrays[:4] == [(0, 0, 0, 0), (0, 0, 1, 0), (0, 0, 2, 0), (0, 1, 0, 0)]
    assert arrays[89] == (9, 2, 2, 0)
    assert arrays[90:] == [(0, 0, 0, 1), (0, 0, 0, 2), (0, 0, 0, 3), (0, 0, 0, 4)]
    assert len(set(arrays)) == 94
    env.reset(seed=0)
    assert env.step(np.int64(91))[4]["trajectory"].answer == "B"


@pytest.mark.parametrize("number", [94, -1, 1.5, None])
def test_a_number_without_an_action_is_an_error(minute_video: Path, number: Any) -> None:
    with pytest.raises(ValueError, match=r"expected an action of Discrete\(94\)"):
        FlatActions(make_env(minute_video)).action(number)


def test_flat_actions_wrap_discrete_environments_alone() -> None:
    with pytest.raises(TypeError, match="expected a MultiDiscrete action space, got Discrete"):
        FlatActions(gymnasium.make("CartPole-v1"))  # type: ignore[arg-type]


def test_flat_actions_wrap_wrappers(minute_video: Path) -> None:
    env = FlatActions(PlainInfo(make_env(minute_video)))
    env.reset(seed=0)
    assert env.step(91)[1:3] == (1.0, True)


def test_plain_info_has_the_same_counts_at_every_step(minute_video: Path) -> None:
    plain, full = PlainInfo(make_env(minute_video)), make_env(minute_video)
    actions = [np.array([1, 1, 2, 0]), np.array([0, 0, 0, 2])]
    infos = [plain.reset(seed=0)[1], *(plain.step(action)[4] for action in actions)]
    others = [full.reset(seed=0)[1], *(full.step(action)[4] for action in actions)]
    names = {"turns", "malformed_replies", "context_tokens", "visual_tokens"}
    assert all(info.keys() == names for info in infos)
    assert infos == [{name: other[name] for name in names} for other in others]
    assert [info["turns"] for info in infos] == [0, 1, 2]
    assert "trajectory" in others[-1]


def test_plain_info_leaves_the_rest_of_a_step_as_it_is(minute_video: Path) -> None:
    env = PlainInfo(make_env(minute_video))
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    observation, *outcome, _ = env.step(np.array([0, 0, 0, 2]))
    assert outcome == [1.0, True, False] and observation in env.observation_space
