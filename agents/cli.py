"""The command line. Nothing heavy is imported until a command runs, so that `--help` is instant."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

try:
    import tyro
except ModuleNotFoundError:  # the core alone is installed
    sys.exit("videoseek needs the package 'tyro': pip install 'videoseek-env[cli]'")


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


@dataclass(frozen=True, slots=True)
class Doctor:
    """Check versions, codecs and decoders, and say what is missing and how to install it."""

    def run(self) -> int:
        """Run the command."""
        from agents.doctor import run_doctor

        return run_doctor()


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Play, tyro.conf.subcommand("play")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main() -> None:
    """Run `videoseek`."""
    command = tyro.cli(
        Command,
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
