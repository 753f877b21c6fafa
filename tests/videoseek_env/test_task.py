from typing import Any

import pytest

from tests.sample_trajectories import make_task
from videoseek_env.errors import SegmentError, TaskError
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind, VideoTask


def fields(**changes: Any) -> dict[str, Any]:
    return make_task().to_dict() | changes


@pytest.mark.parametrize("kind", list(TaskKind))
def test_tasks_round_trip_through_json_fields(kind: TaskKind) -> None:
    task = make_task(kind)
    assert VideoTask.from_dict(task.to_dict()) == task


def test_optional_fields_may_be_absent() -> None:
    task = VideoTask.from_dict(
        {"id": "1", "video": "v.mp4", "question": "?", "answer": "A", "kind": "open_ended"}
    )
    assert (task.options, task.clues, task.duration_seconds) == ((), (), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "E"}, "one letter of ABCD"),
        ({"answer": "AB"}, "one letter of ABCD"),
        ({"answer": ""}, "answer is empty"),
        ({"question": ""}, "question is empty"),
        ({"kind": "riddle"}, "riddle"),
        ({"kind": "temporal_grounding", "clues": []}, "at least one clue"),
        ({"clues": [[5, 2]]}, "start < end"),
        ({"clues": [5]}, "task-clue"),
        ({"duration_seconds": "long"}, "long"),
        ({"duration_seconds": 10**400}, "too large"),
        ({"clues": [[0, 10**400]]}, "too large"),
        ({"colour": "red"}, "unknown colour"),
        ({"options": "Ann, Bo"}, "options must be a list"),
        ({"options": [1, 2], "answer": "A"}, "options must be texts"),
        ({"options": list(map(str, range(27)))}, "27 options; at most 26"),
        ({"options": {"A": "Ann", "B": "Bo"}}, "options must be a list"),
        ({"id": None}, "id must be text"),
        ({"id": [1]}, "id must be text"),
        ({"video": None}, "video must be text"),
        ({"question": 3}, "question must be text"),
        ({"frame_fps": -1}, "frame_fps must be above zero"),
        ({"duration_seconds": float("nan")}, "duration_seconds must be above zero"),
    ],
)
def test_a_bad_field_is_an_error_that_names_the_task(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        VideoTask.from_dict(fields(**changes))


def test_a_number_is_an_id() -> None:
    assert VideoTask.from_dict(fields(id=7)).id == "7"


def test_clues_are_segments() -> None:
    wrong: Any = [(0.5, 1.0)]
    with pytest.raises(TaskError, match="clues must be segments"):
        VideoTask("1", "a.mp4", "Which?", "A", TaskKind.SINGLE_CLUE_TOOL, clues=wrong)


def test_missing_fields_are_listed() -> None:
    with pytest.raises(TaskError, match="missing answer, kind, question"):
        VideoTask.from_dict({"id": "1", "video": "v.mp4"})


def test_options_are_lettered() -> None:
    assert make_task().lettered_options == ("A. 1", "B. 2", "C. 3", "D. 4")


def test_a_choice_may_list_its_options_in_the_question() -> None:
    assert VideoTask.from_dict(fields(options=[], answer="F")).answer == "F"


@pytest.mark.parametrize(
    ("start", "end"), [(-1, 2), (2, 2), (3, 2), (0, float("inf")), (float("nan"), 2)]
)
def test_a_segment_is_a_finite_range(start: float, end: float) -> None:
    with pytest.raises(SegmentError, match="0 <= start < end"):
        Segment(start, end)
