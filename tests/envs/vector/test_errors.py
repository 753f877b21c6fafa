from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode

from rewards import Reward
from tests.envs.vector.batches import MODES, NOTHING, Make, mask_of
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.errors import ConfigError, EpisodeError, TaskError, VideoDecodeError
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"seed": [1, 2]}, ConfigError, "expected 3 seeds, one per environment, got 2"),
        ({"options": {"task_id": "no-such"}}, TaskError, "no task 'no-such'"),
        ({"options": {"taskid": "task-1"}}, TaskError, "unknown reset options"),
        ({"options": {"task_ids": ["task-1"]}}, ConfigError, "expected 3 task_ids"),
        ({"options": {"task_ids": "abc"}}, ConfigError, "task_ids as a sequence"),
        (
            {"options": {"task_ids": [None] * 3, "task_id": "task-1"}},
            ConfigError,
            "either task_id, or task_ids",
        ),
        ({"options": {"reset_mask": [True] * 3}}, TypeError, "array of bool"),
        ({"options": {"reset_mask": np.ones(3)}}, TypeError, "array of bool"),
        ({"options": {"reset_mask": np.ones(2, np.bool_)}}, ConfigError, r"shape \(3,\)"),
        ({"options": {"reset_mask": np.zeros(3, np.bool_)}}, ConfigError, "at least one"),
    ],
)
def test_wrong_resets_are_errors(
    make: Make, arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        make().reset(**arguments)


def test_wrong_actions_are_errors_that_change_nothing(make: Make) -> None:
    vector = make()
    with pytest.raises(EpisodeError, match="no episode yet"):
        vector.step([NOTHING] * 3)
    vector.reset(seed=0)
    with pytest.raises(ConfigError, match="expected 3 replies, one per environment, got 2"):
        vector.step([NOTHING] * 2)
    with pytest.raises(TypeError, match="sequence of 3 replies, got str"):
        vector.step("abc")
    with pytest.raises(TypeError, match="use step_subset"):
        vector.step({0: NOTHING})  # type: ignore[arg-type]
    for index in (3, -1):
        with pytest.raises(IndexError, match="there are 3, from 0"):
            vector.step_subset({0: NOTHING, index: NOTHING})
    with pytest.raises(TypeError, match="interpreted as an integer"):
        vector.reset_subset({0.0: None})  # type: ignore[dict-item]
    assert vector.call("session")[0].trajectory.turns == ()
    with pytest.raises(TypeError, match="an action is a string, got int") as caught:
        vector.step([crop_reply(1, 5), 3, crop_reply(1, 5)])  # type: ignore[list-item]
    assert caught.value.__notes__ == ["in environment 1; failed in all: [1]"]
    assert [len(session.trajectory.turns) for session in vector.call("session")] == [1, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"num_envs": 0}, ConfigError, "at least 1, got 0"),
        ({"workers": 0}, ConfigError, "at least 1, got 3 and 0"),
        ({"render_mode": "human"}, ConfigError, "share a window"),
        ({"render_mode": "gif"}, ValueError, "'gif'"),
        ({"autoreset_mode": "never"}, ValueError, "'never'"),
        ({"tasks": []}, TaskError, "at least one task"),
    ],
)
def test_wrong_settings_are_errors(
    make: Make, arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        make(**arguments)


def copy_of(task: VideoTask, folder: Path) -> VideoTask:
    path = folder / "copy.mp4"
    path.write_bytes(Path(task.video).read_bytes())
    return dataclasses.replace(task, id="copy", video=str(path))


@pytest.mark.parametrize("mode", MODES)
def test_a_video_that_fails_ends_the_episode_of_its_environment_alone(
    make: Make, tasks: list[VideoTask], tmp_path: Path, mode: AutoresetMode
) -> None:
    copied = copy_of(tasks[0], tmp_path)
    vector = make(tasks=[tasks[0], copied], autoreset_mode=mode)
    # a seed with which an automatic reset draws the first task, whose video is there
    seed = next(seed for seed in range(99) if np_random(seed)[0].integers(2) == 0)
    vector.reset(seed=[seed] * 3, options={"task_ids": ["task-0", "copy", "task-0"]})
    Path(copied.video).unlink()
    replies = [crop_reply(1, 5)] * 3
    observations, rewards, terminations, truncations, infos = vector.step(replies)
    assert terminations.tolist() == [False] * 3
    assert truncations.tolist() == [False, True, False]
    assert rewards.tolist() == [0.0] * 3
    final = infos["final_info"] if mode is AutoresetMode.SAME_STEP else infos
    assert final["end_reason"][1] == "video_failed"
    assert "copy.mp4: it is gone" in final["error"][1]
    assert final["trajectory"][1].end_reason == "video_failed"
    assert "from 1.0 s to 5.0 s" in observations["text"][0]
    following = vector.step_subset(dict.fromkeys((0, 2), answer_reply("B")))
    assert [following[index][2] for index in (0, 2)] == [True, True]


def test_a_video_that_cannot_be_opened_is_raised_once_the_others_are_reset(
    make: Make, tasks: list[VideoTask], tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_text("not a video")
    broken = dataclasses.replace(tasks[0], id="broken", video=str(tmp_path / "broken.mp4"))
    vector = make(tasks=[tasks[0], broken])
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4") as caught:
        vector.reset(options={"task_ids": ["broken", "task-0", "broken"]})
    assert caught.value.__notes__ == ["in environment 0; failed in all: [0, 2]"]
    assert vector.step_subset({1: answer_reply("B")})[1][2]
    with pytest.raises(EpisodeError, match="no episode yet"):
        vector.step_subset({0: NOTHING})
    options = {"reset_mask": mask_of(0, 2), "task_id": "task-0"}
    assert all(vector.reset(options=options)[0]["text"])


def test_a_reward_that_raises_leaves_every_episode_intact(make: Make) -> None:
    failures = [ZeroDivisionError("once")]

    def fragile(trajectory: Trajectory) -> Reward:
        if trajectory.answer == "C" and failures:
            raise failures.pop()
        return Reward(1.0)

    vector = make(reward=fragile)
    vector.reset(seed=0)
    with pytest.raises(ZeroDivisionError) as caught:
        vector.step([crop_reply(1, 5), answer_reply("C"), crop_reply(1, 5)])
    assert caught.value.__notes__ == ["in environment 1; failed in all: [1]"]
    _, rewards, terminations, *_ = vector.step([answer_reply("A"), "", answer_reply("A")])
    assert (rewards.tolist(), terminations.tolist()) == ([1.0] * 3, [True] * 3)
