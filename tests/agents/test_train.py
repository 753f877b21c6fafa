import filecmp
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="models are an extra")

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from agents.cli_train import SFT
from agents.demo import SHIPPED
from agents.session_rules import read_rules
from agents.train import _precision
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


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_an_adapter_learns_goes_on_and_is_evaluated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, whole, cut = (tmp_path / name for name in ("base", "whole", "cut"))
    learn = ("--steps", "2", "--batch-size", "2", "--learning-rate", "1e-3", "--max-turns", "3")
    assert run(monkeypatch, "train", "sft", *SMALL, *learn, "--out", str(base)) == 0
    model = str(base / "checkpoints/step-000002/model")
    monkeypatch.chdir(tmp_path)
    adapted = ("--model", "base/checkpoints/step-000002/model", "--lora-rank", "2")
    for folder in (whole, cut):
        assert run(monkeypatch, "train", "sft", *SMALL, *learn, *adapted, "--out", str(folder)) == 0
    shutil.rmtree(cut / "checkpoints/step-000002")
    monkeypatch.chdir(base)  # the model is found from here too
    assert run(monkeypatch, "train", "sft", "--out", str(cut), "--resume") == 0
    file = "checkpoints/step-000002/model/adapter_model.safetensors"
    assert filecmp.cmp(whole / file, cut / file, shallow=False)
    capsys.readouterr()

    # A third run goes on with the adapter, and plays by its rules.
    adapter = str(whole / "checkpoints/step-000002/model")
    play = ("--model", adapter, "--steps", "1", "--questions", "1", "--group-size", "2")
    masked = ("--task-decoupling", "--out", str(tmp_path / "grpo"))
    assert run(monkeypatch, "train", "grpo", *SMALL, *play, *masked) == 0
    last, *scope = capsys.readouterr().out.split("videoseek eval --policy ")[1].split()[:3]
    assert scope == ["--model.scope", "tags"]  # who sampled under a mask plays by it too
    rules = read_rules(last.removeprefix("hf:"))
    assert rules is not None and rules.max_turns == 3
    shown = ("--videos", "1", "--limit", "1", "--out", str(tmp_path / "eval"))
    assert run(monkeypatch, "eval", "--policy", last, *scope, *shown) == 0
    for wrong, expected in (
        (("--model", model, "--adapter", adapter, "--lora-rank", "2"), "makes a new adapter"),
        (("--model", adapter, "--lora-rank", "2"), "makes a new adapter"),
        (("--lora-rank", "2"), "an adapter is for a model with a folder or a name"),
        (("--adapter", adapter), "an adapter is for a model with a folder or a name"),
    ):
        message = run(monkeypatch, "train", "sft", *wrong, "--out", str(tmp_path / "wrong"))
        assert expected in str(message)
    assert not (tmp_path / "wrong").exists()


@pytest.fixture
def other_precision() -> Iterator[None]:
    """For an accelerator of another precision than that of the tests before."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("other_precision")
def test_half_precision_goes_on_as_it_began(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    learn = ("train", "sft", *SMALL, "--steps", "2", "--batch-size", "2", "--learning-rate", "1e-3")
    assert run(monkeypatch, *learn, "--mixed-precision", "bf16", "--out", str(whole)) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    with monkeypatch.context() as launcher:
        launcher.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        assert run(launcher, *learn, "--out", str(cut)) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    shutil.rmtree(cut / "checkpoints/step-000002")
    assert run(monkeypatch, "train", "sft", "--out", str(cut), "--resume") == 0
    (file,) = (whole / "checkpoints/step-000002/model").glob("*.safetensors")
    assert filecmp.cmp(file, cut / file.relative_to(whole), shallow=False)


def test_weights_in_half_precision_do_not_learn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ("--dtype", "bfloat16", "--out", str(tmp_path / "run"))
    message = run(monkeypatch, "train", "sft", *SMALL, *options)
    assert "weights that learn are float32" in str(message)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("other_precision")
def test_the_launchers_precision_is_taken_unless_another_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert _precision(SFT()) is None and Accelerator(mixed_precision=None).mixed_precision == "bf16"
    assert _precision(SFT(mixed_precision="no")) == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # the launcher's own default
    for has_gpu, has_bf16, expected in (
        (True, True, "bf16"),
        (True, False, None),
        (False, False, None),
    ):
        monkeypatch.setattr("torch.cuda.is_available", lambda has_gpu=has_gpu: has_gpu)
        monkeypatch.setattr(
            "torch.cuda.is_bf16_supported",
            lambda including_emulation=True, has_bf16=has_bf16: including_emulation or has_bf16,
        )
        assert _precision(SFT()) == expected


def test_layers_that_are_computed_twice_learn_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learn = ("--steps", "2", "--batch-size", "2", "--learning-rate", "1e-3")
    for name, options in (("once", ()), ("twice", ("--gradient-checkpointing",))):
        folder = str(tmp_path / name)
        assert run(monkeypatch, "train", "sft", *SMALL, *learn, *options, "--out", folder) == 0
    once, twice = (weights(tmp_path / name, 2) for name in ("once", "twice"))
    for name, tensor in once.items():
        assert tensor.isclose(twice[name], atol=2e-4).float().mean() > 0.99, name


def test_settings_that_are_damaged_are_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for text in (
        '{"method": "grpo", "ste',
        '{"method": "dpo"}',
        "[]",
    ):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        message = run(monkeypatch, "train", "grpo", "--out", str(tmp_path), "--resume")
        assert "config.json holds no settings of a run" in str(message)
    (tmp_path / "config.json").write_text('{"method": "sft", "old": 1}', encoding="utf-8")
    message = str(run(monkeypatch, "train", "sft", "--out", str(tmp_path), "--resume"))
    assert "config.json is of another version: it lacks adapter, " in message
    assert "and holds old beside" in message


def test_resuming_takes_no_other_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "run")
    learn = ("--steps", "2", "--batch-size", "2", "--out", folder)
    assert run(monkeypatch, "train", "sft", *SMALL, *learn) == 0
    go_on = ("--out", folder, "--resume")
    message = run(monkeypatch, "train", "sft", *go_on, "--steps", "3", "--learning-rate", "0.1")
    assert "--steps, --learning-rate would be another" in str(message)
    message = run(monkeypatch, "train", "grpo", *go_on)
    assert "holds a run of sft, not grpo" in str(message)
    capsys.readouterr()
    assert run(monkeypatch, "train", "sft", *go_on, "--steps", "2") == 0
    printed = capsys.readouterr().out
    assert "All 2 steps are done." in printed and "2/2" in printed
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert run(monkeypatch, "train", "sft", *go_on) == 0
    assert "There is no checkpoint yet: the run begins again." in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [("--save-every", "0"), ("--show-every", "0"),
                                   ("--wandb-project", "p")])  # fmt: skip
def test_a_setting_that_is_refused_leaves_no_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: tuple[str, str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    learn = ("--steps", "1", "--videos", "1", "--batch-size", "2", "--out", str(tmp_path))
    message = run(monkeypatch, "train", "sft", *learn, *wrong)
    assert isinstance(message, str) and message.startswith("videoseek: ")
    assert not (tmp_path / "config.json").exists()


def test_the_shipped_model_is_taught_and_asked_what_it_knows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = ("--model", str(SHIPPED), "--steps", "1", "--batch-size", "8", "--videos", "2")
    assert run(monkeypatch, "train", "sft", *learn, "--out", str(tmp_path / "sft")) == 0
    (line,) = [line for _, line in read_jsonl(tmp_path / "sft" / "log.jsonl")]
    assert line["loss"] < 0.5  # in its own words; in others it is above 7
    shown = ("--videos", "2", "--out", str(tmp_path / "eval"))
    assert run(monkeypatch, "eval", "--policy", f"hf:{SHIPPED}", *shown) == 0
    episodes = [line for _, line in read_jsonl(tmp_path / "eval" / "episodes.jsonl")]
    right = sum(line["reward"]["parts"]["acc"] for line in episodes)
    assert len(episodes) == 24 and right >= 12
    assert "/needle-sft" in capsys.readouterr().out


def test_who_learns_by_a_file_s_demonstrations_makes_no_videos(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ("--steps", "1", "--batch-size", "2", "--learning-rate", "1e-3")
    played = ("eval", "--policy", "oracle", "--videos", "1", "--limit", "2", "--budget", "tiny")
    assert run(monkeypatch, *played, "--out", str(tmp_path / "played")) == 0
    monkeypatch.setattr("agents.train.tasks_for", None)
    demonstrations = ("--demonstrations", str(tmp_path / "played" / "episodes.jsonl"))
    learn = ("train", "sft", *options, *demonstrations)
    assert run(monkeypatch, *learn, "--out", str(tmp_path / "run")) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("sft", "--seed", str(2**32)), "--seed must be in"),
        (("sft", "--batch-size", "0"), "batch_size must be at least 1"),
        (("ppo", "--episodes", "0"), "episodes must be at least 1"),
        (("grpo", "--rollout-batch", "0"), "rollout_batch must be at least 1"),
    ],
)
def test_numbers_are_checked_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("agents.train.load_learning_model", None)
    assert message in str(run(monkeypatch, "train", *options, "--out", str(tmp_path)))
