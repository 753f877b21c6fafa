import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "rewards.md").read_text(encoding="utf-8")
SNIPPET = re.compile(r"<!-- snippet: (.+?) -->\n```python\n(.*?)```", re.DOTALL)
SNIPPETS = dict(SNIPPET.findall(PAGE))
PLOTS = ("calls", "credit", "hardened", "multi_clue", "other_parts", "single_clue")


def script(name: str) -> Any:
    """A script of docs/ as a module, its own part not run."""
    sys.path.insert(0, str(DOCS))
    try:
        return SimpleNamespace(**runpy.run_path(str(DOCS / f"{name}.py")))
    finally:
        sys.path.remove(str(DOCS))


@pytest.mark.parametrize("name", SNIPPETS)
def test_every_snippet_prints_what_its_comments_say(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(SNIPPETS[name], f"rewards.md: {name}", "exec"), {"__name__": "snippet"})
    said = re.findall(r"^print\(.*\)  # (.+)$", SNIPPETS[name], re.MULTILINE)
    assert said and capsys.readouterr().out.splitlines() == said


def test_all_python_of_the_page_is_a_tested_snippet() -> None:
    assert len(SNIPPETS) == PAGE.count("```python") == 6


def test_a_reward_of_ones_own_takes_fifteen_lines() -> None:
    lines = SNIPPETS["own reward"].partition("\n\n\n")[2].splitlines()
    assert len([line for line in lines if line.strip()]) <= 15


def test_links_lead_to_files_and_headings() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    }
    links = re.findall(r"\]\((?!http)([^)]+)\)", PAGE)
    assert links
    for link in links:
        path, _, heading = link.partition("#")
        assert not path or (DOCS / path).is_file(), link
        assert not heading or heading in headings, link


@pytest.mark.parametrize(
    ("name", "block"), [("exploits", "exploit_block"), ("causes", "cause_block")]
)
def test_the_tables_of_exploits_are_what_the_code_computes(name: str, block: str) -> None:
    tables = script("make_reward_tables")
    computed = getattr(tables, block)()
    assert tables.replaced(PAGE, name, computed) == PAGE, (
        "docs/rewards.md is out of date; run: python docs/make_reward_tables.py"
    )


def test_no_exploit_pays_under_the_hardened_rules() -> None:
    hardened = PAGE.partition("**Hardened**")[2].partition("<!-- exploits: end -->")[0]
    assert "none of" in hardened and "| `whole_video_crop` |" in hardened
    assert "→ **" not in hardened


def test_three_exploits_fail_under_the_published_rules_too() -> None:
    tables = script("make_reward_tables")
    scores = tables.exploit_table(tables.RULESETS["published"])
    paying = {name for one in scores.values() for name, score in one.items() if score.pays}
    named = {"repeated_crop", "never_cropping", "stuffed_answer"}
    assert {name for one in scores.values() for name in one} - paying == named
    assert "Three exploits fail under both" in PAGE and all(f"`{name}`" in PAGE for name in named)


# With c the clues' share, a crop of everything has IoU = IoP = c and IoG = 1: g1 = (2c + 1 + (c +
# 1) / 2) / 4 as it is centred, g2 = (3c + 1) / 4. One clue: c = 1/60, g1 = 0.3854, bonus 0.69.
# Three: c = 1/20, g2 = 0.2875, bonus 0.64. Off by 60 s: DIoU = -(60 / 70)^2, g1 = 0.0332: 0.52.
def test_the_figures_beside_the_plot_of_the_hardened_bonus() -> None:
    curves = script("reward_curves")
    one, three = curves.TaskKind.SINGLE_CLUE_TOOL, curves.TaskKind.MULTI_CLUE_TOOL
    cases = [
        (one, [curves.around(curves.ONE_CLUE[0], curves.VIDEO_SECONDS)]),
        (three, [curves.around(clue, curves.VIDEO_SECONDS / 3) for clue in curves.THREE_CLUES]),
        (one, [curves.around(curves.ONE_CLUE[0], 10, 60)]),
    ]
    paid = [curves.bonus("published", *case) for case in cases]
    assert [f"{amount:.2f}" for amount in paid] == ["0.69", "0.64", "0.52"]
    assert [curves.bonus("hardened", *case) for case in cases] == pytest.approx([0, 0, 0])
    assert "pays it 0.69 and 0.64, and a crop that misses\nby a minute 0.52" in PAGE


@pytest.mark.parametrize("name", PLOTS)
def test_the_plots_are_small_pictures_that_the_page_shows(name: str) -> None:
    path = DOCS / "plots" / f"{name}.svg"
    assert f"](plots/{name}.svg)" in PAGE
    assert path.stat().st_size < 150_000
    assert "dc:date" not in path.read_text(encoding="utf-8")  # else each run would differ


def test_the_plots_are_drawn_the_same_again(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        script("make_reward_plots").main(tmp_path / folder)
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    assert sorted(drawn) == sorted(f"{name}.svg" for name in PLOTS)
    for name, image in drawn.items():
        assert (tmp_path / "second" / name).read_bytes() == image, name


def test_the_example_of_rescoring_has_the_form_that_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from agents.cli import main
    from agents.episode import Episode
    from rewards import Reward
    from tests.sample_trajectories import answer_reply, crop_reply, make_trajectory
    from videoseek_env.trajectory import append_jsonl

    shown = PAGE.partition("<!-- rescore: begin -->")[2].partition("<!-- rescore: end -->")[0]
    command, *output = shown.strip().removeprefix("```text\n").splitlines()
    trajectory = make_trajectory([crop_reply(10, 20), answer_reply("B")])
    saved = [Episode(name, 0, trajectory, Reward(3.0), 0.1).to_dict() for name in ("a", "b")]
    append_jsonl(tmp_path / "runs/eval/episodes.jsonl", saved)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command.removeprefix("$ ").split())
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    headings = [
        line.split() for line in output if line.lstrip().startswith(("policy", "Parts", "Mean"))
    ]
    assert len(headings) == 3
    assert all(heading in printed for heading in headings)


def test_the_snippet_about_models_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="models are an extra")
    page = (DOCS / "llm.md").read_text(encoding="utf-8")
    snippets = dict(SNIPPET.findall(page))
    assert len(snippets) == page.count("```python") == 1
    exec(compile(snippets["a model plays"], "llm.md", "exec"), {"__name__": "snippet"})
    # Two questions, four episodes of each.
    assert len(capsys.readouterr().out.splitlines()) == 8
