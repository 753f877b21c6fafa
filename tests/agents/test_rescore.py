import io
import itertools
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.cli import main
from agents.episode import Episode, read_episodes
from agents.rescore import rescore
from agents.score_change import Comparison
from rewards import Accuracy, Reward
from tests.sample_trajectories import answer_reply, crop_reply, make_task, make_trajectory
from videoseek_env.task import TaskKind
from videoseek_env.trajectory import Trajectory, append_jsonl, read_trajectories

PUBLISHED = "rewards:TrajectoryGuidedReward"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["videoseek", "rescore", *map(str, arguments)])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


TOOL, DIRECT = TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_DIRECT


def episode(
    answer: str, policy: str = "seeker", value: float = 1.5, kind: TaskKind = TOOL
) -> Episode:
    trajectory = make_trajectory([crop_reply(10, 20), answer_reply(answer)], make_task(kind))
    return Episode(policy, 7, trajectory, Reward(value, {"old": value}), seconds=0.5)


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    """Right and wrong, from two policies, of two kinds; the published scores are 3, 1 and 2.5."""
    path = tmp_path / "episodes.jsonl"
    rows = [
        episode("B", value=2.0),
        episode("C", value=1.0),
        episode("B", policy="oracle", value=3.0, kind=DIRECT),
    ]
    append_jsonl(path, [row.to_dict() for row in rows])
    return path


def row(printed: str, name: str) -> list[str]:
    return next(line.split()[-7:] for line in printed.splitlines() if line.strip().startswith(name))


# seeker: 2 -> 3 and 1 -> 1, means 1.5 and 2. oracle: 3 -> 2.5. All: 6 / 3 and 6.5 / 3.
def test_the_table_says_what_changed(
    episodes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = episodes.read_bytes()
    assert run(monkeypatch, episodes, "--reward", PUBLISHED) == 0
    printed = capsys.readouterr().out
    assert row(printed, "seeker") == ["2", "1.500", "2.000", "+0.500", "1", "0", "1"]
    assert row(printed, "oracle") == ["1", "3.000", "2.500", "-0.500", "0", "1", "0"]
    assert row(printed, "clue_single_w_tool") == ["2", "1.500", "2.000", "+0.500", "1", "0", "1"]
    assert row(printed, "clue_multi_wo_tool")[0] == "1"
    assert row(printed, "all") == ["3", "2.000", "2.167", "+0.167", "1", "1", "1"]
    assert [line.split() for line in printed.splitlines() if line.strip().startswith("acc")] == [
        ["acc", "0.667", "0.500", "1.000"]
    ]
    assert episodes.read_bytes() == before
    assert [path.name for path in episodes.parent.iterdir()] == [episodes.name]


def test_the_output_holds_the_same_episodes_with_the_new_rewards(
    episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "rescored.jsonl"
    assert run(monkeypatch, episodes, "--reward", PUBLISHED, "--out", out) == 0
    old, new = list(read_episodes(episodes)), list(read_episodes(out))
    assert [e.reward.value for e in new] == [3.0, 1.0, 2.5]
    assert "old" not in new[0].reward.parts and new[0].reward.parts["bonus"] == 1.0
    assert [(e.policy, e.seed, e.seconds, e.trajectory) for e in new] == [
        (e.policy, e.seed, e.seconds, e.trajectory) for e in old
    ]
    assert run(monkeypatch, out, "--reward", PUBLISHED, "--out", out) == 0  # the same path
    assert list(read_episodes(out)) == new


def test_bare_trajectories_have_no_before_until_they_are_rescored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "bare.jsonl", tmp_path / "out.jsonl"
    append_jsonl(path, [episode(reply).trajectory.to_dict() for reply in "BC"])
    assert run(monkeypatch, path, "--reward", PUBLISHED, "--out", out) == 0
    assert row(capsys.readouterr().out, "all") == ["2", "-", "2.000", "-", "-", "-", "-"]
    assert list(read_trajectories(out)) == list(read_trajectories(path))
    assert run(monkeypatch, out, "--reward", "rewards:Accuracy") == 0
    assert row(capsys.readouterr().out, "all") == ["2", "2.000", "0.500", "-1.500", "0", "2", "0"]


def test_a_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "large.jsonl", tmp_path / "out.jsonl"
    line = json.dumps(episode("B", value=3.0).to_dict()) + "\n"
    path.write_text(line * 3000)
    assert run(monkeypatch, path, "--reward", PUBLISHED, "--out", out) == 0
    assert row(capsys.readouterr().out, "all") == [
        "3000", "3.000", "3.000", "+0.000", "0", "0", "3000"
    ]  # fmt: skip
    assert len(out.read_bytes().splitlines()) == 3000


def test_lines_are_read_one_at_a_time() -> None:
    def endless() -> Iterator[bytes]:
        line = json.dumps(episode("B").to_dict()).encode() + b"\n"
        yield from itertools.repeat(line)

    comparison = Comparison()
    records = rescore(endless(), Accuracy(), comparison, name="endless")
    assert [record["reward"]["value"] for record in itertools.islice(records, 5)] == [1.0] * 5
    assert comparison.total.count == 5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "expected a JSON object, got [1]"),
        ("{}", "not a saved trajectory"),
        ('{"trajectory": {}}', "not a saved"),
        ('{"policy": "p", "reward": 3, "trajectory": {}}', "not a saved episode"),
        ('{"reward": 3}', "not a saved trajectory"),
    ],
)
def test_a_broken_line_is_named_and_stops_with_nothing_lost(
    line: str,
    message: str,
    episodes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = episodes.read_text()
    episodes.write_text(f"\n{whole}{line}\n{whole}")
    before = episodes.read_bytes()
    code = run(monkeypatch, episodes, "--reward", PUBLISHED, "--out", episodes)
    assert isinstance(code, str) and f"{episodes}:5: {message}" in code and "\n" not in code
    assert episodes.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [episodes.name]

    out = tmp_path / "out.jsonl"
    with caplog.at_level(logging.WARNING):
        assert run(monkeypatch, episodes, "--reward", PUBLISHED, "--out", out, "--skip-broken") == 0
    assert f"skipped {episodes}:5: {message}" in caplog.text
    assert len(list(read_episodes(out))) == 6


def test_a_last_line_that_was_not_finished_is_counted_not_fatal(
    episodes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes.write_text(episodes.read_text() + '{"policy": "see')
    assert run(monkeypatch, episodes, "--reward", PUBLISHED) == 0
    assert "Skipped 1 broken line" in capsys.readouterr().out


def test_a_file_without_a_trajectory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "empty.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n")
    code = run(monkeypatch, path, "--reward", PUBLISHED, "--out", out)
    assert isinstance(code, str) and "nothing to score" in code
    assert not out.exists()
    code = run(monkeypatch, tmp_path / "none.jsonl", "--reward", f"{PUBLISHED}.hardened")
    assert isinstance(code, str) and "none.jsonl" in code


MY_REWARDS = """
from rewards import Accuracy, Reward, WeightedSum

def frugal(trajectory):
    return Reward(1 - trajectory.visual_tokens / 1000, {"tokens": trajectory.visual_tokens})

def make_frugal(scale=2.0):
    return lambda trajectory: Reward(scale * frugal(trajectory).value)

half = WeightedSum({"acc": (0.5, Accuracy())})
def gives_a_number(trajectory): return 0.5
def gives_nan(trajectory): return Reward(float("nan"))
def fails(trajectory): raise KeyError("no\\nsuch thing")
def stops(trajectory): raise KeyboardInterrupt
"""


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of one's own in the current directory; its name."""
    name = f"rewards_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MY_REWARDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield name
    sys.modules.pop(name, None)


# The overview of the sample trajectories costs 4 visual tokens: 1 - 4 / 1000.
@pytest.mark.parametrize(
    ("attribute", "after"), [("frugal", "0.996"), ("make_frugal", "1.992"), ("half", "0.333")]
)
def test_a_reward_of_ones_own_in_the_current_directory(
    attribute: str,
    after: str,
    own_folder: str,
    episodes: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, episodes.name, "--reward", f"{own_folder}:{attribute}") == 0
    assert row(capsys.readouterr().out, "all")[2] == after


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", 'expected a name as "module:name"'),
        ("no_such_module:reward", "no module 'no_such_module'"),
        ("rewards:Nothing", "has no 'Nothing'"),
        ("OWN:gives_a_number", "expected the reward to return a rewards.Reward, got 0.5"),
        ("OWN:gives_nan", "expected finite numbers"),
        ("OWN:fails", "episodes.jsonl:1: task 'task-clue_single_w_tool': the reward raised KeyE"),
    ],
)
def test_a_reward_that_can_not_be_used_is_one_line(
    name: str, message: str, own_folder: str, episodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = run(monkeypatch, episodes, "--reward", name.replace("OWN", own_folder))
    assert isinstance(code, str) and message in code and "\n" not in code


def test_ctrl_c_leaves_everything_as_it_was(
    own_folder: str, episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, names = episodes.read_bytes(), set(tmp_path.iterdir())
    code = run(monkeypatch, episodes, "--reward", f"{own_folder}:stops", "--out", episodes)
    assert code == 130
    assert episodes.read_bytes() == before
    assert set(tmp_path.iterdir()) - {tmp_path / "__pycache__"} == names


def test_the_input_is_overwritten_by_its_own_path_alone(
    episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = tmp_path / "alias.jsonl"
    alias.symlink_to(episodes)
    before = episodes.read_bytes()
    code = run(monkeypatch, episodes, "--reward", PUBLISHED, "--out", alias)
    assert isinstance(code, str) and "by another name" in code
    assert episodes.read_bytes() == before
    assert run(monkeypatch, alias, "--reward", PUBLISHED, "--out", alias) == 0
    assert alias.is_symlink() and [e.reward.value for e in read_episodes(episodes)] == [3, 1, 2.5]


def test_the_output_must_be_a_file(episodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (episodes.parent, os.devnull):
        code = run(monkeypatch, episodes, "--reward", PUBLISHED, "--out", place)
        assert isinstance(code, str) and "is not a file" in code


def test_fields_that_nobody_knows_survive() -> None:
    record = episode("B").to_dict() | {"note": "\ud800 kept"}
    line = json.dumps(record).encode() + b"\n"
    (rescored,) = rescore(io.BytesIO(line), Accuracy(), Comparison(), name="one")
    assert rescored == record | {"reward": {"value": 1.0, "parts": {}}}
    assert isinstance(Trajectory.from_dict(rescored["trajectory"]), Trajectory)
