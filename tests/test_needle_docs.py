import dataclasses
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is an extra")

from envs.decoupled import DecoupledSession
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from videoseek_env.session import SessionConfig
from videoseek_env.video import ClipCache, open_video

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "RESULTS.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """docs/make_needle_results.py as a module, not run."""
    sys.path.insert(0, str(DOCS))
    try:
        yield SimpleNamespace(**runpy.run_path(str(DOCS / "make_needle_results.py")))
    finally:
        sys.path.remove(str(DOCS))


def run(script: Any, seed: int, accuracy: float, **fields: Any) -> Any:
    """A run whose quadrants are all alike."""
    quadrant = script.Quadrant(
        questions=100,
        accuracy=accuracy,
        sampled_accuracy=accuracy,
        reward=script.Spread(2.0, 1.0),
        sampled_reward=script.Spread(1.0, 0.5),
        calls=1.5,
        iou=None,
        visual_tokens=16.0,
    )
    return script.Run(
        **{
            "arm": "arm",
            "seed": seed,
            "steps": 3,
            "quadrants": dict.fromkeys(script.QUADRANTS, quadrant),
            "cpu_seconds": 600.0,
            **fields,
        }
    )


def test_the_tables_are_what_the_runs_say(script: Any) -> None:
    assert script.page_of(script.read_runs(), PAGE) == PAGE, (
        "docs/RESULTS.md is out of date; run: python docs/make_needle_results.py --seeds"
    )


def test_runs_of_an_arm_differ_in_their_seed_alone(script: Any) -> None:
    runs = script.read_runs()
    arms = {name for table in script.TABLES.values() for name in table}
    assert runs and set(runs) <= arms
    questions = {
        (kind, part.questions)
        for some in runs.values()
        for run in some
        for kind, part in run.quadrants.items()
    }
    assert len(questions) == len(script.QUADRANTS)  # all arms play the same ones
    for some in runs.values():
        assert len({run.steps for run in some}) == 1
        assert len({run.seed for run in some}) == len(some)


def test_a_run_that_was_written_is_read_again(script: Any, tmp_path: Path) -> None:
    runs = [run(script, seed, 0.5) for seed in (11, 9)]
    for one in runs:
        one.write(tmp_path / "new")
    (tmp_path / "new" / "arm-3.part").write_text("{", encoding="utf-8")  # stopped half-way
    (read,) = script.read_runs(tmp_path / "new").values()
    assert [one.seed for one in read] == [9, 11]
    assert dataclasses.asdict(read[1]) == dataclasses.asdict(runs[0])


def test_arms_are_compared_over_the_seeds_that_all_of_them_have(script: Any) -> None:
    runs = {
        "one": [run(script, seed, 0.5) for seed in (0, 1, 2)],
        "other": [run(script, seed, 0.5) for seed in (1, 2, 3)],
    }
    found = script.comparable(runs, {"one": "1", "other": "2", "missing": "3"})
    assert {arm: [one.seed for one in some] for arm, some in found.items()} == {
        "one": [1, 2], "other": [1, 2],
    }  # fmt: skip
    assert script.comparable(runs, {"one": "1", "missing": "3"}) == {}


def test_an_arm_that_was_run_once_does_not_cost_the_others_their_seeds(script: Any) -> None:
    runs = {
        "one": [run(script, seed, 0.5) for seed in (0, 1, 2)],
        "other": [run(script, seed, 0.5) for seed in (0, 1, 2)],
        "new": [run(script, 2, 0.5)],
    }
    found = script.comparable(runs, {"one": "1", "new": "2", "other": "3"})
    assert {arm: len(some) for arm, some in found.items()} == {"one": 3, "other": 3}
    # Two arms of two seeds are as many runs as four of one seed, which say more.
    runs = {
        arm: [run(script, seed, 0.5) for seed in range(seeds)]
        for arm, seeds in {"a": 2, "b": 1, "c": 2, "d": 1}.items()
    }
    found = script.comparable(runs, {arm: arm for arm in runs})
    assert {arm: len(some) for arm, some in found.items()} == dict.fromkeys("abcd", 1)


# Of three seeds: the mean is 0.5, s = 0.1, t of two degrees 4.303, 0.1 * 4.303 / sqrt(3) = 0.248.
# Of one: Wilson's interval of 50 of 100 is 0.404 to 0.596.
@pytest.mark.parametrize(
    ("values", "cell"), [([0.4, 0.5, 0.6], "50% [25, 75]"), ([0.5], "50% [40, 60]")]
)
def test_accuracy_has_students_interval_over_seeds_or_wilsons_over_questions(
    script: Any, values: list[float], cell: str
) -> None:
    runs = {"arm": [run(script, seed, value) for seed, value in enumerate(values)]}
    head, _, line = script.accuracy_table(runs, {"arm": "An arm", "other": "None"}).splitlines()
    cells = line.strip("| ").split(" | ")
    assert cells[:6] == ["An arm", str(len(values)), *[cell] * 4]
    assert head.count("|") == line.count("|")


# Differences of 0.1, 0.2 and 0.3: s = 0.1, as above. Seeds differ more than arms.
def test_arms_are_compared_seed_by_seed(script: Any) -> None:
    runs = {
        "first": [run(script, seed, value) for seed, value in enumerate((0.1, 0.5, 0.6))],
        "other": [run(script, seed, value) for seed, value in enumerate((0.2, 0.7, 0.9))],
    }
    names = {"missing": "None", "first": "One", "other": "Other"}
    head, _, line = script.difference_table(runs, names).splitlines()
    assert head.startswith('| less "One" | all |')
    assert line.startswith("| Other | +20.0 ± 24.8 |") and line.endswith("| +0.00 ± 0.00 |")
    alone = {arm: some[:1] for arm, some in runs.items()}
    assert script.difference_table(alone, names) == ""


# 200 tool questions of mean 2 and s 1: 1.96 / sqrt(200) = 0.139.
def test_rewards_have_an_interval_over_the_tool_questions(script: Any) -> None:
    line = script.seeking_table({"arm": [run(script, 0, 0.5)]}, {"arm": "An arm"}).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["An arm", "2.00 [1.86, 2.14]", "1.00 [0.93, 1.07]", "1.50"]
    assert cells[-4:] == ["", "", "16", "10"]


# Means of 1.9 and 2.1: s = 0.1414, t of one degree 12.706, 12.706 * 0.1414 / sqrt(2) = 1.27.
def test_rewards_of_several_seeds_have_an_interval_over_these(script: Any) -> None:
    runs = []
    for seed, value in enumerate((1.9, 2.1)):
        one = run(script, seed, 0.5)
        changed = {
            kind: dataclasses.replace(part, reward=script.Spread(value, 1.0))
            for kind, part in one.quadrants.items()
        }
        runs.append(dataclasses.replace(one, quadrants=changed))
    line = script.seeking_table({"arm": runs}, {"arm": "An arm"}).splitlines()[-1]
    assert line.split(" | ")[1] == "2.00 [0.73, 3.27]"


def test_how_early_it_was_learned_is_shown_if_it_is_known_of_all(script: Any) -> None:
    runs = {
        "early": [run(script, seed, 0.5, right=[0.2, 0.9, 1.0]) for seed in (0, 1)],
        "late": [run(script, 0, 0.5, right=[0.2, 0.3, 1.0])],
        "without": [run(script, 0, 0.5, steps=0)],
    }
    head, _, *lines = script.seeking_table(runs, {arm: arm for arm in runs}).splitlines()
    assert head.split(" | ")[-1] == "right while learning |"
    assert [line.split(" | ")[-1] for line in lines] == ["70% |", "50% |", " |"]
    runs["early"][0] = run(script, 0, 0.5)  # of an arm that learned it is not known
    head, *_ = script.seeking_table(runs, {arm: arm for arm in runs}).splitlines()
    assert "right while learning" not in head


def test_seconds_are_medians_and_ratios_within_a_round(script: Any) -> None:
    seconds = {"a": [0.02, 0.05, 0.04], "b": [0.01, 0.02, 0.04]}
    lines = script.seconds_table(seconds, {"a": "A", "b": "B"}).splitlines()
    assert lines[2:] == ["| A | 40 | 2.00 |", "| B | 20 | 1.00 |"]


def test_what_all_roles_read_and_wrote_is_counted(script: Any, minute_video: Path) -> None:
    task = dataclasses.replace(make_task(), video=str(minute_video))
    session = DecoupledSession(
        task, open_video(minute_video), SessionConfig(budget="tiny"), cache=ClipCache(2**24)
    )
    session.start()
    session.reply(crop_reply(10, 20))
    assert session.reply("no tag") is not None  # hands over
    assert session.reply(answer_reply("B")) is None
    played = script.played_in(session)
    roles = session.game.sessions.values()
    assert played.visual_tokens == sum(role.visual_tokens for role in roles)
    assert played.visual_tokens > played.trajectory.visual_tokens
