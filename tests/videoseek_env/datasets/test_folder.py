import json
import logging
from pathlib import Path
from typing import Any

import pytest

from videoseek_env.datasets import load_tasks
from videoseek_env.datasets.folder import load_folder
from videoseek_env.errors import DatasetError
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind

TASK: dict[str, Any] = {
    "id": "one",
    "video": "a.mp4",
    "question": "What colour is it?",
    "options": ["red", "blue"],
    "answer": "B",
    "clues": [[1.0, 2.5]],
    "kind": "clue_single_wo_tool",
    "duration_seconds": 60.0,
}


def write(folder: Path, *records: Any) -> Path:
    (folder / "a.mp4").touch()
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def without(*names: str, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (TASK | changes).items() if name not in names}


def test_tasks_are_read_with_their_video_resolved(tmp_path: Path) -> None:
    (task,) = load_tasks("folder", root=write(tmp_path, TASK))
    assert task.id == "one"
    assert task.video == str(tmp_path.resolve() / "a.mp4")
    assert task.kind is TaskKind.SINGLE_CLUE_DIRECT
    assert task.clues == (Segment(1.0, 2.5),)


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.mp4"
    elsewhere.touch()
    (task,) = load_folder(write(tmp_path, TASK | {"video": str(elsewhere)}))
    assert task.video == str(elsewhere)


def test_the_id_defaults_to_the_number_of_the_line(tmp_path: Path) -> None:
    tasks = load_folder(write(tmp_path, without("id"), "", without("id")))
    assert [task.id for task in tasks] == ["1", "3"]


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (without("kind"), TaskKind.SINGLE_CLUE_TOOL),
        (without("kind", "clues"), TaskKind.SINGLE_CLUE_TOOL),
        (without("kind", clues=[[1, 2], [3, 4]]), TaskKind.MULTI_CLUE_TOOL),
        (without("kind", "options"), TaskKind.OPEN_ENDED),
        (without("kind", "options", "answer"), TaskKind.TEMPORAL_GROUNDING),
    ],
)
def test_the_kind_follows_from_options_clues_and_answer(
    tmp_path: Path, record: dict[str, Any], kind: TaskKind
) -> None:
    (task,) = load_folder(write(tmp_path, record))
    assert task.kind is kind


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"id": "one", ', "broken JSON"),
        ("[1, 2]", "expected a JSON object, got list"),
        (TASK | {"kind": "riddle"}, "unknown kind 'riddle'; choose from clue_single_w_tool"),
        (TASK | {"kind": 3}, "unknown kind 3"),
        (TASK | {"video": "b.mp4"}, "b.mp4 does not exist; paths are relative to"),
        (without("video"), "video must be a path relative to .*, got None"),
        (TASK | {"answer": "C"}, "answer is 'C', expected one letter of AB"),
        (without("question"), "missing question"),
        (TASK | {"hint": "x"}, "unknown hint"),
        (TASK | {"clues": [[1, 2, 3]]}, r"clues must be \[\[start, end\], ...\] in seconds"),
        (TASK | {"clues": [1, 2]}, "clues must be"),
        (TASK | {"clues": [[1000, 2500]]}, "lies after the end, at 60.0 s; clues and"),
        (TASK | {"clues": [[-1, 2]]}, "0 <= start < end"),
        (TASK | {"metadata": 3}, "not iterable"),
        (TASK | {"options": {"A": "red", "B": "blue"}}, "options must be a list"),
        (TASK | {"id": None}, "id must be text"),
        (TASK | {"video": "a" * 300}, "is no path of a video: .*too long"),
        (TASK | {"video": "~nobody-here/a.mp4"}, "is no path of a video"),
    ],
)
def test_a_wrong_line_is_named_with_its_reason(tmp_path: Path, record: Any, message: str) -> None:
    write(tmp_path, TASK | {"id": "zero"}, record)
    with pytest.raises(DatasetError, match=rf"annotations\.jsonl:2: .*{message}"):
        load_folder(tmp_path)


def test_a_folder_of_nobody_is_named() -> None:
    with pytest.raises(DatasetError, match="~nobody-here is no folder"):
        load_folder("~nobody-here")


def test_an_id_used_twice_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"jsonl:2: the id 'one' was used before"):
        load_folder(write(tmp_path, TASK, TASK))


def test_skipping_leaves_wrong_lines_out_and_logs_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, TASK, TASK, "{", TASK | {"id": "two"})
    with caplog.at_level(logging.WARNING):
        tasks = load_folder(tmp_path, on_error="skip")
    assert [task.id for task in tasks] == ["one", "two"]
    assert "skipped 2 of 4 tasks" in caplog.text
    assert "jsonl:2: the id 'one' was used before" in caplog.text
    assert "jsonl:3: broken JSON" in caplog.text


def test_when_nothing_is_left_skipping_fails_too(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no usable task.*jsonl:1: broken.*and 2 more"):
        load_folder(write(tmp_path, *"{{{{{{{"), on_error="skip")


@pytest.mark.parametrize("clue", [[5, 5], [5, 2]])
def test_clues_that_end_before_they_start_are_dropped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clue: list[float]
) -> None:
    with caplog.at_level(logging.WARNING):
        (task,) = load_folder(write(tmp_path, TASK | {"clues": [clue, [1, 2]]}))
    assert task.clues == (Segment(1.0, 2.0),)
    assert "annotations.jsonl:1: dropped clues" in caplog.text


def test_a_stretch_to_find_needs_a_clue_that_was_not_dropped(tmp_path: Path) -> None:
    record = without("options", "answer", kind="temporal_grounding", clues=[[5, 2]])
    with pytest.raises(DatasetError, match="needs at least one clue"):
        load_folder(write(tmp_path, record))


def test_a_missing_file_is_answered_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"annotations.jsonl does not exist; write one JSON obj"):
        load_folder(tmp_path / "nowhere")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "annotations.jsonl").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(DatasetError, match=r"annotations\.jsonl:1: not UTF-8 text"):
        load_folder(tmp_path)


def test_one_line_that_is_no_text_costs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, TASK, TASK | {"id": "two"}) / "annotations.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    deep = b"[" * 100_000 + b"\n"
    path.write_bytes(first + b'{"id": "\xe9"}\n' + deep + second)
    with caplog.at_level(logging.WARNING):
        tasks = load_folder(tmp_path, on_error="skip")
    assert [task.id for task in tasks] == ["one", "two"]
    assert "skipped 2 of 4 tasks" in caplog.text
    assert "annotations.jsonl:2: not UTF-8" in caplog.text


def test_on_error_is_one_of_two(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="on_error must be 'raise' or 'skip', got 'ignore'"):
        load_folder(tmp_path, on_error="ignore")  # type: ignore[arg-type]


def test_a_byte_order_mark_and_line_separators_inside_text_do_no_harm(tmp_path: Path) -> None:
    write(tmp_path, TASK)
    record = json.dumps(TASK | {"question": "one\u2028line"}, ensure_ascii=False)
    (tmp_path / "annotations.jsonl").write_text("\ufeff" + record + "\r\n", encoding="utf-8")
    (task,) = load_folder(tmp_path)
    assert task.question == "one\u2028line"
