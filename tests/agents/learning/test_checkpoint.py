import dataclasses
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from agents.learning.checkpoint import checkpoints, restore, save_checkpoint
from agents.learning.running import latest_checkpoint
from agents.llm.model import VisionLanguageModel
from tests.agents.learning.learners import are_equal, fresh_model, grpo, parameters, ppo, sft
from tests.agents.learning.training_script import MAKERS, SETTINGS, weights
from videoseek_env.errors import ConfigError


def moments(learner: Any) -> list[torch.Tensor]:
    state = learner.optimiser.adamw.state
    return [state[p][name] for p in learner.optimiser.parameters for name in sorted(state[p])]


@contextmanager
def files_at_most(size_bytes: int) -> Iterator[None]:
    """Let the operating system refuse to write longer files, as it refuses on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def adapted(*, rank: int) -> VisionLanguageModel:
    model = fresh_model()
    adapter = LoraConfig(target_modules=["q_proj"], r=rank)
    return dataclasses.replace(model, network=get_peft_model(model.network, adapter))


def frozen_tower() -> VisionLanguageModel:
    model = fresh_model()
    model.base.model.visual.requires_grad_(False)
    return model


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_run_that_goes_on_is_the_run_that_never_stopped(
    minute_video: Path, tmp_path: Path, kind: str
) -> None:
    make, settings = MAKERS[kind], {**SETTINGS[kind], "steps": 6}
    whole = make(minute_video, **settings)
    for step in range(3):
        whole.update(step)
    saved = save_checkpoint(whole, tmp_path, step=3, keep=1)
    kept = weights(whole)
    for step in range(3, 6):
        whole.update(step)

    model = VisionLanguageModel.from_pretrained(saved / "model")
    again = make(minute_video, model, **settings)
    assert restore(again, saved) == 3
    assert are_equal(kept, weights(again))
    for step in range(3, 6):
        again.update(step)
    assert are_equal(weights(whole), weights(again)) and not are_equal(kept, weights(again))
    assert are_equal(moments(whole), moments(again))
    assert again.drawn == whole.drawn > 0
    assert again.optimiser.steps_done == whole.optimiser.steps_done == again.optimiser.total_steps


def test_a_checkpoint_before_the_first_step_is_one_too(minute_video: Path, tmp_path: Path) -> None:
    saved = save_checkpoint(grpo(minute_video), tmp_path, step=0, keep=1)
    assert restore(grpo(minute_video), saved) == 0


def test_a_disk_that_is_full_leaves_what_was_there_and_no_rubbish(
    minute_video: Path, tmp_path: Path
) -> None:
    learner = sft(minute_video)
    first = save_checkpoint(learner, tmp_path, step=1, keep=1)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    largest = max(map(len, before.values()))
    for limit in (100, largest - 1):
        with files_at_most(limit), pytest.raises(OSError, match=r"(?i)file too large"):
            save_checkpoint(learner, tmp_path, step=2, keep=1)
        assert names(tmp_path) == ["step-000001"]
    assert {path: path.read_bytes() for path in before} == before


def test_all_of_a_checkpoint_is_on_the_disk_before_it_is_one(
    minute_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "step-000001"
    early, late = set[int](), set[int]()

    def sync(descriptor: int) -> None:
        (late if final.exists() else early).add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    save_checkpoint(sft(minute_video), tmp_path, step=1, keep=1)
    assert early >= {path.stat().st_ino for path in (final, *final.rglob("*"))}
    assert late == {tmp_path.stat().st_ino}


@pytest.mark.parametrize(("step", "left"), [(1, []), (2, ["step-000002"])])
def test_whoever_is_killed_as_it_deletes_leaves_no_half_of_a_checkpoint(
    minute_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, left: list[str]
) -> None:
    def die(folder: Path, **options: Any) -> None:
        raise KeyboardInterrupt

    learner = sft(minute_video)
    save_checkpoint(learner, tmp_path, step=1, keep=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", die)
        save_checkpoint(learner, tmp_path, step=step, keep=1)
    assert [path.name for path in checkpoints(tmp_path)] == left


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_a_disk_that_has_room_for_the_adapter_but_not_for_the_tokenizer_is_full(
    minute_video: Path, tmp_path: Path
) -> None:
    learner = sft(minute_video, adapted(rank=1))
    saved = save_checkpoint(learner, tmp_path, step=1, keep=1)
    size = (saved / "model" / "adapter_model.safetensors").stat().st_size
    assert size + 2000 < (saved / "model" / "tokenizer.json").stat().st_size
    with files_at_most(size + 2000), pytest.raises(OSError, match=r"(?i)file too large"):
        save_checkpoint(learner, tmp_path, step=2, keep=1)
    assert names(tmp_path) == ["step-000001"]


def test_what_fails_to_be_added_leaves_no_checkpoint(minute_video: Path, tmp_path: Path) -> None:
    def fail(draft: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(sft(minute_video), tmp_path, step=1, keep=1, annotate=fail)
    assert names(tmp_path) == []
    saved = save_checkpoint(
        sft(minute_video),
        tmp_path,
        step=1,
        keep=1,
        annotate=lambda draft: (draft / "note").write_text("x"),
    )
    assert (saved / "note").read_text() == "x"


def test_the_last_few_are_kept_and_the_drafts_of_killed_processes_go(
    minute_video: Path, tmp_path: Path
) -> None:
    learner = sft(minute_video)
    (tmp_path / ".step-000001-0123").mkdir()
    (tmp_path / ".step-000001-0123" / "state.json").write_text("{")
    (tmp_path / "step-notes").mkdir()
    for step in (999_998, 999_999, 1_000_000):
        save_checkpoint(learner, tmp_path, step=step, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-999999", "step-1000000"]
    assert names(tmp_path) == ["step-1000000", "step-999999", "step-notes"]


def test_a_run_that_goes_on_from_an_earlier_checkpoint_replaces_the_later_ones(
    minute_video: Path, tmp_path: Path
) -> None:
    learner = sft(minute_video)
    for step in (1, 2, 3, 4):
        save_checkpoint(learner, tmp_path, step=step, keep=9)
    saved = save_checkpoint(learner, tmp_path, step=3, keep=2)
    assert checkpoints(tmp_path) == [tmp_path / "step-000002", saved]


def test_a_checkpoint_is_replaced_by_one_of_the_same_step(
    minute_video: Path, tmp_path: Path
) -> None:
    learner = sft(minute_video)
    save_checkpoint(learner, tmp_path, step=1, keep=2)
    learner.update(0)
    saved = save_checkpoint(learner, tmp_path, step=1, keep=2)
    assert names(tmp_path) == ["step-000001"]
    model = VisionLanguageModel.from_pretrained(saved / "model")
    assert are_equal(parameters(model.network), parameters(learner.model.network))


def test_no_checkpoint_is_known_before_there_is_one(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None and checkpoints(tmp_path / "none") == []


def test_the_checkpoint_of_another_run_is_refused(minute_video: Path, tmp_path: Path) -> None:
    saved = save_checkpoint(grpo(minute_video, steps=6), tmp_path, step=3, keep=1)
    with pytest.raises(ConfigError, match=r"of a run of 6 steps .* this one has 5"):
        restore(grpo(minute_video, steps=5), saved)
    with pytest.raises(ConfigError, match=r"6 of the optimiser, this one has 6 and 12"):
        restore(grpo(minute_video, steps=6, minibatches=2), saved)
    with pytest.raises(ConfigError, match=r"no checkpoint of this kind of learner: .*value_head"):
        restore(ppo(minute_video, steps=6), saved)
    with pytest.raises(ConfigError, match="no checkpoint of this kind of learner"):
        restore(grpo(minute_video), tmp_path / "step-000009")


def test_a_damaged_checkpoint_is_said_to_be_one(minute_video: Path, tmp_path: Path) -> None:
    for name in ("state.json", "optimiser.safetensors"):
        saved = save_checkpoint(sft(minute_video), tmp_path, step=1, keep=1)
        text = (saved / name).read_bytes()
        (saved / name).write_bytes(text[: len(text) // 2])
        with pytest.raises(ConfigError, match="is damaged"):
            restore(sft(minute_video), saved)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
@pytest.mark.parametrize(
    ("one", "other"),
    [(fresh_model, frozen_tower), (partial(adapted, rank=2), partial(adapted, rank=4))],
)
def test_moments_of_other_parameters_are_refused(
    minute_video: Path,
    tmp_path: Path,
    one: Callable[[], VisionLanguageModel],
    other: Callable[[], VisionLanguageModel],
) -> None:
    learner = sft(minute_video, one())
    learner.update(0)
    saved = save_checkpoint(learner, tmp_path, step=1, keep=1)
    with pytest.raises(ConfigError, match=r"of a learner of \d+ parameters, this one has \d+"):
        restore(sft(minute_video, other()), saved)


def test_nothing_in_a_checkpoint_is_a_pickle(minute_video: Path, tmp_path: Path) -> None:
    learner = ppo(minute_video)
    learner.update(0)
    saved = save_checkpoint(learner, tmp_path, step=1, keep=1)
    endings = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert endings <= {".safetensors", ".json", ".jinja"}
    state = json.loads((saved / "state.json").read_text())
    assert state["step"] == 1 and state["optimiser_done"] == 2
    files = ["optimiser.safetensors", "state.json", "value_head.safetensors"]
    assert names(saved) == ["model", *files]
