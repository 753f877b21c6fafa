"""Train the agents of docs/discrete.md, draw their learning curves and write their table.

Run with `python docs/make_discrete_curves.py`; it needs the extras agents, sb3,
tianshou, plots and testing.
A run is an arm and a seed: one file in docs/data/discrete, trained only if that is missing. So the
script goes on where it was stopped, and `--seeds 0 1 2 3` adds a seed to each arm. A run takes
minutes on one core; `--arms` picks some, and processes with other arms can work side by side.
"""

from __future__ import annotations

import argparse
import runpy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from discrete_results import ARMS, DATA, Run, accuracy_of, draw, read_runs, run_path, table_block
from make_reward_tables import replaced
from tianshou.data import Batch

from envs.discrete_tasks import load_card_tasks
from rewards import Accuracy
from videoseek_env.task import VideoTask

DOCS = Path(__file__).parent
SB3 = runpy.run_path(str(DOCS.parent / "examples/05_stable_baselines3.py"))
TIANSHOU = runpy.run_path(str(DOCS.parent / "examples/06_tianshou.py"))
STEPS, VIDEOS, TEST_VIDEOS = 40_000, 800, 100
EVALUATE_EVERY_STEPS = 10_000
CURVE_EVERY_TASKS = 4

Act = Callable[[Mapping[str, Any]], Any]
Note = Callable[[int, Act], None]
"""Is told of the agent as it is after so many steps."""


class Played(NamedTuple):
    """Means over episodes."""

    accuracy: float
    turns: float


def play(env: Any, act: Act, tasks: Sequence[VideoTask]) -> Played:
    """Play each task once in an environment that pays right answers with 1."""
    rewards, turns = [], []
    for task in tasks:
        observation, _ = env.reset(options={"task_id": task.id})
        is_over = False
        while not is_over:
            observation, reward, terminated, truncated, info = env.step(act(observation))
            is_over = terminated or truncated
        rewards.append(reward)
        turns.append(info["turns"])
    return Played(mean(rewards), mean(turns))


def greedy_sb3(model: Any) -> Act:
    """The most likely action of stable-baselines3's PPO."""
    return lambda observation: model.predict(observation, deterministic=True)[0]


def sampling_tianshou(model: Any) -> Act:
    """An action as tianshou's PPO draws it: where 60 crops share their chance, none is likely."""

    def act(observation: Mapping[str, Any]) -> int:
        batch = Batch(obs={name: array[None] for name, array in observation.items()}, info={})
        with torch.no_grad():
            return int(model.policy(batch).act)

    return act


def train_sb3(tasks: Sequence[VideoTask], seed: int, note: Note, **rules: Any) -> Act:
    """Stable-baselines3's PPO, as in its example."""

    def note_step(scope: Mapping[str, Any], _: Any) -> bool:
        note(scope["self"].num_timesteps, greedy_sb3(scope["self"]))
        return True

    return greedy_sb3(SB3["learn"](tasks, STEPS, seed=seed, callback=note_step, **rules))


def train_tianshou(tasks: Sequence[VideoTask], seed: int, note: Note) -> Act:
    """Tianshou's PPO, as in its example."""

    def note_step(model: Any, steps: int) -> None:
        note(steps, sampling_tianshou(model))

    return sampling_tianshou(TIANSHOU["learn"](tasks, STEPS, seed=seed, callback=note_step))


def act_at_random(tasks: Sequence[VideoTask], seed: int) -> Act:
    """Every number of an action is as likely as any other."""
    space = SB3["make_env"](tasks, Accuracy()).action_space
    space.seed(seed)
    return lambda observation: space.sample()


def run(arm: str, seed: int) -> Run:
    """Train with a seed, evaluating on the way and at the end."""
    started = time.process_time()
    tasks, tests = load_card_tasks(videos=VIDEOS), load_card_tasks("test", videos=TEST_VIDEOS)
    rules = {"max_turns": 1} if arm == "single_turn" else {}
    example = TIANSHOU if arm == "tianshou" else SB3
    env = example["make_env"](tests, Accuracy(), **rules)
    curve: list[tuple[int, float]] = []

    def note(steps: int, act: Act) -> None:
        if steps >= len(curve) * EVALUATE_EVERY_STEPS:
            curve.append((steps, play(env, act, tests[::CURVE_EVERY_TASKS]).accuracy))
            print(f"{arm} {seed}: {curve[-1][1]:.0%} after {steps} steps", flush=True)

    if arm == "random":
        act = act_at_random(tasks, seed)
    elif arm == "tianshou":
        act = train_tianshou(tasks, seed, note)
    else:
        act = train_sb3(tasks, seed, note, **rules)
    last = play(env, act, tests)
    return Run(
        arm=arm,
        seed=seed,
        steps=0 if arm == "random" else STEPS,
        videos=VIDEOS,
        tasks=len(tests),
        accuracy=last.accuracy,
        turns=last.turns,
        curve=curve,
        cpu_seconds=round(time.process_time() - started),
    )


def publish() -> None:
    """Draw the finished runs, and put their table into the page."""
    runs = {arm: some for arm, some in read_runs().items() if len(some) > 1}
    if not runs:
        return
    draw(runs, DOCS / "plots" / "discrete.svg")
    page = DOCS / "discrete.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(replaced(text, "results", table_block(runs)), encoding="utf-8")
    for arm, some in runs.items():
        found = accuracy_of(some)
        print(f"{ARMS[arm]:24} {found.mean:6.1%}  [{found.low:.1%}, {found.high:.1%}]")


def main() -> None:
    """Train what is missing, then publish what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in args.seeds:
        for arm in args.arms:
            if not run_path(DATA, arm, seed).exists():
                run(arm, seed).write(DATA)
    publish()


if __name__ == "__main__":
    main()
