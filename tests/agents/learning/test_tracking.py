import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agents.learning.tracking import JsonLinesTracker, make_trackers


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_step_is_a_line(tmp_path: Path) -> None:
    (tracker,) = make_trackers(tmp_path / "run", config={})
    tracker.log({"reward": 0.5}, step=0)
    tracker.log({"reward": 0.75, "calls": 2.0}, step=1)
    tracker.finish()
    assert lines(tmp_path / "run" / "log.jsonl") == [
        {"step": 0, "reward": 0.5},
        {"step": 1, "reward": 0.75, "calls": 2.0},
    ]


def test_steps_that_will_be_done_again_are_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first = JsonLinesTracker(path)
    for step in range(5):
        first.log({"loss": float(step)}, step=step)
    with path.open("a") as file:
        file.write('{"step": 5, "los')  # killed while writing
    again = JsonLinesTracker(path, resume_from=3)
    assert [line["step"] for line in lines(path)] == [0, 1, 2]
    again.log({"loss": 9.0}, step=3)
    assert lines(path)[-1] == {"step": 3, "loss": 9.0}
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.jsonl"]


def test_whoever_is_killed_while_taking_out_loses_no_line(tmp_path: Path) -> None:
    """A real kill, at the moment before the shortened file takes the place of the whole one."""
    path = tmp_path / "log.jsonl"
    tracker = JsonLinesTracker(path)
    for step in range(4):
        tracker.log({"loss": 1.0}, step=step)
    whole = path.read_bytes()
    script = """
import os, pathlib, signal, sys
from agents.learning.tracking import JsonLinesTracker
pathlib.Path.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
JsonLinesTracker(pathlib.Path(sys.argv[1]), resume_from=2)
"""
    done = subprocess.run([sys.executable, "-c", script, path], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == whole
    JsonLinesTracker(path, resume_from=2)
    assert [line["step"] for line in lines(path)] == [0, 1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_its_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resume_from, steps in ((0, range(4)), (2, range(2, 5))):
        _, tracker = make_trackers(
            tmp_path,
            config={"steps": 5, "folder": tmp_path, "names": ["a"], "none": None},
            resume_from=resume_from,
            tensorboard=True,
        )
        for step in steps:
            tracker.log({"reward": step + resume_from / 10}, step=step)
        tracker.finish()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    # Steps 2 and 3 were done twice; the second time counts.
    values = [(event.step, round(event.value, 3)) for event in events.Scalars("reward")]
    assert values == [(0, 0.0), (1, 1.0), (2, 2.2), (3, 3.2), (4, 4.2)]


def test_wandb_keeps_a_run_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    script = """
import sys
from pathlib import Path
from agents.learning.tracking import make_trackers

_, tracker = make_trackers(Path(sys.argv[1]), config={"steps": 2}, wandb_project="test")
tracker.log({"reward": 1.0}, step=0)
tracker.finish()
"""
    folder = tmp_path / "run"
    kept = {
        **os.environ,
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "HOME": str(tmp_path / "home"),
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_DATA_DIR": str(tmp_path / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-c", script, folder],
        env=kept,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "wandb").glob("offline-run-*")
    name = (folder / "wandb_id").read_text()
    assert run.name.endswith(name)
    (written,) = run.glob("*.wandb")
    assert b"reward" in written.read_bytes()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"--wandb-project needs the package 'wandb'.*\[wandb\]"):
        make_trackers(tmp_path, config={}, wandb_project="test")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="--tensorboard needs the package 'tensorboard'"):
        make_trackers(tmp_path, config={}, tensorboard=True)
