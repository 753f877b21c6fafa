from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agents.learning.from_nothing.copying import Copying
from agents.learning.from_nothing.settings import NEEDLE_SESSION, needle_config
from agents.learning.from_nothing.train import FromNothingConfig, train_from_nothing
from agents.llm.generation import Sampling
from agents.llm.hf_policy import HFPolicy
from agents.llm.model import VisionLanguageModel
from agents.rollout import rollout
from tests.agents.learning.from_nothing.small import small_model
from videoseek_env.datasets.needle import load_needle
from videoseek_env.errors import ConfigError
from videoseek_env.trajectory import read_jsonl

CONFIG = FromNothingConfig(
    videos=1,
    imagined_examples=12,
    copying_steps=1,
    imagining_steps=1,
    seeing_steps=1,
    playing_steps=1,
    guessing_steps=1,
    batch_tokens=600,
)
STAGES = ["copying", "imagining", "seeing", "playing", "guessing"]
LOGGED = ["copying", "copying", *STAGES]
"""One step of copying teaches nothing: there are as many rounds as there may be."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that went through."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    assert train_from_nothing(CONFIG, folder) == folder / "5-guessing"
    return folder


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def test_every_stage_is_kept_logged_and_changes_the_model(folder: Path) -> None:
    names = ["0-new", *(f"{number}-{name}" for number, name in enumerate(STAGES, 1))]
    assert sorted(path.name for path in folder.glob("[0-9]-*")) == names
    lines = [line for _, line in read_jsonl(folder / "log.jsonl")]
    assert [line["stage"] for line in lines] == LOGGED
    assert [line["round"] for line in lines if line["stage"] == "copying"] == [0, 1, 2]
    for before, after in itertools.pairwise(names):
        old, new = weights(folder / before), weights(folder / after)
        assert any(not torch.equal(old[name], new[name]) for name in old)


def test_copying_has_no_other_round_once_it_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Learned(KeyboardInterrupt):
        pass

    def stop(line: Mapping[str, Any]) -> None:
        if line["stage"] != "copying":
            raise Learned

    monkeypatch.setattr("agents.learning.from_nothing.train.COPIED_WELL", 0.0)
    with pytest.raises(Learned):
        train_from_nothing(CONFIG, tmp_path, report=stop)
    rounds = [line.get("round") for _, line in read_jsonl(tmp_path / "log.jsonl")]
    assert rounds == [0, None]


def test_rounds_of_copying_draw_other_sequences() -> None:
    def draw(part: int) -> bytes:
        stage = Copying(small_model(), np.arange(9), rows=2, length=32, seed=0, part=part)
        return stage.draw_repeated()[0].tobytes()

    assert draw(0) == draw(0) != draw(1)


def test_only_the_tower_learns_to_see_and_all_but_it_to_imagine(folder: Path) -> None:
    copied, imagined, seen = (
        weights(folder / name) for name in ("1-copying", "2-imagining", "3-seeing")
    )
    for name in copied:
        is_tower = ".visual." in name or name.startswith("visual.")
        same = imagined if is_tower else seen
        assert torch.equal(same[name], (copied if is_tower else imagined)[name])


def test_a_run_that_was_cut_off_ends_as_it_would_have(folder: Path, tmp_path: Path) -> None:
    def stop(line: object) -> None:
        if isinstance(line, dict) and line["stage"] == "seeing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_from_nothing(CONFIG, tmp_path, report=stop)
    assert not (tmp_path / "3-seeing").exists()
    kept = (tmp_path / "2-imagining" / "model.safetensors").stat().st_mtime_ns
    last = train_from_nothing(CONFIG, tmp_path)
    assert (tmp_path / "2-imagining" / "model.safetensors").stat().st_mtime_ns == kept
    assert [line["stage"] for _, line in read_jsonl(tmp_path / "log.jsonl")] == LOGGED
    whole = weights(folder / "5-guessing")
    for name, weight in weights(last).items():
        assert torch.equal(weight, whole[name]), name


def test_a_finished_run_is_not_repeated(folder: Path) -> None:
    lines: list[object] = []
    assert train_from_nothing(CONFIG, folder, report=lines.append) == folder / "5-guessing"
    assert lines == []


def test_the_checkpoint_plays(folder: Path) -> None:
    model = VisionLanguageModel.from_pretrained(folder / "5-guessing")
    tasks = load_needle(needle_config("train", 1), root=folder / "videos")[:2]
    policy = HFPolicy.factory(model, sampling=Sampling(max_tokens=20))
    for episode in rollout(policy, tasks, session=model.counting(NEEDLE_SESSION)):
        assert episode.error is None
    size = (folder / "5-guessing" / "model.safetensors").stat().st_size
    assert size < 8 * 2**20


def test_a_folder_of_another_run_is_refused(folder: Path) -> None:
    other = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(ConfigError, match="another configuration"):
        train_from_nothing(other, folder)


@pytest.mark.parametrize("fields", [{"videos": 0}, {"playing_steps": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        FromNothingConfig(**fields)
