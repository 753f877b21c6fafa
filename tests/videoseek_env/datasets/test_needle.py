import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from videoseek_env.datasets import load_tasks, needle_store
from videoseek_env.datasets.needle import cache_folder, load_needle, plan_tasks
from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.datasets.needle_render import write_video as real_write_video
from videoseek_env.datasets.needle_scene import Scene, plan_scene
from videoseek_env.errors import DatasetError
from videoseek_env.video import open_video

FIELDS: dict[str, Any] = {
    "videos": 3, "width": 64, "height": 64, "fps": 2, "budget": "tiny",
    "duration_seconds": (70, 80),
}  # fmt: skip
SMALL: dict[str, Any] = FIELDS | {"progress": False}
REPOSITORY = Path(__file__).parents[3]
FULL_DISK = Path("/dev/full")


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The videos that were rendered, as they are."""
    indices: list[int] = []

    def write_video(path: Path, scene: Scene, config: NeedleConfig) -> None:
        indices.append(scene.index)
        real_write_video(path, scene, config)

    monkeypatch.setattr(needle_store, "write_video", write_video)
    return indices


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


WHOLE = ["00000.mp4", "00001.mp4", "00002.mp4", "annotations.jsonl", "manifest.json"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_set_is_made_once_and_found_again(tmp_path: Path, rendered: list[int]) -> None:
    tasks = load_tasks("needle", root=tmp_path, **SMALL)
    assert sorted(rendered) == [0, 1, 2]
    assert files(tmp_path) == WHOLE
    assert load_tasks("needle", root=tmp_path, **SMALL) == tasks
    assert len(rendered) == 3
    assert len(tasks) == 18
    for task in tasks:
        assert Path(task.video).is_absolute()
    info = open_video(tasks[0].video).info
    assert info.duration_seconds == pytest.approx(tasks[0].duration_seconds)


def test_the_same_set_has_the_same_bytes_whatever_the_number_of_threads(tmp_path: Path) -> None:
    for name, workers in [("a", 1), ("b", 3)]:
        load_needle(root=tmp_path / name, workers=workers, **SMALL)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_the_tasks_are_those_that_were_planned(tmp_path: Path) -> None:
    tasks = load_needle(root=tmp_path, **SMALL)
    planned = plan_tasks(NeedleConfig(**FIELDS))
    assert [task.question for task in tasks] == [task.question for task in planned]
    again = load_needle(root=tmp_path, **SMALL)
    assert [dict(task.metadata) for task in again] == [dict(task.metadata) for task in planned]


def test_the_cache_folder_is_the_users_and_differs_between_sets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = NeedleConfig(videos=1, width=64, height=64)
    tasks = load_needle(config, progress=False)
    assert Path(tasks[0].video).parent == cache_folder(config)
    assert cache_folder(config) != cache_folder(NeedleConfig())
    assert cache_folder(config).is_relative_to(tmp_path) or sys.platform != "linux"


def test_the_folder_is_a_folder_of_videos_too(tmp_path: Path) -> None:
    tasks = load_needle(root=tmp_path, **SMALL)
    assert load_tasks("folder", root=tmp_path) == tasks


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_video_is_made_again_and_no_other(
    tmp_path: Path, rendered: list[int], damage: str
) -> None:
    tasks = load_needle(root=tmp_path, **SMALL)
    before = content(tmp_path)
    path = tmp_path / "00001.mp4"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else before["00001.mp4"][:-1])
    rendered.clear()
    assert load_needle(root=tmp_path, **SMALL) == tasks
    assert rendered == [1]
    assert content(tmp_path) == before


def test_a_flipped_byte_is_found_on_request(tmp_path: Path, rendered: list[int]) -> None:
    load_needle(root=tmp_path, **SMALL)
    before = content(tmp_path)
    wrong = bytearray(before["00002.mp4"])
    wrong[len(wrong) // 2] ^= 255
    (tmp_path / "00002.mp4").write_bytes(wrong)
    rendered.clear()
    load_needle(root=tmp_path, verify=True, **SMALL)
    assert rendered == [2]
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["annotations.jsonl", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "nonsense"])
def test_damaged_lists_are_written_again(tmp_path: Path, name: str, damage: str) -> None:
    tasks = load_needle(root=tmp_path, **SMALL)
    before = content(tmp_path)
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(
            b'{"videos": 3}' if damage == "nonsense" else before[name][:99]
        )
    assert load_needle(root=tmp_path, **SMALL) == tasks
    assert content(tmp_path) == before


def test_more_videos_are_added_to_those_that_are_there(tmp_path: Path, rendered: list[int]) -> None:
    few = load_needle(root=tmp_path, **SMALL)
    rendered.clear()
    many = load_needle(root=tmp_path, **SMALL | {"videos": 4})
    assert rendered == [3]
    assert many[:18] == few
    assert load_needle(root=tmp_path, **SMALL) == few
    assert rendered == [3]


def test_a_folder_of_another_set_is_refused(tmp_path: Path) -> None:
    load_needle(root=tmp_path, **SMALL)
    before = content(tmp_path)
    with pytest.raises(DatasetError, match=r"another configuration \(it differs in fps, seed\)"):
        load_needle(root=tmp_path, **SMALL | {"seed": 7, "fps": 3})
    assert content(tmp_path) == before


def test_an_interrupted_run_is_resumed(
    tmp_path: Path, rendered: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, scene: Scene, config: NeedleConfig) -> None:
        if scene.index == 2:
            path.write_bytes(b"half a file")
            raise KeyboardInterrupt
        real_write_video(path, scene, config)

    with monkeypatch.context() as patch:
        patch.setattr(needle_store, "write_video", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_needle(root=tmp_path, workers=1, **SMALL)
    assert files(tmp_path) == ["00000.mp4", "00001.mp4", "finished.jsonl"]
    load_needle(root=tmp_path, **SMALL)
    assert rendered == [2]
    assert files(tmp_path) == WHOLE


def test_half_a_line_of_the_journal_costs_one_video(tmp_path: Path, rendered: list[int]) -> None:
    load_needle(root=tmp_path, **SMALL)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").unlink()
    lines = [json.dumps(video) for video in manifest["videos"]]
    journal = f"{lines[0]}\n[]\n{lines[1]}\n{lines[2][:50]}"
    (tmp_path / "finished.jsonl").write_text(journal)
    rendered.clear()
    load_needle(root=tmp_path, **SMALL)
    assert rendered == [2]
    assert files(tmp_path) == WHOLE


def test_a_full_disk_is_said_clearly_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, scene: Scene, config: NeedleConfig) -> None:
        if scene.index == 1:
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_write_video(path, scene, config)

    monkeypatch.setattr(needle_store, "write_video", full)
    message = r"can't write the videos \(No space left on device\). Free some space"
    with pytest.raises(DatasetError, match=message):
        load_needle(root=tmp_path, workers=1, **SMALL)
    left = files(tmp_path)
    assert {"00000.mp4", "finished.jsonl"} <= set(left)
    assert set(left) <= {"00000.mp4", "00002.mp4", "finished.jsonl"}


@pytest.mark.skipif(not FULL_DISK.exists(), reason="only Linux has a disk that is always full")
def test_a_disk_that_is_full_to_the_encoder_is_said_too() -> None:
    config = NeedleConfig(width=64, height=64)
    with pytest.raises(OSError, match="No space left"):
        real_write_video(FULL_DISK, plan_scene(config, 0), config)


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="Choose a folder that can be written with root="):
        load_needle(root=tmp_path / "file", **SMALL)


def test_stale_temporary_files_are_removed_and_fresh_ones_left(tmp_path: Path) -> None:
    stale, fresh = tmp_path / ".needle-00000-aa.tmp", tmp_path / ".needle-00000-bb.tmp"
    mine = tmp_path / "mine.tmp"
    for path in (stale, fresh, mine):
        path.touch()
    long_ago = time.time() - needle_store.STALE_SECONDS - 60
    os.utime(stale, (long_ago, long_ago))
    os.utime(mine, (long_ago, long_ago))
    load_needle(root=tmp_path, **SMALL)
    assert files(tmp_path) == sorted([fresh.name, *WHOLE, "mine.tmp"])


def test_progress_is_told_to_a_function(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    arguments = SMALL | {"progress": lambda done, total: told.append((done, total))}
    load_needle(root=tmp_path, **arguments)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    load_needle(root=tmp_path, **arguments)
    assert len(told) == 4


def test_progress_is_logged_where_there_is_no_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("INFO"):
        load_needle(root=tmp_path, **SMALL | {"progress": True})
    assert "made 3 of 3 videos" in caplog.text
    assert capsys.readouterr() == ("", "")


SCRIPT = """
import sys
from videoseek_env.datasets import load_tasks
tasks = load_tasks(
    "needle", root=sys.argv[1], workers=2,
    videos=3, width=64, height=64, fps=2, budget="tiny", duration_seconds=(70, 80),
)
print(len(tasks))
"""
"""A script without a main guard."""


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_processes_that_make_the_same_set_do_not_clash(tmp_path: Path) -> None:
    processes = [start(tmp_path / "shared") for _ in range(3)]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, output, errors) == (0, "18\n", "")
    load_needle(root=tmp_path / "alone", **SMALL)
    shared = content(tmp_path / "shared")
    shared.pop("finished.jsonl", None)
    assert shared == content(tmp_path / "alone")


@pytest.mark.skipif(sys.platform == "win32", reason="kills with a signal")
def test_a_killed_process_leaves_no_half_file_under_a_final_name(
    tmp_path: Path, rendered: list[int]
) -> None:
    process = start(tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".needle-0*.tmp")) and time.monotonic() < deadline:
            assert process.poll() is None, "it finished before it could be killed"
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    for path in tmp_path.glob("*.mp4"):
        assert open_video(str(path)).info.frame_count >= 140
    load_needle(root=tmp_path, verify=True, **SMALL)
    left = [name for name in files(tmp_path) if not name.startswith(".needle-")]
    assert left == WHOLE
