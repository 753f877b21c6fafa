import dataclasses
from pathlib import Path

import numpy as np
import pytest

from agents.learning.demonstration_reader import DemonstrationReader
from agents.llm.hf_policy import HFPolicy
from agents.llm.tiny import TINY_PROMPTS
from agents.rollout import play_episodes
from tests.agents.learning.learners import (
    ANSWER,
    CROP,
    LONG,
    demonstrations,
    fresh_model,
    make_tasks,
    script,
)
from tests.synthetic_video import read_barcode, write_video
from videoseek_env.errors import DatasetError
from videoseek_env.trajectory import Trajectory


def test_a_saved_episode_is_read_as_it_was_played(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, CROP, ANSWER)
    model = fresh_model()
    (played,) = play_episodes(
        HFPolicy.factory(model), make_tasks(minute_video, 1), None, lambda one: one, session=LONG
    )
    policy = played.policy
    assert isinstance(policy, HFPolicy)
    again = Trajectory.from_dict(played.trajectory.to_dict())
    (sample,) = DemonstrationReader(model.builder, [again], prompts=TINY_PROMPTS)
    for field in ("id", "role", "clip", "trained", "position"):
        assert np.array_equal(sample.tokens[field], policy.context[field]), field
    assert sample.refs == tuple(clip.ref for clip in policy.context.clips)
    for one, other in zip(sample.clips, policy.roles[0].clips, strict=True):
        assert np.array_equal(one.frames, other.frames)


def test_the_frames_are_those_of_the_references(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", 300, fps=10, gop_frames=50)
    trajectories = demonstrations(make_tasks(video, 2))
    reader = DemonstrationReader(fresh_model().builder, trajectories)
    assert len(reader) == 2
    for clip, ref in zip(reader[1].clips, reader[1].refs, strict=True):
        assert [read_barcode(frame) for frame in clip.frames] == list(ref.indices)


def test_what_cannot_be_read_says_which_trajectory_and_why(
    minute_video: Path, tmp_path: Path
) -> None:
    tasks = make_tasks(minute_video, 1)
    (sound,) = demonstrations(tasks)
    gone = dataclasses.replace(sound.task, video=str(tmp_path / "gone.mp4"))
    short = write_video(tmp_path / "short.mp4", 20, fps=10)
    shorter = dataclasses.replace(sound.task, video=str(short))
    (tmp_path / "text.mp4").write_text("not a video")
    text = dataclasses.replace(sound.task, video=str(tmp_path / "text.mp4"))
    broken = {
        "gone.mp4": dataclasses.replace(sound, task=gone),
        "short.mp4": dataclasses.replace(sound, task=shorter),
        "text.mp4": dataclasses.replace(sound, task=text),
        "expected a context with a reply": dataclasses.replace(sound, turns=()),
        "expected a context with a reply in it": dataclasses.replace(
            sound, turns=(dataclasses.replace(sound.turns[0], reply=""),)
        ),
    }
    reader = DemonstrationReader(fresh_model().builder, list(broken.values()))
    for place, match in enumerate(broken):
        with pytest.raises(
            DatasetError, match=rf"trajectory {place}, task 'task-0', video .*{match}"
        ):
            reader[place]
