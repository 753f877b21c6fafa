import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="models are an extra")

from safetensors.torch import load_file

from agents.session_rules import read_rules
from tests.agents.test_cli import run
from videoseek_env.trajectory import read_jsonl

SMALL = ("--videos", "1", "--save-every", "1", "--keep", "9")


def weights(folder: Path, step: int) -> dict[str, Any]:
    return load_file(folder / f"checkpoints/step-{step:06d}/model/model.safetensors")


def steps(folder: Path) -> list[int]:
    return [line["step"] for _, line in read_jsonl(folder / "log.jsonl")]


def test_a_model_learns_by_demonstrations_then_by_rewards_and_is_evaluated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft, grpo, shown = tmp_path / "sft", tmp_path / "grpo", tmp_path / "eval"
    learn = ("--steps", "2", "--batch-size", "4", "--learning-rate", "1e-3", "--out", str(sft))
    assert run(monkeypatch, "train", "sft", *SMALL, *learn) == 0
    assert "loss" in capsys.readouterr().out
    model = str(sft / "checkpoints/step-000002/model")
    play = ("--model", model, "--steps", "1", "--questions", "1", "--group-size", "2")
    tracked = ("--max-turns", "1", "--variant", "grpo", "--tensorboard", "--out", str(grpo))
    assert run(monkeypatch, "train", "grpo", *SMALL, *play, *tracked) == 0
    assert "reward" in capsys.readouterr().out
    assert steps(sft) == [0, 1] and steps(grpo) == [0]
    assert list((grpo / "tensorboard").rglob("events.*"))
    trained = grpo / "checkpoints/step-000001/model"
    rules = read_rules(trained)
    assert rules is not None and rules.max_turns == 1 and rules.budget.name == "tiny"
    evaluate = ("eval", "--policy", f"hf:{trained}", "--videos", "1", "--limit", "1")
    assert run(monkeypatch, *evaluate, "--out", str(shown)) == 0
    (record,) = [line for _, line in read_jsonl(shown / "episodes.jsonl")]
    assert record["settings"]["budget"] == "tiny" and record["settings"]["max_turns"] == 1


def test_a_run_that_goes_on_is_the_same_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    learn = ("--steps", "3", "--batch-size", "4", "--learning-rate", "1e-3")
    for folder in (whole, cut):
        assert run(monkeypatch, "train", "sft", *SMALL, *learn, "--out", str(folder)) == 0
    for step in (2, 3):  # as if it had been killed after the first step
        for path in sorted((cut / f"checkpoints/step-{step:06d}").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (cut / f"checkpoints/step-{step:06d}").rmdir()
    assert run(monkeypatch, "train", "sft", "--out", str(cut), "--resume") == 0
    assert steps(cut) == [0, 1, 2]
    expected, found = weights(whole, 3), weights(cut, 3)
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)
    capsys.readouterr()


def test_a_run_is_neither_overwritten_nor_resumed_from_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    message = run(monkeypatch, "train", "grpo", "--out", str(folder), "--resume")
    assert "there is no run in" in str(message)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({}), encoding="utf-8")
    message = run(monkeypatch, "train", "grpo", "--out", str(folder))
    assert "holds a run; choose another --out, or --resume" in str(message)
