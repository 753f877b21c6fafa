from pathlib import Path

import pytest

from agents.report import write_report
from agents.report.curves import draw_curves, read_log
from videoseek_env.trajectory import append_jsonl

pytest.importorskip("matplotlib", reason="plots are an extra")

LOG = [{"step": step, "reward": step / 10, "calls": 1.0, "odd": 5.0} for step in range(30)]


def test_a_panel_for_each_known_number(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_jsonl(path, LOG)
    picture = draw_curves(read_log(path))
    assert picture is not None and picture.lstrip().startswith("<?xml")
    assert "reward" in picture and "crops an episode" in picture and "odd" not in picture
    assert draw_curves(read_log(path)) is not None


@pytest.mark.parametrize("log", [[], [{"step": 0, "odd": 1.0}]])
def test_nothing_known_is_nothing_drawn(log: list[dict[str, float]]) -> None:
    assert draw_curves(log) is None


def test_a_log_whose_lines_differ_is_drawn() -> None:
    assert draw_curves([{"step": 0, "reward": 1.0}, {"step": 1}, {"step": 2, "reward": 2.0}])


def test_the_report_shows_them(tmp_path: Path) -> None:
    picture = draw_curves(LOG)
    assert picture is not None
    path = write_report(tmp_path / "report.html", [], curves={"GRPO & more": picture})
    page = path.read_text(encoding="utf-8")
    assert "data:image/svg+xml;base64," in page and "GRPO &amp; more" in page
    assert "Learning" not in write_report(path, []).read_text(encoding="utf-8")
