from __future__ import annotations

import copy
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from envs.vector import VideoSeekVectorEnv
from tests.envs.vector.batches import MODES, NOTHING, TINY, Make, assert_same, mask_of
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.errors import ConfigError, EpisodeError
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask


@pytest.fixture
def vector_id() -> Iterator[str]:
    """An id of the test's own, made as the library's is."""
    entry = "videoseek_env.entry:make_video_seek"
    gymnasium.register("VectorTest-v0", entry, vector_entry_point=f"{entry}_vector")
    yield "VectorTest-v0"
    del gymnasium.registry["VectorTest-v0"]


def test_make_vec_gives_texts_that_change_with_every_step(
    vector_id: str, tasks: list[VideoTask]
) -> None:
    """`AsyncVectorEnv` with its default arguments freezes any `Text` at '000..'."""
    vector = gymnasium.make_vec(vector_id, num_envs=2, tasks=tasks, budget="tiny")
    assert isinstance(vector, VideoSeekVectorEnv)
    observations, _ = vector.reset(seed=0)
    assert observations in vector.observation_space
    for text in observations["text"]:
        assert "Which digit does the red card show?" in text
    observations, *_ = vector.step((crop_reply(1, 5), crop_reply(2, 9)))
    assert observations in vector.observation_space
    assert "from 1.0 s to 5.0 s" in observations["text"][0]
    assert "from 2.0 s to 9.0 s" in observations["text"][1]
    observations, rewards, *_ = vector.step(("<think>é🎬</think><answer>B</answer>", NOTHING))
    assert observations["text"] == (
        "The episode is over: answered.",
        "The episode is over: no_action.",
    )
    # accuracy 1, format 1 and the bonus for a crop that overlaps no clue; nothing
    assert rewards[0] >= 2 and rewards[1] == 0
    vector.close()


def test_make_vec_takes_the_rules_of_an_episode_and_the_vector_environments_own_arguments(
    vector_id: str, tasks: list[VideoTask]
) -> None:
    vector = gymnasium.make_vec(
        vector_id, num_envs=2, tasks=tasks, max_turns=2, autoreset_mode="SameStep", workers=1
    )
    assert isinstance(vector, VideoSeekVectorEnv)
    assert vector.get_attr("config") == (SessionConfig(max_turns=2),) * 2
    assert (vector.autoreset_mode, vector.workers) == (AutoresetMode.SAME_STEP, 1)
    assert vector.spec is not None
    again = gymnasium.make_vec(vector.spec)
    assert isinstance(again, VideoSeekVectorEnv)
    assert again.num_envs == 2 and again.get_attr("config") == vector.get_attr("config")
    with pytest.raises(TypeError, match=r"max_turn.*max_turns"):
        gymnasium.make_vec(vector_id, tasks=tasks, max_turn=2)
    with pytest.raises(TypeError, match="either config or its fields"):
        gymnasium.make_vec(vector_id, tasks=tasks, config=TINY, max_turns=2)


def test_a_clip_is_decoded_once_for_all(make: Make) -> None:
    vector = make(4, cache=None, workers=4)
    vector.reset(options={"task_id": "task-0"})
    vector.step([crop_reply(1, 5)] * 4)
    # an overview and a crop are decoded, and three more environments get each
    assert (vector.cache.stats.misses, vector.cache.stats.hits) == (2, 6)


@pytest.mark.parametrize("mode", MODES)
def test_the_autoreset_mode_holds_for_each_environment_of_a_subset(
    make: Make, mode: AutoresetMode
) -> None:
    vector = make(autoreset_mode=mode)
    vector.reset(seed=0)
    ended = vector.step_subset({1: answer_reply("B")})[1]
    assert ended[1:4] == (2.0, True, False)
    info = ended[4].get("final_info", ended[4])
    assert info["end_reason"] == "answered"
    assert ("final_obs" in ended[4]) == (mode is AutoresetMode.SAME_STEP)
    assert ("system_prompt" in ended[4]) == (mode is AutoresetMode.SAME_STEP)
    if mode is AutoresetMode.DISABLED:
        with pytest.raises(EpisodeError, match=r"the episode is over; call reset\(\) first"):
            vector.step_subset({1: crop_reply(1, 5)})
        return
    following = vector.step_subset({1: crop_reply(1, 5)})[1]
    assert following[1:4] == (0.0, False, False)
    assert following[4]["turns"] == (0 if mode is AutoresetMode.NEXT_STEP else 1)
    assert vector.step_subset({0: crop_reply(1, 5)})[0][4]["turns"] == 1


def test_a_masked_reset_shows_the_last_observation_of_the_others(make: Make) -> None:
    vector = make(autoreset_mode="Disabled")
    vector.reset(options={"task_id": "task-0"})
    shown, *_ = vector.step([crop_reply(1, 5), crop_reply(1, 5), NOTHING])
    expected = copy.deepcopy(shown)
    for frames in shown["frames"]:
        frames[:] = 7  # the caller's own
    options = {"reset_mask": mask_of(1), "task_ids": [None, "task-5", None]}
    again, infos = vector.reset(options=options)
    assert infos["_task_id"].tolist() == [False, True, False]
    assert infos["task_id"][1] == "task-5"
    for key in ("text", "frames", "timestamps"):
        assert_same(again[key][::2], expected[key][::2])
    # the taller video lasts half a minute; the last of its 150 frames is shown at 29.8 s
    assert again["timestamps"][1][-1] <= 29.8
    assert set(options) == {"reset_mask", "task_ids"}


def test_clips_of_one_batch_may_differ_in_length_and_size(make: Make) -> None:
    vector = make()
    vector.reset(options={"task_ids": ["task-0", "task-4", "task-0"]})
    observations, *_ = vector.step([crop_reply(1, 5), crop_reply(1, 5), "<grounding>{}"])
    assert observations in vector.observation_space
    wide, tall, none = (frames.shape for frames in observations["frames"])
    assert wide[2] > wide[1] and tall[1] > tall[2] and none == (0, 0, 0, 3)


def test_tasks_can_be_pinned_for_all_or_for_each(make: Make) -> None:
    vector = make()
    _, infos = vector.reset(seed=3, options={"task_id": "task-2"})
    assert infos["task_id"].tolist() == ["task-2"] * 3
    drawn = vector.reset(seed=3)[1]["task_id"].tolist()
    pinned = {"task_ids": ("task-4", None, "task-4")}
    assert vector.reset(seed=3, options=pinned)[1]["task_id"].tolist() == [
        "task-4",
        drawn[1],
        "task-4",
    ]


def test_attributes_and_methods_of_the_environments(make: Make) -> None:
    vector = make(render_mode="rgb_array")
    vector.reset(seed=0)
    pictures = vector.render()
    assert [picture.ndim for picture in pictures] == [3] * 3
    assert vector.get_attr("render_mode") == ("rgb_array",) * 3
    vector.set_attr("render_mode", "ansi")
    assert all(isinstance(text, str) for text in vector.render())
    vector.set_attr("render_mode", ["ansi", "rgb_array", None])
    assert [type(picture) for picture in vector.call("render")] == [str, np.ndarray, type(None)]
    with pytest.raises(ConfigError, match="expected 3 values"):
        vector.set_attr("render_mode", [None])
    with pytest.raises(AttributeError, match="no_such"):
        vector.get_attr("no_such")
