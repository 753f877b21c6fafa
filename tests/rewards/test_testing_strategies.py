from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewards.grounding import clue_intervals
from rewards.intervals import length, merge
from rewards.testing import (
    EXPLOITS,
    BlankVideo,
    Look,
    Script,
    example_task,
    gold_script,
    play,
    replies,
    scripts,
    tasks,
    trajectories,
)
from rewards.testing.episodes import RULES
from videoseek_env.action import Crop, FinalAnswer, Malformed, parse_reply
from videoseek_env.segment import Segment
from videoseek_env.session import VideoSession
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import ClipCache, open_video

SINGLE = example_task(TaskKind.SINGLE_CLUE_TOOL)


def smallest(strategy: st.SearchStrategy[Any], wanted: Callable[[Any], bool]) -> Any:
    quiet = settings(max_examples=3000, database=None, derandomize=True)
    return hypothesis.find(strategy, wanted, settings=quiet)


def any_such(strategy: st.SearchStrategy[Any], wanted: Callable[[Any], bool]) -> Any:
    quick = settings(
        max_examples=3000, database=None, derandomize=True, phases=[hypothesis.Phase.generate]
    )
    return hypothesis.find(strategy, wanted, settings=quick)


# --- tasks ---

CLUE_COUNTS = {
    TaskKind.SINGLE_CLUE_TOOL: {1},
    TaskKind.SINGLE_CLUE_DIRECT: {1},
    TaskKind.TEMPORAL_GROUNDING: {1},
    TaskKind.MULTI_CLUE_TOOL: {2, 3, 4},
    TaskKind.MULTI_CLUE_DIRECT: {2, 3, 4},
    TaskKind.OPEN_ENDED: {1, 2, 3},
}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tasks())
def test_clues_are_croppable_apart_and_a_small_share_of_the_video(task: VideoTask) -> None:
    clues = clue_intervals(task)
    assert task.duration_seconds is not None and 20 <= task.duration_seconds <= 600
    assert len(clues) in CLUE_COUNTS[task.kind]
    assert all(
        start >= 0 and end - start >= 1 and end <= task.duration_seconds for start, end in clues
    )
    assert len(merge(clues)) == len(clues)
    assert length(clues) <= 0.3 * task.duration_seconds


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tasks(kinds=[TaskKind.OPEN_ENDED], hostile=True))
def test_tasks_are_of_the_kinds_asked_for(task: VideoTask) -> None:
    assert task.kind is TaskKind.OPEN_ENDED


@pytest.mark.parametrize(
    "wanted",
    [
        lambda task: not task.clues,
        lambda task: length(clue_intervals(task)) >= task.duration_seconds,
        lambda task: any(end > task.duration_seconds for _, end in clue_intervals(task)),
        lambda task: len(merge(clue_intervals(task))) < len(task.clues),
        lambda task: task.kind.is_multiple_choice and not task.options,
    ],
    ids=["no clues", "nothing but clues", "past the end", "overlapping", "unknown options"],
)
def test_hostile_tasks_are_careless(wanted: Callable[[VideoTask], bool]) -> None:
    any_such(tasks(hostile=True), wanted)


# --- trajectories ---


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trajectories())
def test_a_trajectory_is_what_a_session_leaves(trajectory: Trajectory) -> None:
    turns, duration = trajectory.turns, trajectory.task.duration_seconds
    assert trajectory.duration_seconds == duration
    for place, turn in enumerate(turns):
        assert turn.action == parse_reply(turn.reply, duration_seconds=trajectory.duration_seconds)
        if place == 0:
            assert turn.clip is not None and turn.clip.strategy == "overview"
            continue
        asked = turns[place - 1].action  # what the last reply asked for is what this turn shows
        if isinstance(asked, Crop):
            assert turn.clip is not None
            assert (turn.clip.segment, turn.clip.strategy) == (asked.segment, asked.strategy)
        else:
            assert isinstance(asked, Malformed) and turn.clip is None
    has_answered = bool(turns) and isinstance(turns[-1].action, FinalAnswer)
    if trajectory.end_reason is not EndReason.REPLY_CUT:
        assert has_answered == (trajectory.end_reason is EndReason.ANSWERED)
    assert Trajectory.from_dict(trajectory.to_dict()) == trajectory


@pytest.mark.parametrize("ending", [None, *EndReason], ids=str)
def test_every_ending_is_drawn(ending: EndReason | None) -> None:
    any_such(trajectories(), lambda trajectory: trajectory.end_reason is ending)


def test_trajectories_shrink_to_readable_examples() -> None:
    found = smallest(trajectories(), lambda trajectory: len(trajectory.clips) == 2)
    assert found.task.clues == (Segment(0.0, 1.0),)
    looked, answered = found.replies
    assert looked.startswith('<think>I look.</think><grounding>{"temporal_segment": [0.0, ')
    assert answered == "<think>So.</think><answer>A</answer>"


@pytest.mark.parametrize("task", [None, SINGLE, example_task(TaskKind.TEMPORAL_GROUNDING)])
@pytest.mark.parametrize("action", [Crop, FinalAnswer, Malformed])
def test_replies_mean_everything(task: VideoTask | None, action: type) -> None:
    any_such(
        replies(task), lambda reply: isinstance(parse_reply(reply, duration_seconds=60), action)
    )


@pytest.mark.parametrize("ending", [None, EndReason.ABANDONED, EndReason.POLICY_FAILED])
def test_the_host_ends_what_still_runs(ending: EndReason | None) -> None:
    crops = gold_script(SINGLE).replies()[:1]
    assert play(SINGLE, crops, ending=ending).end_reason is ending
    answered = play(SINGLE, gold_script(SINGLE).replies(), ending=ending)
    assert answered.end_reason is EndReason.ANSWERED


def test_replies_after_the_end_are_not_read() -> None:
    gold = gold_script(SINGLE).replies()
    assert play(SINGLE, (*gold, "more")) == play(SINGLE, gold)


def test_a_task_without_a_length_has_no_blank_video() -> None:
    task = VideoTask("task", "video.mp4", "Which?", "A", TaskKind.SINGLE_CLUE_TOOL)
    with pytest.raises(ValueError, match="states no duration_seconds"):
        play(task, [])
    with pytest.raises(ValueError, match="states no duration_seconds"):
        list(EXPLOITS["whole_video_crop"].variants(task))


def test_a_blank_video_is_black_and_of_its_length() -> None:
    video = BlankVideo(2.5, start_seconds=4.0, fps=2.0)
    assert (video.info.frame_count, video.info.end_seconds) == (5, 6.5)
    np.testing.assert_array_equal(video.timestamps, [4.0, 4.5, 5.0, 5.5, 6.0])
    np.testing.assert_array_equal(video.keyframe_indices, range(5))
    assert not video.timestamps.flags.writeable
    frames = video.read([0, 3, 3], 4, 6)
    assert (frames.shape, frames.dtype, frames.any()) == ((3, 4, 6, 3), np.uint8, False)
    assert video.read([0]).shape == (1, 32, 32, 3)
    video.close()


# A minute of real video: 600 frames at 10 per second.
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_blank_video_plays_like_a_real_one(minute_video: Path, data: st.DataObject) -> None:
    task = VideoTask(
        "task", str(minute_video), "Which?", "B", TaskKind.SINGLE_CLUE_TOOL,
        clues=(Segment(10.0, 20.0),), duration_seconds=60.0,
    )  # fmt: skip
    spoken = data.draw(scripts(task).map(Script.replies) | st.lists(replies(task), max_size=5))
    session = VideoSession(task, open_video(minute_video), RULES, cache=ClipCache(2**22))
    session.start()
    for reply in spoken:
        if session.end_reason is None:
            session.reply(reply)
    real, blank = session.trajectory, play(task, spoken, fps=10.0)
    assert real.end_reason is blank.end_reason
    assert real.duration_seconds == blank.duration_seconds
    for shot, drawn in zip(real.turns, blank.turns, strict=True):
        assert (shot.observation, shot.reply, shot.action) == (
            drawn.observation,
            drawn.reply,
            drawn.action,
        )
        assert (shot.clip is None) == (drawn.clip is None)
        if shot.clip is not None and drawn.clip is not None:
            assert shot.clip.indices == drawn.clip.indices
            assert shot.clip.segment == drawn.clip.segment
            assert shot.clip.strategy == drawn.clip.strategy


# --- scripts ---


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tasks().flatmap(scripts))
def test_the_crops_of_a_script_are_carried_out(script: Script) -> None:
    trajectory = play(script.task, script.replies())
    shown = [
        (clip.segment.start_seconds, clip.segment.end_seconds) for clip in trajectory.clips[1:]
    ]
    # A clip belongs to the turn that answers it: without an answer the last one has none.
    seen = script.looks if script.answer is not None else script.looks[:-1]
    assert shown == [look[:2] for look in seen]


def test_another_clock_moves_clues_crops_and_answer() -> None:
    task = example_task(TaskKind.TEMPORAL_GROUNDING)
    script = Script(task, (Look(1.0, 3.0, "coarse"),), (40.0, 50.0))
    moved = script.on_another_clock(lambda time: 2 * time)
    assert moved.task.clues == (Segment(80.0, 100.0),)
    assert moved.looks == (Look(2.0, 6.0, "coarse"),)
    assert moved.answer == (80.0, 100.0)
    assert sorted(script.times) == [1.0, 3.0, 40.0, 40.0, 50.0, 50.0]


@pytest.mark.parametrize("kind", TaskKind)
def test_gold_crops_each_clue_of_questions_that_need_it(kind: TaskKind) -> None:
    script = gold_script(example_task(kind))
    needs = kind in (TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL, TaskKind.OPEN_ENDED)
    expected = clue_intervals(script.task) if needs else []
    assert [look[:2] for look in script.looks] == expected
