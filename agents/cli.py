"""The command line. Nothing heavy is imported until a command runs, so that `--help` is instant."""

from __future__ import annotations

import io
import logging
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


from agents.cli_train import Train


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Watch a small model seek: before, GRPO, after, and an HTML report. Ten minutes."""

    steps: int = 30
    """Updates of GRPO."""
    questions: int = 12
    """Groups of eight episodes that an update learns from."""
    train_videos: int = 100
    """Videos to learn from; made, unless they are there."""
    test_videos: int = 20
    """Other videos, to compare on."""
    seed: int = 0
    """Decides everything that is random."""
    resume: bool = False
    """Go on with the demo that is in the folder; else it is taken away."""
    out: Path = Path("runs/demo")
    """Folder for the run, episodes.jsonl and report.html."""

    def run(self) -> int:
        """Run the command."""
        from agents.demo import run_demo

        return run_demo(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduce:
    """Train a small model from random weights to one that seeks, and compare. About an hour.

    Whatever was finished before in the same folder is not done again.
    """

    steps: int = 40
    """Updates of GRPO."""
    test_videos: int = 40
    """Videos to compare on."""
    seed: int = 0
    """Decides everything that is random."""
    out: Path = Path("runs/reproduce")
    """Folder for all stages, episodes.jsonl and report.html."""

    def run(self) -> int:
        """Run the command."""
        from agents.demo import run_reproduce

        return run_reproduce(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How a model is loaded and how it writes; baselines have no use for it."""

    temperature: float = 0.0
    """Of sampling; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together reach this probability."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Of hf: weights; auto takes that of the checkpoint."""
    device_map: str | None = None
    """Of hf: models, such as auto or cuda:0; by default a GPU if there is one."""
    adapter: str | None = None
    """LoRA adapter of an hf: model, a folder or a hub name."""
    scope: Literal["tags"] | None = None
    """Let an hf: model's groundings and answers attend as task-decoupled masking has it."""
    base_url: str | None = None
    """Of the server of an openai: model, such as http://localhost:8000/v1."""
    api_key: str | None = None
    """For it; by default what the openai package finds in its environment variables."""
    stop_at_tags: bool = True
    """Ask an openai: server to stop where an action closes; reasoning models refuse that."""
    timeout_seconds: float = 120.0
    """For one attempt at a reply of an openai: model."""
    max_concurrency: int | None = None
    """Requests to an openai: server at once, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eval:
    """Let policies play tasks, print a table, write every episode and an HTML report."""

    policy: tuple[str, ...] = ("seeker",)
    """Any of random, "single turn", seeker, oracle, hf:FOLDER_OR_HUB_NAME, openai:MODEL, or one of
    your own as py:MODULE:CLASS."""
    annotations: Path | None = None
    """A folder of your own with annotations.jsonl and videos; by default needle tasks."""
    videos: int = 6
    """Needle videos to make, unless they are there."""
    limit: int | None = None
    """Tasks at most."""
    seed: int = 0
    """Seeds the needle videos, the questions and the policies."""
    budget: str | None = None
    """Budget preset: qwen2.5-vl, qwen3-vl, laptop or tiny; by default that of a model that was
    trained here, else laptop."""
    max_turns: int | None = None
    """Replies at most, the last one asked to be the answer; by default the model's own, else 6."""
    overview: Literal["exact", "keyframe"] = "exact"
    """Evenly spaced frames, or the keyframe nearest to each."""
    episodes_per_task: int = 1
    """Episodes of each task, with different seeds."""
    reward: str | None = None
    """As module:name, see rescore; by default the trajectory-guided reward."""
    workers: int = 2
    """Threads that decode, and that play where policies play alone."""
    batch_size: int = 32
    """Episodes that a model plays at once."""
    resume: bool = False
    """Go on with the episodes that are in the folder."""
    out: Path = Path("runs/eval")
    """Folder for episodes.jsonl and report.html."""
    model: ModelOptions = ModelOptions()
    """How models are loaded and how they write."""

    def run(self) -> int:
        """Run the command."""
        from agents.evaluate import run_eval

        return run_eval(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """Play an episode yourself, or watch a policy play it."""

    policy: str | None = None
    """Who plays, by a name as in eval; by default you, typing the replies."""
    task: str | None = None
    """Id of the task; by default the seed draws one."""
    annotations: Path | None = None
    """A folder of your own with annotations.jsonl and videos; by default needle tasks."""
    seed: int | None = None
    """Draws the task."""
    budget: str | None = None
    """Budget preset: qwen2.5-vl, qwen3-vl, laptop or tiny; by default that of a model that was
    trained here, else laptop."""
    max_turns: int | None = None
    """Replies at most; by default the model's own, else 6."""
    window: bool = False
    """Show the frames in a window, beside the picture files."""
    out: Path = Path("runs/play")
    """Folder for a picture of each observation and the trajectory."""
    model: ModelOptions = ModelOptions()
    """How a model is loaded and how it writes."""

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
    "eval": Eval,
    "play": Play,
    "train": Train,
    "reproduce": Reproduce,
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
    if logging.lastResort is not None:  # heard where nobody has set up logging
        logging.lastResort.setLevel(logging.INFO)
        logging.lastResort.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger("videoseek_env").setLevel(logging.INFO)
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

        if isinstance(error, ModuleNotFoundError) and (extra := _extra_of(error.name)):
            sys.exit(f"videoseek: this needs {error.name}: pip install 'videoseek-env[{extra}]'")
        if not isinstance(error, VideoSeekError | OSError):
            raise
        sys.exit(f"videoseek: {error}")


def _extra_of(module: str | None) -> str | None:
    """The extra that brings a module, if one does."""
    from agents.doctor import EXTRAS

    return next((extra for extra, packages in EXTRAS.items() if module in packages), None)
