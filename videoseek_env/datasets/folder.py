"""Videos of one's own: a folder with an `annotations.jsonl` beside them.

One JSON object a line, with the fields of `VideoTask`. Needed: `video` (relative to the folder, or
absolute), `question`, and `answer` unless the task is to find a stretch. What may be left out:

- `id`: the number of the line.
- `options`, `clues` (`[[start, end], ...]` in seconds), `duration_seconds`, `frame_fps`,
  `metadata`.
- `kind`: with options, `clue_multi_w_tool` for several clues, else `clue_single_w_tool`; without
  options, `open_ended` where there is an answer, else `temporal_grounding`.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from videoseek_env.errors import DatasetError, TaskError
from videoseek_env.task import TaskKind, VideoTask

OnError = Literal["raise", "skip"]
"""What to do with a line that can't be used."""

_CLUE_SLACK_SECONDS: Final = 1.0
_REASONS_SHOWN: Final = 5

_log = logging.getLogger(__name__)


def load_folder(
    root: str | os.PathLike[str],
    *,
    annotations: str = "annotations.jsonl",
    on_error: OnError = "raise",
) -> list[VideoTask]:
    """Load the tasks of a folder of videos.

    A clue whose end is not after its start is dropped with a warning.

    Args:
        root: The folder.
        annotations: Name of the file of tasks, relative to the folder.
        on_error: `"raise"` stops at the first line that can't be used; `"skip"` leaves such lines
            out, and logs how many there were and why.

    Raises:
        DatasetError: If the file is missing or holds no task, if `on_error` is neither, or if a
            line can't be used: broken JSON, a task that contradicts itself, a missing video, an
            id used twice, a clue after the end. The message names file and line.
    """
    if on_error not in ("raise", "skip"):
        raise DatasetError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    try:
        folder = Path(root).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{root} is no folder: {error}") from error
    path = folder / annotations
    tasks: dict[str, VideoTask] = {}
    reasons: list[str] = []
    for number, line in _lines(path):
        try:
            task = _read(line, number, folder, path)
            if task.id in tasks:
                raise DatasetError(f"the id {task.id!r} was used before; give each task its own")
        except (DatasetError, TaskError) as error:
            reason = f"{path}:{number}: {error}"
            if on_error == "raise":
                raise DatasetError(reason) from error
            reasons.append(reason)
        else:
            tasks[task.id] = task
    _report(path, len(tasks), reasons)
    return list(tasks.values())


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, and their numbers from 1."""
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} does not exist; write one JSON object a line, such as "
            '{"video": "a.mp4", "question": "...", "options": ["...", "..."], "answer": "A"}'
        ) from error
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error}") from error
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _read(line: bytes, number: int, folder: Path, path: Path) -> VideoTask:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise DatasetError(f"not UTF-8 text: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"broken JSON ({error}); write one object a line") from error
    if not isinstance(record, dict):
        raise DatasetError(f"expected a JSON object, got {type(record).__name__}")
    fields: dict[str, Any] = {"id": str(number), "answer": ""} | record
    fields["clues"] = _ordered_clues(fields.get("clues"), f"{path}:{number}")
    fields.setdefault("kind", _kind(fields))
    if fields["kind"] not in list(TaskKind):
        raise DatasetError(f"unknown kind {fields['kind']!r}; choose from {', '.join(TaskKind)}")
    task = VideoTask.from_dict(fields | {"video": _resolve(fields.get("video"), folder)})
    _check_clues(task)
    return task


def _resolve(video: object, folder: Path) -> str:
    if not isinstance(video, str) or not video:
        raise DatasetError(f"video must be a path relative to {folder}, got {video!r}")
    try:
        path = folder / Path(video).expanduser()
        if not path.exists():
            raise DatasetError(f"the video {path} does not exist; paths are relative to {folder}")
    except (OSError, RuntimeError) as error:  # too long a name, or nobody's home
        raise DatasetError(f"{video!r} is no path of a video: {error}") from error
    return str(path)


def _ordered_clues(clues: object, where: str) -> list[Any]:
    """The clues without those that end before they start."""
    if clues is None:
        return []
    if not isinstance(clues, list) or not all(_is_pair(clue) for clue in clues):
        raise DatasetError(f"clues must be [[start, end], ...] in seconds, got {clues!r}")
    kept = [clue for clue in clues if clue[0] < clue[1]]
    if len(kept) < len(clues):
        dropped = [clue for clue in clues if not clue[0] < clue[1]]
        _log.warning("%s: dropped clues that end before they start: %s", where, dropped)
    return kept


def _is_pair(clue: object) -> bool:
    # JSON's true is an int in Python.
    return (
        isinstance(clue, list)
        and len(clue) == 2
        and all(isinstance(end, int | float) and not isinstance(end, bool) for end in clue)
    )


def _kind(fields: Mapping[str, Any]) -> str:
    if fields.get("options"):
        several = len(fields["clues"]) > 1
        return TaskKind.MULTI_CLUE_TOOL if several else TaskKind.SINGLE_CLUE_TOOL
    return TaskKind.OPEN_ENDED if fields["answer"] else TaskKind.TEMPORAL_GROUNDING


def _check_clues(task: VideoTask) -> None:
    if task.duration_seconds is None:
        return
    for clue in task.clues:
        if clue.end_seconds > task.duration_seconds + _CLUE_SLACK_SECONDS:
            raise DatasetError(
                f"the clue {clue} lies after the end, at {task.duration_seconds:.1f} s; "
                "clues and duration_seconds are in seconds"
            )


def _report(path: Path, kept: int, reasons: list[str]) -> None:
    shown = "; ".join(reasons[:_REASONS_SHOWN])
    more = f"; and {len(reasons) - _REASONS_SHOWN} more" if len(reasons) > _REASONS_SHOWN else ""
    if not kept:
        raise DatasetError(f"{path} holds no usable task. {shown}{more}".strip())
    if reasons:
        _log.warning(
            "%s: skipped %d of %d tasks: %s%s", path, len(reasons), kept + len(reasons), shown, more
        )
