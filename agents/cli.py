"""The command line. Nothing heavy is imported until a command runs, so that `--help` is instant."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

try:
    import tyro
except ModuleNotFoundError as error:
    # Not a MissingExtraError: importing that would make `--help` slow.
    raise ImportError("the command line needs tyro: pip install 'videoseek-env[cli]'") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Make needle tasks, let the baselines play them, print a table and write an HTML report."""

    videos: int = 6
    """Videos to make, unless they are there."""
    tasks_per_video: int = 12
    """Questions about each, going round the six kinds."""
    seed: int = 0
    """Seeds the videos, the questions and the policies."""
    budget: str = "laptop"
    """Budget preset: qwen2.5-vl, qwen3-vl, laptop or tiny."""
    overview: Literal["exact", "keyframe"] = "exact"
    """Evenly spaced frames, or the keyframe nearest to each."""
    workers: int = 2
    """Threads that play episodes."""
    out: Path = Path("runs/demo")
    """Folder for episodes.jsonl and report.html."""

    def run(self) -> int:
        """Run the command."""
        from agents.demo import run_demo

        return run_demo(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """Play an episode yourself: you type the replies."""

    task: str | None = None
    """Id of the task; by default the seed draws one."""
    annotations: Path | None = None
    """A folder of your own with annotations.jsonl and videos; by default needle tasks."""
    seed: int | None = None
    """Draws the task."""
    budget: str = "laptop"
    """Budget preset: qwen2.5-vl, qwen3-vl, laptop or tiny."""
    max_turns: int = 6
    """Replies at most."""
    window: bool = False
    """Show the frames in a window, beside the picture files."""
    out: Path = Path("runs/play")
    """Folder for a picture of each observation and the trajectory."""

    def run(self) -> int:
        """Run the command."""
        from agents.play import run_play

        return run_play(self)


class Rescore:
    """Score saved episodes or trajectories with another reward, and print what changed.

    Args:
        file: JSON Lines of episodes, or of bare trajectories.
        reward: As module:name, such as rewards:TrajectoryGuidedReward.hardened; the current
            directory is searched too. A function of a trajectory, or what returns one when called
            with nothing.
        out: File for the records with the new rewards, replaced in one step; the input's own path
            overwrites the input. By default nothing is written.
        skip_broken: Skip, log and count lines that can't be read or scored, instead of stopping.
    """

    def __init__(
        self, file: Path, /, *, reward: str, out: Path | None = None, skip_broken: bool = False
    ) -> None:
        # No dataclass: tyro makes a positional-only parameter a positional argument.
        self.file, self.reward, self.out, self.skip_broken = file, reward, out, skip_broken

    def run(self) -> int:
        """Run the command."""
        from agents.rescore import run_rescore

        return run_rescore(self)


@dataclass(frozen=True, slots=True)
class Doctor:
    """Check versions, codecs and decoders, and say what is missing and how to install it."""

    def run(self) -> int:
        """Run the command."""
        from agents.doctor import run_doctor

        return run_doctor()


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": Demo,
    "play": Play,
    "rescore": Rescore,
    "doctor": Doctor,
}


def main() -> None:
    """Run `videoseek`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a model's text may not fit the terminal's encoding
            stream.reconfigure(errors="replace")
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="videoseek",
        description="Agents that answer questions about long videos by seeking in them.",
    )
    try:
        sys.exit(command.run())
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from videoseek_env.errors import VideoSeekError

        if not isinstance(error, VideoSeekError | OSError):
            raise
        sys.exit(f"videoseek: {error}")
