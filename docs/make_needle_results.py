"""Run the arms of docs/RESULTS.md and write its tables.

Run with `python docs/make_needle_results.py`; it needs the extras agents, cli, plots and testing. A
run is an arm and a seed: one file in docs/data/needle, trained only if that is missing. So the
script goes on where it was stopped, and `--seeds 0 1 2` adds seeds. The arms of a seed share its
first stages and what they have in common of the later ones, kept under --work; they differ in what
is compared. Once these are there, processes with other `--arms` work side by side; the page is then
written by a call without any. `--time` plays the ways side by side, on a quiet machine, for their
seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from make_reward_tables import replaced
from needle_results import (
    QUADRANTS,
    SECONDS,
    TOOL_KINDS,
    Quadrant,
    Run,
    Spread,
    accuracy_table,
    comparable,
    difference_table,
    read_runs,
    read_seconds,
    run_path,
    seconds_table,
    seeking_table,
    write_seconds,
)

from agents.demo import GRPO_SETTINGS, test_tasks, train_tasks
from agents.learning.collecting import CollectorConfig
from agents.learning.from_nothing.playing import demonstrate, learn_to_play
from agents.learning.from_nothing.train import (
    BEFORE_GUESSING,
    BEFORE_PLAYING,
    FromNothingConfig,
    train_from_nothing,
    training_set,
)
from agents.learning.from_nothing.ways import DECOUPLED, GUESSING, NATIVE, SINGLE_TURN, Way
from agents.learning.grpo import GRPOLearner
from agents.learning.learner import Learner
from agents.learning.ppo import PPOConfig, PPOLearner
from agents.llm.decoupling import Scope, TaskDecoupling
from agents.llm.generation import Sampling
from agents.llm.hf_policy import HFPolicy
from agents.llm.model import VisionLanguageModel
from agents.ongoing import Session
from agents.rollout import RolloutConfig, rollout
from envs.decoupled import DecoupledSession
from rewards import (
    Accuracy,
    Format,
    Grounding,
    Reward,
    RewardFunction,
    TrajectoryGuidedReward,
    WeightedSum,
    accuracy,
)
from rewards.credit import CoverageShaping
from videoseek_env.datasets.needle import load_needle
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory
from videoseek_env.video import ClipCache, VideoReader

PAGE = Path(__file__).parent / "RESULTS.md"
TEST_VIDEOS = 80
TIMED_VIDEOS, TIMED_ROUNDS = 10, 2
CACHE = ClipCache(2**30)

MakeLearner = Callable[[VisionLanguageModel, int, Way], Learner]
"""From a model, a seed, and how it plays."""


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """The last stage of supervised training, on demonstrations in real videos."""

    name: str
    way: Way = NATIVE
    decoupling: TaskDecoupling | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """What is done after the stages that all arms of a seed share."""

    name: str
    """In the table."""
    demonstrated: Demonstrated
    learner: MakeLearner | None = None
    """None compares what supervised training made."""


def grpo(
    reward: RewardFunction | None = None, variant: str = "dapo", **settings: Any
) -> MakeLearner:
    """GRPO by a reward, in a variant, with settings of `GRPOConfig` beside."""

    def make(model: VisionLanguageModel, seed: int, way: Way) -> Learner:
        return GRPOLearner(
            model,
            train_tasks(),
            replace(GRPO_SETTINGS, seed=seed, **settings).as_variant(variant),
            session=way.rules,
            reward=TrajectoryGuidedReward() if reward is None else reward,
            cache=CACHE,
            make_session=way.make_session,
        )

    return make


def ppo(lam: float) -> MakeLearner:
    """PPO that learns from as many episodes a step as GRPO, which plays more and drops some."""
    groups = GRPO_SETTINGS.collector
    episodes = groups.questions * groups.group_size

    def make(model: VisionLanguageModel, seed: int, way: Way) -> Learner:
        config = PPOConfig(
            steps=GRPO_SETTINGS.steps,
            collector=CollectorConfig(questions=episodes, group_size=1),
            optimiser=GRPO_SETTINGS.optimiser,
            minibatches=1,
            lam=lam,
            seed=seed,
        )
        return PPOLearner(
            model,
            train_tasks(),
            config,
            session=way.rules,
            reward=TrajectoryGuidedReward(),
            cache=CACHE,
        )

    return make


NATIVE_SFT = Demonstrated("native")
GUESSING_SFT = Demonstrated("guessing", GUESSING)
SINGLE_TURN_SFT = Demonstrated("single-turn", SINGLE_TURN)
DECOUPLED_SFT = Demonstrated("decoupled", DECOUPLED)


def tdam(scope: Scope, probability: float) -> Demonstrated:
    """Native, with task-decoupled attention on a share of the batches."""
    decoupling = TaskDecoupling(scope=scope, probability=probability)
    return Demonstrated(f"tdam-{scope}-{probability}", decoupling=decoupling)


RIGHT_AND_FORM: Mapping[str, tuple[float, RewardFunction]] = {
    "acc": (1.0, Accuracy()),
    "format": (1.0, Format()),
}
GROUNDED: Mapping[str, tuple[float, RewardFunction]] = {
    **RIGHT_AND_FORM,
    "grounding": (1.0, Grounding()),
}
TABLES: Mapping[str, Mapping[str, Arm]] = {
    "ways": {
        "sft": Arm("native, SFT", NATIVE_SFT),
        "guessing-grpo": Arm("native, SFT with guesses + GRPO", GUESSING_SFT, grpo()),
        "single-turn-sft": Arm("single turn, SFT", SINGLE_TURN_SFT),
        "single-turn-grpo": Arm("single turn, SFT + GRPO", SINGLE_TURN_SFT, grpo()),
        "decoupled-sft": Arm("decoupled, SFT", DECOUPLED_SFT),
        "decoupled-grpo": Arm("decoupled, SFT + GRPO", DECOUPLED_SFT, grpo()),
    },
    "learning": {
        "guessing-sft": Arm("SFT with guesses", GUESSING_SFT),
        "guessing-grpo": Arm("SFT with guesses + GRPO", GUESSING_SFT, grpo()),
        "sft": Arm("SFT", NATIVE_SFT),
        "grpo": Arm("SFT + GRPO", NATIVE_SFT, grpo()),
    },
    "attention": {
        "sft": Arm("off", NATIVE_SFT),
        "tdam-tags-0.1": Arm("tags, 10 % of batches", tdam("tags", 0.1)),
        "tdam-tags-1.0": Arm("tags, all batches", tdam("tags", 1.0)),
        "tdam-turn-0.1": Arm("turns, 10 % of batches", tdam("turn", 0.1)),
        "tdam-turn-1.0": Arm("turns, all batches", tdam("turn", 1.0)),
    },
    "reward": {
        "guessing-sft": Arm("before GRPO", GUESSING_SFT),
        "reward-accuracy": Arm("accuracy only", GUESSING_SFT, grpo(Accuracy())),
        "reward-format": Arm("+ format", GUESSING_SFT, grpo(WeightedSum(RIGHT_AND_FORM))),
        "reward-grounding": Arm("+ grounding", GUESSING_SFT, grpo(WeightedSum(GROUNDED))),
        "guessing-grpo": Arm("full", GUESSING_SFT, grpo()),
        "reward-hardened": Arm("hardened", GUESSING_SFT, grpo(TrajectoryGuidedReward.hardened())),
    },
    "learner": {
        "guessing-sft": Arm("before", GUESSING_SFT),
        "guessing-grpo": Arm("DAPO (Video-o3's)", GUESSING_SFT, grpo()),
        "variant-grpo": Arm("GRPO", GUESSING_SFT, grpo(variant="grpo")),
        "variant-dr_grpo": Arm("Dr.GRPO", GUESSING_SFT, grpo(variant="dr_grpo")),
        "turn-credit": Arm("DAPO, by turns", GUESSING_SFT, grpo(shaping=CoverageShaping())),
        "steps-dapo": Arm("DAPO, four steps", GUESSING_SFT, grpo(minibatches=4)),
        "steps-gspo": Arm("GSPO, four steps", GUESSING_SFT, grpo(variant="gspo", minibatches=4)),
        "ppo": Arm("PPO", GUESSING_SFT, ppo(1.0)),
        "ppo-0.95": Arm("PPO, lambda 0.95", GUESSING_SFT, ppo(0.95)),
    },
}
"""The page's tables, each with its arms."""


def main() -> None:
    """Run what is missing, then write the tables."""
    arms = {name: arm for table in TABLES.values() for name, arm in table.items()}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = f"some of {', '.join(arms)}; all by default"
    parser.add_argument("--arms", nargs="*", choices=arms, metavar="ARM", help=names)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/needle"), help="stages and models")
    parser.add_argument("--time", action="store_true", help="time the ways; nothing else is run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.time:
        write_seconds(time_ways(arguments.seeds, arguments.work))
    else:
        for seed in arguments.seeds:
            for name in arguments.arms or arms:
                if not run_path(name, seed).exists():
                    run_arm(name, arms[name], seed, arguments.work)
    if not arguments.arms:
        write_page()


def run_arm(name: str, arm: Arm, seed: int, work: Path) -> None:
    """Train an arm, compare it, keep what came out."""
    start = learn_demonstrations(arm.demonstrated, seed, work)
    model = VisionLanguageModel.from_pretrained(start, dtype="float32")
    right: list[float] = []
    began = time.process_time()
    if arm.learner is not None:
        learner = arm.learner(model, seed, arm.demonstrated.way)
        for step in range(learner.total_steps):
            update = learner.update(step)
            right.append(round(fmean(accuracy(one.trajectory) for one in update.experiences), 4))
            print(f"{name}-{seed} {step + 1}: {right[-1]:.0%} right", flush=True)
        model.save_pretrained(work / f"{name}-{seed}")
    seconds = time.process_time() - began
    compare(name, seed, model, arm.demonstrated.way, right=right, cpu_seconds=seconds).write()


def learn_demonstrations(stage: Demonstrated, seed: int, work: Path) -> Path:
    """The model that arms begin with: its folder, trained only if that is missing."""
    config, shared = FromNothingConfig(seed=seed), work / f"shared-{seed}"
    guessing = train_from_nothing(config, shared, report=print)
    if stage == GUESSING_SFT:
        return guessing
    if stage == NATIVE_SFT:
        return shared / BEFORE_GUESSING
    folder = work / f"sft-{stage.name}-{seed}"
    if not folder.exists():
        model = VisionLanguageModel.from_pretrained(shared / BEFORE_PLAYING)
        model.network.train()
        tasks = load_needle(training_set(config), root=shared / "videos")
        learn_to_play(
            model,
            demonstrate(model, tasks, way=stage.way),
            steps=config.playing_steps,
            batch_tokens=config.batch_tokens,
            seed=seed + 1,
            log=lambda line: print(f"{stage.name}-{seed}", line, flush=True),
            decoupling=stage.decoupling,
        )
        draft = folder.with_name(f".{folder.name}")
        model.save_pretrained(draft)
        draft.replace(folder)
    return folder


def compare(
    arm: str,
    seed: int,
    model: VisionLanguageModel,
    way: Way,
    *,
    right: Sequence[float],
    cpu_seconds: float,
) -> Run:
    """Play the held-out questions, greedily and sampled."""
    tasks = test_tasks(TEST_VIDEOS, split="final")  # no episode of these is read for mending
    greedy, sampled = (play(model, way, tasks, seed, heat) for heat in (0.0, 1.0))
    return Run(
        arm=arm,
        seed=seed,
        steps=len(right),
        quadrants={
            kind: quadrant(
                [one for one in greedy if one.trajectory.task.kind == kind],
                [one for one in sampled if one.trajectory.task.kind == kind],
            )
            for kind in QUADRANTS
        },
        cpu_seconds=cpu_seconds,
        right=tuple(right),
    )


@dataclass(frozen=True, slots=True)
class Played:
    """An episode, and what came of all of its roles."""

    trajectory: Trajectory
    reward: Reward
    visual_tokens: int
    """That were read, by each role that read them."""


def play(
    model: VisionLanguageModel, way: Way, tasks: Sequence[VideoTask], seed: int, temperature: float
) -> list[Played]:
    """Let a model play some questions; it decodes all that it sees."""
    model.network.eval()
    rules = replace(model.counting(way.rules), force_answer=True)
    sessions: list[Session] = []

    def make_session(
        task: VideoTask, reader: VideoReader, config: SessionConfig, /, *, cache: ClipCache
    ) -> Session:
        sessions.append(way.make_session(task, reader, config, cache=cache))
        return sessions[-1]

    for episode in rollout(
        HFPolicy.factory(model, sampling=Sampling.within(rules, temperature=temperature)),
        tasks,
        RolloutConfig(seed=seed, workers=2, batch_size=64),
        session=rules,
        cache=ClipCache(2**29),
        make_session=make_session,
    ):
        if episode.error is not None:
            raise RuntimeError(episode.error)
    return [played_in(session) for session in sessions]


def played_in(session: Session) -> Played:
    """What was played in a session."""
    roles: list[Any] = [session]
    if isinstance(session, DecoupledSession):
        roles = list(session.game.sessions.values())
    trajectory = session.trajectory
    return Played(
        trajectory=trajectory,
        reward=TrajectoryGuidedReward()(trajectory),
        visual_tokens=sum(role.visual_tokens for role in roles),
    )


def quadrant(greedy: Sequence[Played], sampled: Sequence[Played]) -> Quadrant:
    """The means of one kind of question."""
    grounded = [one.reward.parts["iou"] for one in greedy if one.trajectory.task.kind in TOOL_KINDS]
    return Quadrant(
        questions=len(greedy),
        accuracy=fmean(one.reward.parts["acc"] for one in greedy),
        sampled_accuracy=fmean(one.reward.parts["acc"] for one in sampled),
        reward=spread(greedy),
        sampled_reward=spread(sampled),
        calls=fmean(len(one.trajectory.crops) for one in greedy),
        iou=fmean(grounded) if grounded else None,
        visual_tokens=fmean(one.visual_tokens for one in greedy),
    )


def spread(episodes: Sequence[Played]) -> Spread:
    """Of rewards."""
    rewards = [one.reward.value for one in episodes]
    return Spread(fmean(rewards), stdev(rewards))


def time_ways(seeds: Sequence[int], work: Path) -> dict[str, list[float]]:
    """Processor seconds a question of each way, after SFT: one figure a seed and round."""
    ways = ("single-turn-sft", "decoupled-sft", "sft")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tasks = test_tasks(TIMED_VIDEOS, split="final")
    for seed in seeds:
        stages = {name: TABLES["ways"][name].demonstrated for name in ways}
        models = {
            name: VisionLanguageModel.from_pretrained(
                learn_demonstrations(stage, seed, work), dtype="float32"
            )
            for name, stage in stages.items()
        }
        for number in range(TIMED_ROUNDS + 1):
            for name, model in models.items():
                began = time.process_time()
                play(model, stages[name].way, tasks, seed, 0.0)
                if number:  # the first round warms up
                    seconds[name].append((time.process_time() - began) / len(tasks))
    return seconds


def write_page() -> None:
    """Put the tables into the page."""
    PAGE.write_text(page_of(read_runs(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page_of(runs: Mapping[str, Sequence[Run]], page: str) -> str:
    """The page with the tables that runs make."""
    if SECONDS.exists():
        page = replaced(page, "seconds", f"\n{seconds_table(read_seconds(), _names('ways'))}\n")
    for block in TABLES:
        names = _names(block)
        page = _with_tables(page, block, comparable(runs, names), names)
    seeds = {
        f"seed {run.seed}, {arm.name}": [run]
        for name, arm in TABLES["learning"].items()
        for run in runs.get(name, [])
    }
    return _with_tables(page, "seeds", seeds, {name: name for name in seeds})


def _names(block: str) -> dict[str, str]:
    return {name: arm.name for name, arm in TABLES[block].items()}


def _with_tables(
    page: str, block: str, runs: Mapping[str, Sequence[Run]], names: Mapping[str, str]
) -> str:
    if not runs:
        return replaced(page, block, "\nNothing to compare has been run yet.\n")
    tables = (table(runs, names) for table in (accuracy_table, difference_table, seeking_table))
    return replaced(page, block, "\n" + "\n\n".join(filter(None, tables)) + "\n")


if __name__ == "__main__":
    main()
