import dataclasses
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="plots are an extra")

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "discrete.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results() -> Iterator[Any]:
    """docs/discrete_results.py as a module."""
    sys.path.insert(0, str(DOCS))
    try:
        yield SimpleNamespace(**runpy.run_path(str(DOCS / "discrete_results.py")))
    finally:
        sys.path.remove(str(DOCS))


def test_the_snippet_prints_what_its_comments_say(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"<!-- snippet: .+? -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(snippet, "discrete.md", "exec"), {"__name__": "snippet"})
    said = re.findall(r"^print\(.*\)  # (.+)$", snippet, re.MULTILINE)
    assert said and capsys.readouterr().out.splitlines() == said


def test_the_table_is_what_the_runs_say(results: Any) -> None:
    assert f"<!-- results: begin -->\n\n{results.table_block(results.read_runs())}\n\n" in PAGE, (
        "docs/discrete.md is out of date; run: python docs/make_discrete_curves.py --arms"
    )


@pytest.mark.parametrize("learner", ["ppo", "tianshou"])
@pytest.mark.parametrize("other", ["single_turn", "random"])
def test_learning_to_look_beats_not_looking_beyond_the_intervals(
    results: Any, learner: str, other: str
) -> None:
    runs = results.read_runs()
    assert len(runs[learner]) >= 3 and len(runs[other]) >= 3
    assert results.accuracy_of(runs[learner]).low > results.accuracy_of(runs[other]).high


def test_runs_of_an_arm_differ_in_their_seed_alone(results: Any) -> None:
    for some in results.read_runs().values():
        assert len({(run.steps, run.videos, run.tasks) for run in some}) == 1
        assert len({run.seed for run in some}) == len(some)


# The mean is 0.5, s = 0.1, and t of two degrees of freedom 4.303: 0.1 * 4.303 / sqrt(3) = 0.2484.
def test_an_estimate_is_students_interval(results: Any) -> None:
    assert results.estimate([0.4, 0.5, 0.6]) == pytest.approx((0.5, 0.2516, 0.7484), abs=1e-4)


def test_an_estimate_stays_between_0_and_1(results: Any) -> None:
    # Of two: s = 0.1 * sqrt(2), so the half-width is 12.706 * 0.1 = 1.27.
    assert results.estimate([0.8, 1.0]) == pytest.approx((0.9, 0.0, 1.0))
    assert results.estimate([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)


def test_a_run_that_was_written_is_read_again(results: Any, tmp_path: Path) -> None:
    run = results.read_runs()["random"][0]
    dataclasses.replace(run, seed=11).write(tmp_path / "new")
    dataclasses.replace(run, seed=9).write(tmp_path / "new")
    (tmp_path / "new" / "ppo-0.part").write_text("{", encoding="utf-8")  # stopped half-way
    (read,) = results.read_runs(tmp_path / "new").values()
    assert [one.seed for one in read] == [9, 11]
    assert read[0] == dataclasses.replace(run, seed=9)


def test_the_plot_is_drawn_the_same_again(results: Any, tmp_path: Path) -> None:
    for name in ("first.svg", "second.svg"):
        results.draw(results.read_runs(), tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("first.svg", "second.svg"))
    assert first == second and b"dc:date" not in first and len(first) < 150_000
    assert "](plots/discrete.svg)" in PAGE and (DOCS / "plots" / "discrete.svg").is_file()


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", PAGE)
    assert links
    for link in links:
        assert (DOCS / link).is_file(), link
