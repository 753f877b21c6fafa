"""From a model that was shown how to seek to one that does it better: GRPO, before and after."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console

from agents.episode import Episode
from agents.evaluate import play_all, summary_table
from agents.learning.checkpoint import step_of
from agents.learning.grpo import GRPOLearner
from agents.learning.grpo_config import GRPOConfig
from agents.learning.running import RunConfig, latest_checkpoint, run
from agents.learning.terminal import Terminal
from agents.learning.tracking import make_trackers
from agents.llm.generation import Sampling
from agents.llm.hf_policy import HFPolicy
from agents.llm.model import VisionLanguageModel, default_device_map
from agents.named_policy import NamedPolicy
from agents.report import summarise, write_report
from agents.report.curves import draw_curves, read_log
from agents.rollout import RolloutConfig
from agents.session_rules import write_rules
from agents.settings_file import claim
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.errors import MissingExtraError
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask

SETTINGS = "settings.json"
"""The file in the folder that says how."""

GREEDY, SAMPLED = 0.0, 1.0
"""Temperatures at which models are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """What is learned from, what is compared on, and how."""

    start: Path
    """Folder of the model to begin with."""
    out: Path
    """Folder for the run, the episodes and the report; a run that is there goes on."""
    train: Sequence[VideoTask]
    test: Sequence[VideoTask]
    """Held out: of other videos."""
    rules: SessionConfig
    """Of all episodes; in comparisons the last turn asks for an answer."""
    config: GRPOConfig
    save_every: int = 10
    shown_trajectories: int = 120
    """Trajectories in the report; its figures count all."""


def improve(plan: Improvement, console: Console) -> list[Episode]:
    """Compare, learn, compare again, and write a report.

    Whatever was done before in the same folder is not done again.

    Returns:
        The episodes of the comparison: of the model before and after, greedy and sampled.

    Raises:
        ConfigError: If the folder holds a run of another configuration.
    """
    began = time.perf_counter()
    sizes = {"train_tasks": len(plan.train), "test_tasks": len(plan.test)}
    claim(plan.out / SETTINGS, {"start": plan.start.name, **asdict(plan.config), **sizes})
    path = plan.out / "episodes.jsonl"
    console.rule("Before")
    episodes = _compare(plan, plan.start, "SFT", path, console)
    console.rule("GRPO")
    trained = _learn(plan, console)
    console.rule("After")
    episodes += _compare(plan, trained, "SFT + GRPO", path, console)
    console.print(summary_table(summarise(episodes)))
    report = write_report(
        plan.out / "report.html",
        episodes,
        title="Learning to seek",
        max_trajectories=plan.shown_trajectories,
        curves=_curves(plan.out / "grpo" / "log.jsonl", console),
    )
    console.print(f"Report:   {report.resolve().as_uri()}", soft_wrap=True)
    console.print(f"Model:    {trained}", soft_wrap=True)
    console.print(f"Done in {time.perf_counter() - began:.0f} s.")
    return episodes


def _learn(plan: Improvement, console: Console) -> Path:
    """The model's folder after GRPO."""
    folder = plan.out / "grpo"
    checkpoint = latest_checkpoint(folder)
    accelerator = Accelerator()
    start = plan.start if checkpoint is None else checkpoint / "model"
    learner = GRPOLearner(
        VisionLanguageModel.from_pretrained(start, dtype="float32"),
        plan.train,
        plan.config,
        session=plan.rules,
        reward=TrajectoryGuidedReward(),
        accelerator=accelerator,
    )
    done = 0 if checkpoint is None else step_of(checkpoint)
    with Terminal(console, learner.total_steps, done=done) as terminal:
        saved = run(
            learner,
            RunConfig(folder=folder, save_every=plan.save_every, keep=1),
            accelerator=accelerator,
            checkpoint=checkpoint,
            trackers=lambda done: make_trackers(folder, config={}, resume_from=done),
            show=terminal.show,
            annotate=lambda draft: write_rules(draft / "model", plan.rules),
        )
    return saved / "model"


def _compare(
    plan: Improvement, folder: Path, name: str, path: Path, console: Console
) -> list[Episode]:
    """Let a model play the held-out questions, greedily and sampled."""
    model = VisionLanguageModel.from_pretrained(
        folder, dtype="float32", device_map=default_device_map()
    )
    rules = replace(model.counting(plan.rules), force_answer=True)
    policies = [
        NamedPolicy(
            label,
            HFPolicy.factory(model, sampling=Sampling.within(rules, temperature=heat)),
            rules,
        )
        for label, heat in ((name, GREEDY), (f"{name}, sampled", SAMPLED))
    ]
    settings = RolloutConfig(seed=plan.config.seed, workers=2, batch_size=64)
    return play_all(plan.test, policies, settings, path=path, console=console)


def _curves(log: Path, console: Console) -> dict[str, str]:
    """The run's learning curves, if they can be drawn here."""
    try:
        picture = draw_curves(read_log(log))
    except MissingExtraError as error:
        console.print(f"The report has no curves: {error}", markup=False)
        return {}
    return {} if picture is None else {"GRPO, step by step, and the mean of ten steps": picture}
