import json
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sample_trajectories import answer_reply, crop_reply, make_task, make_trajectory
from videoseek_env.action import Crop
from videoseek_env.errors import TrajectoryError
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind
from videoseek_env.trajectory import (
    EndReason,
    Trajectory,
    append_jsonl,
    read_jsonl,
    read_trajectories,
    write_trajectories,
)


def test_what_a_trajectory_knows() -> None:
    trajectory = make_trajectory([crop_reply(1, 5), answer_reply("B")])
    assert trajectory.answer == "B"
    assert trajectory.crops == (Crop(Segment(1.0, 5.0), "fine"),)
    assert trajectory.visual_tokens == 4
    assert [clip.strategy for clip in trajectory.clips] == ["overview"]


def test_a_trajectory_without_an_answer_has_none() -> None:
    assert make_trajectory([crop_reply(1, 5)]).answer is None
    assert make_trajectory([]).answer is None


def test_every_ending_is_of_one_sort() -> None:
    for reason in EndReason:
        assert not (reason.is_exceeded and reason.is_void)
    assert EndReason.CLIPS_EXHAUSTED.is_exceeded
    assert EndReason.REPLY_CUT.is_void


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text() | st.builds(crop_reply, st.floats(), st.floats()), max_size=4))
def test_json_lines_round_trip(tmp_path: Path, replies: list[str]) -> None:
    trajectory = make_trajectory(replies, make_task(TaskKind.MULTI_CLUE_TOOL))
    path = tmp_path / "trajectories.jsonl"
    path.unlink(missing_ok=True)
    write_trajectories(path, [trajectory, trajectory])
    assert list(read_trajectories(path)) == [trajectory, trajectory]


def test_lone_surrogates_survive_the_file(tmp_path: Path) -> None:
    trajectory = make_trajectory(["\ud800 <answer>\udfff</answer>"])
    write_trajectories(tmp_path / "t.jsonl", [trajectory])
    assert list(read_trajectories(tmp_path / "t.jsonl")) == [trajectory]


def test_a_half_line_of_a_killed_process_is_skipped_then_cut_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.jsonl"
    trajectory = make_trajectory([answer_reply("B")])
    write_trajectories(path, [trajectory, trajectory])
    path.write_bytes(path.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        assert list(read_trajectories(path)) == [trajectory]
    assert "unfinished last line" in caplog.text
    write_trajectories(path, [trajectory])
    assert list(read_trajectories(path)) == [trajectory, trajectory]


def test_a_whole_last_line_without_a_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}')
    append_jsonl(path, [{"b": 2}])
    assert [record for _, record in read_jsonl(path)] == [{"a": 1}, {"b": 2}]


def test_a_torn_line_longer_than_a_block_is_cut_off_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    append_jsonl(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"b": "' + "x" * 200_000)
    append_jsonl(path, [{"c": 3}])
    assert [record for _, record in read_jsonl(path)] == [{"a": 1}, {"c": 3}]


def test_blank_lines_are_passed_over_and_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('\n{"a": 1}\n\n{"b": 2}\n')
    assert [number for number, _ in read_jsonl(path)] == [2, 4]


@pytest.mark.parametrize("line", ["{broken}", "[1]", "3", '{"a": ' + "[" * 100_000])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f"{{}}\n{line}\n{{}}\n")
    with pytest.raises(TrajectoryError, match=r"t\.jsonl:2: "):
        list(read_jsonl(path))


@pytest.mark.parametrize(
    "change",
    [
        {"end_reason": "bored"},
        {"turns": 3},
        {"turns": [{"reply": "x"}]},
        {"task": {}},
        {"task": None},
        {"duration_seconds": "long"},
        {"context_tokens": float("inf")},
    ],
)
def test_a_record_that_is_no_trajectory_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    fields = make_trajectory([answer_reply("B")]).to_dict() | change
    (tmp_path / "t.jsonl").write_text(json.dumps(fields) + "\n")
    with pytest.raises(TrajectoryError, match=r"t\.jsonl:1: "):
        list(read_trajectories(tmp_path / "t.jsonl"))


def test_a_running_trajectory_round_trips() -> None:
    trajectory = Trajectory(make_task(), (), None, 10.0)
    assert Trajectory.from_dict(trajectory.to_dict()) == trajectory
