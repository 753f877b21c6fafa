from pathlib import Path

import numpy as np
import pytest

from envs.discrete import make_video_seek_discrete
from envs.discrete_layout import DiscreteLayout
from envs.discrete_tasks import PEEPHOLE, PEEPHOLE_LAYOUT, load_card_tasks
from videoseek_env.errors import DatasetError
from videoseek_env.task import TaskKind


def test_a_video_has_four_questions_about_the_digit_of_its_card(tmp_path: Path) -> None:
    tasks = load_card_tasks(videos=2, root=tmp_path)
    assert len(tasks) == 8 and len({task.video for task in tasks}) == 2
    for task in tasks:
        assert task.kind is TaskKind.SINGLE_CLUE_TOOL and len(task.options) == 4
        assert all(option.isdigit() for option in task.options)
        assert 50 <= task.duration_seconds <= 60 and len(task.metadata["events"]) == 1


def test_another_split_has_other_videos_and_the_same_one_the_same(tmp_path: Path) -> None:
    first = load_card_tasks(videos=1, root=tmp_path / "a")
    again = load_card_tasks(videos=1, root=tmp_path / "b")
    test = load_card_tasks("test", videos=1, root=tmp_path / "c")
    films = [Path(tasks[0].video).read_bytes() for tasks in (first, again, test)]
    assert films[0] == films[1] != films[2]


def test_the_layout_has_a_cell_for_every_frame_of_the_budget(tmp_path: Path) -> None:
    env = make_video_seek_discrete(load_card_tasks(videos=1, root=tmp_path))
    assert env.layout == PEEPHOLE_LAYOUT and env.text_env.config.budget == PEEPHOLE
    observation, _ = env.reset(seed=0)
    clips = [env.text_env.observation.clip]
    assert (observation["overview_times"] >= 0).all()
    for strategy in range(3):
        observation, *_ = env.step(np.array([2, 1, strategy, 0]))
        clips.append(env.text_env.observation.clip)
        assert (observation["clip_times"] >= 0).all()
    frames = [clip.frames.shape if clip else None for clip in clips]
    assert frames == [(12, 32, 32, 3)] + [(6, 32, 32, 3)] * 3


def test_a_crop_of_a_fifth_shows_the_digit_that_the_overview_hides(tmp_path: Path) -> None:
    for task in load_card_tasks(videos=2, root=tmp_path):
        env = make_video_seek_discrete([task])
        env.reset(seed=0)
        (event,) = task.metadata["events"]
        start, end = event["reveal"]
        overview = env.text_env.observation.clip
        assert overview is not None
        times = overview.timestamps_seconds
        assert not ((start <= times) & (times < end)).any()
        tenth = int(10 * (start + end) / 2 / task.duration_seconds)
        env.step(np.array([max(tenth - 1, 0), 1, 2, 0]))
        crop = env.text_env.observation.clip
        assert crop is not None
        assert ((start <= crop.timestamps_seconds) & (crop.timestamps_seconds < end)).any()


def test_the_default_tasks_are_made_for_the_budget_that_is_given() -> None:
    env = make_video_seek_discrete(budget="tiny")
    assert {task.metadata["budget"] for task in env.text_env.tasks.values()} == {"tiny"}
    assert env.layout == DiscreteLayout()
    with pytest.raises(DatasetError, match="videos of at least"):
        make_video_seek_discrete(budget="qwen3-vl")
