"""Score saved trajectories with another reward; one line is held at a time."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from agents.episode import Episode
from agents.named_reward import RewardFailedError, apply_reward, describe, finite, load_reward
from agents.score_change import Comparison, print_comparison
from rewards.reward import RewardFunction
from videoseek_env.errors import TrajectoryError, VideoSeekError
from videoseek_env.trajectory import Trajectory

if TYPE_CHECKING:
    from agents.cli import Rescore

_logger = logging.getLogger(__name__)

NO_POLICY = "-"
"""Stands for the policy of a bare trajectory."""


class OutputError(VideoSeekError, OSError):
    """The place to write to would cost something that was not offered."""


@dataclass(frozen=True, slots=True)
class SavedLine:
    """One line of a file: an episode, or a bare trajectory."""

    record: dict[str, Any]
    """All fields. A bare trajectory may have a "reward" too, as a former rescoring leaves it."""
    trajectory: Trajectory
    policy: str
    before: float | None
    """The score that was saved; None if there is none, or no finite one."""


def run_rescore(config: Rescore) -> int:
    """Score every line anew, print what changed, and write the records if asked to.

    Returns:
        0.

    Raises:
        NamedRewardError: If the name leads to no reward function.
        TrajectoryError: On a broken line, and if there is no trajectory at all.
        RewardFailedError: If the reward fails on a trajectory.
        OutputError: If the output is no place for a file.
    """
    reward = load_reward(config.reward)
    target = None if config.out is None else output_file(config.out, source=config.file)
    comparison, screen = Comparison(), Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    progress = Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
    with replacing(target) if target else nullcontext() as output:
        with progress, progress.open(config.file, "rb", description="scoring") as lines:
            for record in rescore(
                lines, reward, comparison, name=str(config.file), skip_broken=config.skip_broken
            ):
                if output is not None:
                    output.write(json.dumps(record, ensure_ascii=True).encode() + b"\n")
        if comparison.total.count == 0:
            raise TrajectoryError(
                f"{config.file}: nothing to score, {comparison.skipped} lines skipped"
            )
    print_comparison(comparison, Console(), reward=config.reward)
    if target is not None:
        Console().print(f"Written: {config.out}", soft_wrap=True)
    return 0


def rescore(
    lines: Iterable[bytes],
    reward: RewardFunction,
    comparison: Comparison,
    *,
    name: str,
    skip_broken: bool = False,
) -> Iterator[dict[str, Any]]:
    """Stream the lines' records with the new reward in place; blank lines are passed over.

    An unfinished last line, as a killed process leaves it, is skipped, logged and counted.

    Args:
        lines: JSON Lines, each an episode or a bare trajectory.
        reward: Scores them.
        comparison: Is told of each.
        name: What messages call the file.
        skip_broken: Skip, log and count what can't be read or scored, instead of raising.

    Raises:
        TrajectoryError: On a broken line; it names the file and the line.
        RewardFailedError: If the reward fails; it names the file, the line and the task.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            saved = read_line(line)
            after = apply_reward(reward, saved.trajectory)
        except (TrajectoryError, RewardFailedError) as error:
            is_unfinished = isinstance(error.__cause__, json.JSONDecodeError) and line[-1:] != b"\n"
            if not (skip_broken or is_unfinished):
                raise type(error)(f"{name}:{number}: {error}") from error
            _logger.warning("skipped %s:%d: %s", name, number, error)
            comparison.skipped += 1
            continue
        comparison.add(saved.policy, saved.trajectory.task.kind, saved.before, after)
        saved.record["reward"] = {"value": after.value, "parts": dict(after.parts)}
        yield saved.record


def read_line(line: bytes) -> SavedLine:
    """Read an episode, or a bare trajectory.

    Raises:
        TrajectoryError: If it is neither.
    """
    try:
        record = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise TrajectoryError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise TrajectoryError(f"expected a JSON object, got {describe(record)}")
    try:
        if "trajectory" in record:
            episode = Episode.from_dict(record)
            before = finite(episode.reward.value)
            return SavedLine(record, episode.trajectory, episode.policy, before)
        before = finite(record["reward"]["value"]) if "reward" in record else None
        return SavedLine(record, Trajectory.from_dict(record), NO_POLICY, before)
    except TrajectoryError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TrajectoryError(f"not a saved trajectory: {type(error).__name__}: {error}") from error


def output_file(out: Path, *, source: Path) -> Path:
    """Where to write: `out`, its links followed.

    Raises:
        OutputError: If there is something else than a file, or the source under another name.
    """
    if out.exists() and not out.is_file():
        raise OutputError(f"{out} is not a file; name a file to write to")
    if out.absolute() != source.absolute() and out.exists() and out.samefile(source):
        raise OutputError(f"{out} is {source} by another name; give the same path to overwrite it")
    return out.resolve()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that takes the place of `path` in one step at the end, or never.

    After an exception, Ctrl-C included, nothing has changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
