"""Run the arms of docs/RESULTS.md and write its tables.

Run with `python docs/make_needle_results.py`; it needs the extras agents and plots. A run is an arm
and a seed: one file in docs/data/needle, trained only if that is missing. So the script goes on
where it was stopped, `--seeds 0 1 2` adds seeds, and processes with other `--arms` work side by
side. The arms of a seed share its first stages, kept under --work; they differ in what is compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from make_reward_tables import replaced
from needle_results import QUADRANTS, Quadrant, Run, accuracy_table, read_runs, run_path

from agents.demo import GRPO_SETTINGS, test_tasks, train_tasks
from agents.episode import Episode
from agents.learning.collecting import CollectorConfig
from agents.learning.from_nothing.settings import NEEDLE_SESSION
from agents.learning.from_nothing.train import FromNothingConfig, train_from_nothing
from agents.learning.grpo import GRPOLearner
from agents.learning.grpo_config import GRPOConfig
from agents.learning.learner import Learner
from agents.learning.ppo import PPOConfig, PPOLearner
from agents.llm.generation import Sampling
from agents.llm.hf_policy import HFPolicy
from agents.llm.model import VisionLanguageModel
from agents.rollout import RolloutConfig, rollout
from rewards import Accuracy, Format, Grounding, RewardFunction, TrajectoryGuidedReward, WeightedSum
from videoseek_env.budget import get_budget
from videoseek_env.task import TaskKind
from videoseek_env.video import ClipCache

PAGE = Path(__file__).parent / "RESULTS.md"
TEST_VIDEOS = 40
TOOL_KINDS = (TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL)
CACHE = ClipCache(2**30)

MakeLearner = Callable[[VisionLanguageModel, int], Learner]
"""From a model and a seed."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What is done after the stages that a seed's arms share."""

    name: str
    """In the table."""
    learner: MakeLearner | None
    """None compares the shared model as it is."""


def grpo(reward: RewardFunction | None = None, variant: str = "dapo") -> MakeLearner:
    """GRPO by a reward, in a variant."""

    def make(model: VisionLanguageModel, seed: int) -> Learner:
        config = replace(GRPO_SETTINGS, seed=seed).as_variant(variant)
        return _grpo_learner(model, config, reward)

    return make


def turn_credit(model: VisionLanguageModel, seed: int) -> Learner:
    """GRPO that credits turns."""
    return _grpo_learner(model, replace(GRPO_SETTINGS, seed=seed, turn_credit=True), None)


def ppo(model: VisionLanguageModel, seed: int) -> Learner:
    """PPO with as many episodes a step as GRPO."""
    groups = GRPO_SETTINGS.collector
    episodes = groups.questions * groups.group_size
    config = PPOConfig(
        steps=GRPO_SETTINGS.steps,
        collector=CollectorConfig(questions=episodes, group_size=1, drop_uninformative=False),
        optimiser=GRPO_SETTINGS.optimiser,
        minibatches=1,
        seed=seed,
    )
    return PPOLearner(
        model,
        train_tasks(),
        config,
        session=NEEDLE_SESSION,
        reward=TrajectoryGuidedReward(),
        cache=CACHE,
    )


def _grpo_learner(
    model: VisionLanguageModel, config: GRPOConfig, reward: RewardFunction | None
) -> Learner:
    return GRPOLearner(
        model,
        train_tasks(),
        config,
        session=NEEDLE_SESSION,
        reward=TrajectoryGuidedReward() if reward is None else reward,
        cache=CACHE,
    )


RIGHT_AND_FORM = {"acc": (1.0, Accuracy()), "format": (1.0, Format())}
TABLES: Mapping[str, Mapping[str, Arm]] = {
    "training": {
        "sft": Arm("SFT", None),
        "grpo": Arm("SFT + GRPO", grpo()),
    },
    "reward": {
        "reward-accuracy": Arm("accuracy only", grpo(Accuracy())),
        "reward-format": Arm("+ format", grpo(WeightedSum(RIGHT_AND_FORM))),
        "reward-grounding": Arm(
            "+ grounding", grpo(WeightedSum({**RIGHT_AND_FORM, "grounding": (1.0, Grounding())}))
        ),
        "grpo": Arm("full", grpo()),
        "reward-hardened": Arm("hardened", grpo(TrajectoryGuidedReward.hardened())),
    },
    "learner": {
        "grpo": Arm("DAPO (Video-o3's)", grpo()),
        "variant-grpo": Arm("GRPO", grpo(variant="grpo")),
        "variant-dr_grpo": Arm("Dr.GRPO", grpo(variant="dr_grpo")),
        "variant-gspo": Arm("GSPO", grpo(variant="gspo")),
        "turn-credit": Arm("DAPO with credit by turns", turn_credit),
        "ppo": Arm("PPO", ppo),
    },
}
"""The page's tables, each with its arms."""


def main() -> None:
    """Run what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arms", nargs="*", help="names of arms; all by default")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/needle"), help="stages and models")
    parser.add_argument("--start", type=Path, help="a trained model in place of the shared stages")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arms = {name: arm for table in TABLES.values() for name, arm in table.items()}
    for seed in arguments.seeds:
        for name in arms if arguments.arms is None else arguments.arms:
            if not run_path(name, seed).exists():
                run_arm(name, arms[name], seed, arguments.start or shared(seed, arguments.work))
    write_page()


def shared(seed: int, work: Path) -> Path:
    """The model that all arms of a seed begin with."""
    return train_from_nothing(FromNothingConfig(seed=seed), work / f"shared-{seed}", report=print)


def run_arm(name: str, arm: Arm, seed: int, start: Path) -> None:
    """Train an arm, compare it, keep what came out."""
    model = VisionLanguageModel.from_pretrained(start, dtype="float32")
    steps, began = 0, time.process_time()
    if arm.learner is not None:
        learner = arm.learner(model, seed)
        for step in range(learner.total_steps):
            metrics = learner.update(step).metrics
            print(f"{name}-{seed} {step + 1}: reward {metrics['reward']:.2f}", flush=True)
        steps = learner.total_steps
    compare(name, seed, model, steps=steps, cpu_seconds=time.process_time() - began).write()


def compare(
    arm: str, seed: int, model: VisionLanguageModel, *, steps: int, cpu_seconds: float
) -> Run:
    """Play the held-out questions, greedily and sampled."""
    model.network.eval()
    rules = replace(model.counting(NEEDLE_SESSION), force_answer=True)
    longest = get_budget(NEEDLE_SESSION.budget).max_reply_tokens + 1
    tasks = test_tasks(TEST_VIDEOS, split="final")  # never looked at
    played: list[list[Episode]] = []
    seconds = []
    for temperature in (0.0, 1.0):
        sampling = Sampling(temperature=temperature, max_tokens=longest)
        began = time.perf_counter()
        episodes = rollout(
            HFPolicy.factory(model, sampling=sampling),
            tasks,
            RolloutConfig(seed=seed, workers=2, batch_size=64),
            session=rules,
            cache=CACHE,
        )
        played.append(list(episodes))
        seconds.append((time.perf_counter() - began) / len(tasks))
    greedy, sampled = played
    return Run(
        arm=arm,
        seed=seed,
        steps=steps,
        quadrants={
            kind: quadrant(
                [one for one in greedy if one.trajectory.task.kind == kind],
                [one for one in sampled if one.trajectory.task.kind == kind],
            )
            for kind in QUADRANTS
        },
        invalid=fmean(map(is_invalid, greedy)),
        sampled_invalid=fmean(map(is_invalid, sampled)),
        seconds=seconds[0],
        cpu_seconds=cpu_seconds,
    )


def quadrant(greedy: Sequence[Episode], sampled: Sequence[Episode]) -> Quadrant:
    """The means of one kind of question."""
    grounded = [one.reward.parts["iou"] for one in greedy if one.trajectory.task.kind in TOOL_KINDS]
    return Quadrant(
        questions=len(greedy),
        accuracy=fmean(one.reward.parts["acc"] for one in greedy),
        sampled_accuracy=fmean(one.reward.parts["acc"] for one in sampled),
        reward=fmean(one.reward.value for one in greedy),
        sampled_reward=fmean(one.reward.value for one in sampled),
        calls=fmean(len(one.trajectory.crops) for one in greedy),
        iou=fmean(grounded) if grounded else None,
        visual_tokens=fmean(one.trajectory.visual_tokens for one in greedy),
    )


def is_invalid(episode: Episode) -> bool:
    """Whether a reply was malformed, or none was an answer."""
    return episode.reward.parts["format"] < 1 or episode.trajectory.answer is None


def write_page() -> None:
    """Put the tables into the page."""
    runs, page = read_runs(), PAGE.read_text(encoding="utf-8")
    for block, arms in TABLES.items():
        names = {name: arm.name for name, arm in arms.items()}
        page = replaced(page, block, "\n" + accuracy_table(runs, names) + "\n")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
