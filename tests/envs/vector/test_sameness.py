from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.vector import VideoSeekVectorEnv
from rewards import TrajectoryGuidedReward
from tests.envs.vector.batches import (
    MODES,
    NOTHING,
    REPLIES,
    TINY,
    Make,
    assert_same,
    make_sync,
    play,
)
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.env import VideoSeekEnv
from videoseek_env.errors import EpisodeError
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache


@settings(max_examples=40)
@given(
    mode=st.sampled_from(MODES),
    steps=st.lists(st.tuples(*[st.sampled_from(REPLIES)] * 3), min_size=1, max_size=6),
    seed=st.integers(0, 100),
)
def test_everything_is_as_sync_vector_env_returns_it(
    tasks: list[VideoTask],
    cache: ClipCache,
    mode: AutoresetMode,
    steps: list[tuple[str, ...]],
    seed: int,
) -> None:
    theirs = make_sync(tasks, cache, autoreset_mode=mode)
    ours = VideoSeekVectorEnv(
        3, tasks, TrajectoryGuidedReward(), config=TINY, cache=cache, autoreset_mode=mode
    )
    assert_same(play(ours, steps, seed), play(theirs, steps, seed))
    ours.close()
    theirs.close()


def test_attributes_are_those_of_sync_vector_env(
    make: Make, tasks: list[VideoTask], cache: ClipCache
) -> None:
    ours, theirs = make(autoreset_mode="SameStep"), make_sync(tasks, cache)
    theirs.metadata["autoreset_mode"] = AutoresetMode.SAME_STEP
    for name in (
        "num_envs",
        "metadata",
        "render_mode",
        "single_observation_space",
        "observation_space",
        "single_action_space",
        "action_space",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    for vector in (ours, theirs):
        vector.reset(seed=[3, 1, 4])
    assert ours.np_random_seed == theirs.np_random_seed == (3, 1, 4)
    assert [generator.random() for generator in ours.np_random] == [
        generator.random() for generator in theirs.np_random
    ]


def test_async_vector_env_refuses_to_freeze_the_texts_of_an_episode(tasks: list[VideoTask]) -> None:
    def make_one() -> VideoSeekEnv:
        return VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=TINY)

    with pytest.raises(ValueError, match="shared_memory=False"):
        AsyncVectorEnv([make_one])


def test_async_vector_env_without_shared_memory_returns_the_same(
    make: Make, tasks: list[VideoTask], cache: ClipCache
) -> None:
    def make_one() -> VideoSeekEnv:
        return VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=TINY, cache=cache)

    steps = [(REPLIES[0], REPLIES[3], REPLIES[2]), (REPLIES[4], REPLIES[0], REPLIES[1])]
    theirs: AsyncVectorEnv[Any, Any] = AsyncVectorEnv([make_one] * 3, shared_memory=False)
    assert_same(play(make(), steps, 5), play(theirs, steps, 5))
    theirs.close()


def test_a_subset_steps_as_its_environments_would_alone(
    make: Make, tasks: list[VideoTask], cache: ClipCache
) -> None:
    vector = make()
    alone = [
        VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=TINY, cache=cache) for _ in range(3)
    ]
    started = vector.reset_subset({2: {"task_id": "task-4"}, 0: {"task_id": "task-1"}})
    assert list(started) == [2, 0]
    assert_same(started[2], alone[2].reset(options={"task_id": "task-4"}))
    assert_same(started[0], alone[0].reset(options={"task_id": "task-1"}))
    rounds: list[Mapping[Any, str]] = [
        {2: crop_reply(1, 5)},
        {0: crop_reply(3, 9), 2: crop_reply(1, 6)},
        {np.int64(0): answer_reply("B")},
        {2: answer_reply("A")},
        {},
    ]
    for actions in rounds:
        stepped = vector.step_subset(actions)
        assert list(stepped) == list(actions)
        for index, action in actions.items():
            assert_same(stepped[index], alone[index].step(action))
    with pytest.raises(EpisodeError, match="no episode yet"):
        vector.step_subset({1: NOTHING})


@pytest.mark.parametrize(
    ("seed", "seeds"),
    [(5, (5, 6, 7)), (np.int64(5), (5, 6, 7)), ([9, 2, 9], (9, 2, 9)), (0, (0, 1, 2))],
)
def test_seeds_are_those_of_single_environments(
    make: Make, tasks: list[VideoTask], seed: Any, seeds: Any
) -> None:
    vector = make()
    drawn = vector.reset(seed=seed)[1]["task_id"].tolist()
    again = vector.reset()[1]["task_id"].tolist()
    alone = [VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=TINY) for _ in seeds]
    assert drawn == [
        env.reset(seed=own)[1]["task_id"] for env, own in zip(alone, seeds, strict=True)
    ]
    assert again == [env.reset()[1]["task_id"] for env in alone]
