import filecmp
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator

from agents.learning.checkpoint import checkpoints, restore
from agents.learning.learner import Update
from agents.learning.optimiser import NonFiniteLossError
from agents.learning.running import RunConfig, latest_checkpoint, run, save_batch
from agents.learning.sample import Sample
from agents.learning.tracking import JsonLinesTracker
from agents.llm.context import TOKEN
from agents.llm.model import VisionLanguageModel
from tests.agents.learning.learners import are_equal, fresh_model, grpo, parameters, poison, sft
from tests.agents.learning.test_checkpoint import files_at_most, names
from tests.agents.learning.training_script import Notes, go_on, started
from videoseek_env.errors import ConfigError
from videoseek_env.trajectory import read_jsonl
from videoseek_env.video.clip import ClipRef


def steps_of(log: Path) -> list[int]:
    return [line["step"] for _, line in read_jsonl(log)]


@contextmanager
def disk_full(
    size_bytes: int, *, after: int, until: int | None = None
) -> Iterator[Callable[[int, Update], None]]:
    """Gives a `show` that lets the disk be full after one step, and have room after another."""
    with ExitStack() as limits:

        def show(step: int, update: Update) -> None:
            if step == after:
                limits.enter_context(files_at_most(size_bytes))
            elif step == until:
                limits.close()

        yield show


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    minute_video: Path, tmp_path: Path
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    output = ""
    with started("hang", "ppo", minute_video, killed) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output += line
            if line == "saving\n":
                break
    assert output.endswith("saving\n"), output
    draft, *saved = names(killed / "checkpoints")
    assert draft.startswith(".step-000003-") and saved == ["step-000001", "step-000002"]
    go_on("ppo", minute_video, killed)
    learner = go_on("ppo", minute_video, whole)
    for folder in (killed, whole):
        assert steps_of(folder / "log.jsonl") == [0, 1, 2, 3, 4, 5]
        assert names(folder / "checkpoints") == ["step-000004", "step-000005", "step-000006"]
    for name in ("model/model.safetensors", "optimiser.safetensors", "value_head.safetensors"):
        files = (folder / "checkpoints" / "step-000006" / name for folder in (killed, whole))
        assert filecmp.cmp(*files, shallow=False), name
    model = VisionLanguageModel.from_pretrained(whole / "checkpoints" / "step-000006" / "model")
    assert are_equal(parameters(model.network), parameters(learner.model.network))


def test_a_run_logs_shows_and_saves(
    minute_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, shown = Notes(), list[tuple[int, Update]]()
    learner = sft(minute_video, steps=5)
    learn, begun_with = learner.update, list[Sequence[Sample]]()

    def update(step: int) -> Update:
        begun_with.append(learner.batch)
        return learn(step)

    monkeypatch.setattr(learner, "update", update)
    last = run(
        learner,
        RunConfig(folder=tmp_path, save_every=2, keep=2),
        accelerator=Accelerator(cpu=True),
        trackers=lambda done: [notes],
        show=lambda step, update: shown.append((step, update)),
    )
    assert notes.steps == [step for step, _ in shown] == [0, 1, 2, 3, 4] and notes.is_finished
    assert begun_with == [()] * 5  # no step holds the frames of the one before
    # After 2, 4, and at the end; two are kept.
    assert names(tmp_path / "checkpoints") == ["step-000004", "step-000005"]
    assert last == latest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-000005"
    again = run(
        sft(minute_video, steps=5),
        RunConfig(folder=tmp_path),
        accelerator=Accelerator(cpu=True),
        checkpoint=last,
    )
    assert again == last  # there was nothing left to do


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)],
)
def test_who_asks_a_run_to_stop_finds_its_last_step_saved(
    minute_video: Path,
    tmp_path: Path,
    number: signal.Signals,
    error: type[BaseException],
    code: int | None,
) -> None:
    before, notes = signal.getsignal(number), Notes()
    with pytest.raises(error) as stopped:
        run(
            sft(minute_video, steps=9),
            RunConfig(folder=tmp_path, save_every=50),
            accelerator=Accelerator(cpu=True),
            trackers=lambda done: [notes],
            show=lambda step, update: os.kill(os.getpid(), number) if step == 1 else None,
        )
    assert getattr(stopped.value, "code", None) == code
    # The signal came as the second step was being shown, and ended the third.
    assert names(tmp_path / "checkpoints") == ["step-000003"]
    assert notes.steps == [0, 1, 2] and notes.is_finished
    assert signal.getsignal(number) is before


def test_who_asks_twice_need_not_wait(minute_video: Path, tmp_path: Path) -> None:
    def insist(step: int, update: Update) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(
            sft(minute_video, steps=9),
            RunConfig(folder=tmp_path),
            accelerator=Accelerator(cpu=True),
            show=insist,
        )
    assert latest_checkpoint(tmp_path) is None


def test_a_run_may_be_on_a_thread_which_cannot_catch_signals(
    minute_video: Path, tmp_path: Path
) -> None:
    learner, config = sft(minute_video, steps=1), RunConfig(folder=tmp_path)
    with ThreadPoolExecutor() as threads:
        last = threads.submit(run, learner, config, accelerator=Accelerator(cpu=True)).result()
    assert last.name == "step-000001"


def test_a_save_that_fails_in_the_middle_is_made_up_for_by_the_next(
    minute_video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with disk_full(10_000, after=1, until=2) as show:
        last = run(
            sft(minute_video, steps=3),
            RunConfig(folder=tmp_path, save_every=1),
            accelerator=Accelerator(cpu=True),
            show=show,
        )
    assert names(tmp_path / "checkpoints") == ["step-000001", "step-000003"]
    assert last.name == "step-000003"
    assert "step 2 was not saved, earlier checkpoints stand" in caplog.text


def test_a_log_that_cannot_be_written_is_no_reason_to_lose_a_run(
    minute_video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with disk_full(1, after=0, until=1) as show:
        run(
            sft(minute_video, steps=4),
            RunConfig(folder=tmp_path, save_every=2),
            accelerator=Accelerator(cpu=True),
            trackers=lambda done: [JsonLinesTracker(tmp_path / "log.jsonl")],
            show=show,
        )
    assert steps_of(tmp_path / "log.jsonl") == [0, 2, 3]
    assert "step 1 was not logged: " in caplog.text
    assert names(tmp_path / "checkpoints") == ["step-000002", "step-000004"]


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (RuntimeError("out of luck"), ["step-000002", "step-000003"]),
        (NonFiniteLossError("the loss is nan"), ["step-000002"]),
    ],
)
def test_the_steps_before_one_that_fails_are_saved_unless_they_may_have_ruined_the_model(
    minute_video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kept: list[str],
) -> None:
    learner = sft(minute_video, steps=5)
    step = learner.optimiser.step

    def fail() -> float:
        if learner.optimiser.steps_done == 3:
            raise error
        return step()

    monkeypatch.setattr(learner.optimiser, "step", fail)
    with pytest.raises(type(error), match=str(error)):
        run(
            learner,
            RunConfig(folder=tmp_path, save_every=2, keep=1),
            accelerator=Accelerator(cpu=True),
        )
    assert names(tmp_path / "checkpoints") == kept
    saved = checkpoints(tmp_path / "checkpoints")[-1]
    done = restore(sft(minute_video, steps=5), saved)
    drawn = json.loads((saved / "state.json").read_text())["drawn"]
    assert drawn == done * learner.config.batch_size


def test_a_folder_holds_one_run_at_a_time(
    minute_video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    accelerator, config = Accelerator(cpu=True), RunConfig(folder=tmp_path)

    def begin_another(step: int, update: Update) -> None:
        run(sft(minute_video, steps=1), config, accelerator=accelerator)

    run(sft(minute_video, steps=1), config, accelerator=accelerator, show=begin_another)
    assert "ConfigError: another process is at work in" in caplog.text
    run(sft(minute_video, steps=1), config, accelerator=accelerator)


def test_what_finishes_badly_keeps_nothing_else_from_finishing(
    minute_video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(Notes):
        def finish(self) -> None:
            raise OSError("no space left on device")

    notes = Notes()
    run(
        sft(minute_video, steps=1),
        RunConfig(folder=tmp_path),
        accelerator=Accelerator(cpu=True),
        trackers=lambda done: [Full(), notes],
    )
    assert notes.is_finished and "no space left on device" in caplog.text


def test_a_last_save_that_fails_is_an_error(minute_video: Path, tmp_path: Path) -> None:
    notes = Notes()
    with (
        disk_full(10_000, after=1) as show,
        pytest.raises(OSError, match=r"(?i)file too large"),
    ):
        run(
            sft(minute_video, steps=2),
            RunConfig(folder=tmp_path, save_every=1),
            accelerator=Accelerator(cpu=True),
            trackers=lambda done: [notes],
            show=show,
        )
    assert names(tmp_path / "checkpoints") == ["step-000001"] and notes.is_finished


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_batch(
    minute_video: Path, tmp_path: Path, minibatches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = grpo(minute_video, minibatches=minibatches)
    before, backward = parameters(learner.model.network), learner.optimiser.backward
    monkeypatch.setattr(learner.optimiser, "backward", lambda loss: backward(loss + np.inf))
    with pytest.raises(NonFiniteLossError, match=r"step 0: the loss is inf\. .*bad-batch-000000-0"):
        run(learner, RunConfig(folder=tmp_path), accelerator=Accelerator(cpu=True))
    assert are_equal(before, parameters(learner.model.network))
    with np.load(tmp_path / "bad-batch-000000-0.npz") as saved:
        clips = json.loads(str(saved["clips"]))
        assert len(clips) == len(learner.batch) == 6 // minibatches
        for place, sample in enumerate(learner.batch):
            tokens = saved[f"tokens_{place}"]
            assert tokens.dtype == TOKEN and np.array_equal(tokens["id"], sample.tokens["id"])
            assert tuple(map(ClipRef.from_dict, clips[place])) == sample.refs


def test_weights_that_are_not_finite_are_found_out(minute_video: Path, tmp_path: Path) -> None:
    model = fresh_model()
    poison(model)
    with pytest.raises(NonFiniteLossError, match="step 0: the loss is nan"):
        run(
            sft(minute_video, model),
            RunConfig(folder=tmp_path),
            accelerator=Accelerator(cpu=True),
        )


def test_a_batch_is_kept_where_its_folder_is_not_there_yet(
    minute_video: Path, tmp_path: Path
) -> None:
    path = save_batch(sft(minute_video), tmp_path / "new" / "batch.npz")
    with np.load(path) as saved:
        assert json.loads(str(saved["clips"])) == []


@pytest.mark.parametrize("fields", [{"save_every": 0}, {"keep": 0}])
def test_numbers_below_one_are_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        RunConfig(folder=tmp_path, **fields)
