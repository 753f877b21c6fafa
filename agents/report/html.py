"""The report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agents.episode import Episode
from agents.report.images import StripMaker
from agents.report.summary import PolicySummary, summarise
from agents.report.view import TaskView, kind_name, view_tasks
from videoseek_env.errors import MissingExtraError
from videoseek_env.render.text import printable
from videoseek_env.task import TaskKind

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent


def write_report(
    path: str | Path,
    episodes: Iterable[Episode],
    *,
    title: str = "videoseek report",
    summary_rows: Sequence[PolicySummary] | None = None,
    max_trajectories: int = 100,
    curves: Mapping[str, str] | None = None,
) -> Path:
    """Write episodes as one self-contained HTML file, replacing it in one step.

    The trajectories of a task stand next to each other. Their frames are decoded again; where a
    video is gone the page says so. A reply can hold anything and is shown as text.

    Args:
        path: The file to write; its folder is made if need be.
        episodes: What to report.
        title: Headline of the page.
        summary_rows: The rows of the summary; None works them out from the episodes.
        max_trajectories: Trajectories shown one by one at most, at least 0; the summary counts all.
        curves: Pictures of learning as SVG, by their captions; they stand above the trajectories.

    Returns:
        The file's path.

    Raises:
        MissingExtraError: If jinja2 is not installed.
    """
    environment = _environment()
    path, episodes = Path(path), list(episodes)
    rows = summarise(episodes) if summary_rows is None else summary_rows
    with StripMaker() as strips:
        tasks = view_tasks(episodes, strips, limit=max_trajectories)
        images = strips.images
    script = (_FOLDER / "report.js").read_text(encoding="utf-8")
    page = environment.get_template("report.html.jinja").render(
        title=title,
        rows=rows,
        part_names=list(dict.fromkeys(name for row in rows for name in row.parts)),
        kinds=[kind for kind in TaskKind if any(kind in row.accuracy_by_kind for row in rows)],
        kind_name=kind_name,
        tasks=tasks,
        episode_count=len(episodes),
        shown_count=sum(len(task.trajectories) for task in tasks),
        choices=_choices(tasks),
        policy_numbers={row.policy: number for number, row in enumerate(rows)},
        plain_parts=_parts_beyond_one(episodes),
        images=images,
        curves={caption: _encoded(svg) for caption, svg in (curves or {}).items()},
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        style=(_FOLDER / "report.css").read_text(encoding="utf-8"),
    )
    _write_whole(path, page)
    return path


def _environment() -> Environment:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "cli", "The report") from error
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        # Every printed value passes here: none can break the page or its encoding.
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _encoded(svg: str) -> str:
    return base64.b64encode(svg.encode()).decode("ascii")


def _choices(tasks: Sequence[TaskView]) -> dict[str, list[str]]:
    """What the page can be filtered by: a name and its values in order of appearance."""
    trajectories = [trajectory for task in tasks for trajectory in task.trajectories]
    return {
        "policy": list(dict.fromkeys(view.episode.policy for view in trajectories)),
        "kind": list(dict.fromkeys(task.kind for task in tasks)),
        "ending": list(dict.fromkeys(view.ending for view in trajectories)),
        "outcome": list(dict.fromkeys(view.outcome for view in trajectories)),
    }


def _parts_beyond_one(episodes: Sequence[Episode]) -> set[str]:
    """Reward parts that are counts and not shares, so that a bar would mislead."""
    parts = (item for episode in episodes for item in episode.reward.parts.items())
    return {name for name, value in parts if not 0 <= value <= 1}


def _write_whole(path: Path, page: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_bytes(page.encode("utf-8", errors="replace"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
