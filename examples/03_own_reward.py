"""Write a reward of your own, hunt for what breaks it, mend it, and plug it into the environment.

Run: python examples/03_own_reward.py [cases to try of each property]
"""

import sys
from dataclasses import dataclass
from functools import partial

import numpy as np

from agents.policy import Policy
from agents.seeker import PixelSeeker
from rewards import Reward, accuracy
from rewards.accuracy import is_only_choice
from rewards.format import unnested_format
from rewards.grounding import clue_intervals, coverage, shown_intervals
from rewards.intervals import iou, length
from rewards.testing import check_reward
from videoseek_env import Observation, Segment, TaskKind, Trajectory, VideoSeekEnv, load_tasks
from videoseek_env.action import write_answer, write_crop

KINDS = (TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL)


def careless(trajectory: Trajectory) -> Reward:
    """Right answers, and as much again for what the crops showed of the clues; in [0, 2]."""
    seen = coverage(shown_intervals(trajectory.clips), clue_intervals(trajectory.task))
    right = accuracy(trajectory)
    return Reward(right * (1 + seen), {"right": right, "seen": seen})


def careful(trajectory: Trajectory) -> Reward:
    """Right answers, and as much again for crops that frame the clues; in [0, 2].

    A crop of everything earns nothing, and neither does an answer that hedges.
    """
    shown, clues = shown_intervals(trajectory.clips), clue_intervals(trajectory.task)
    by_showing_all = length(clues) / (trajectory.duration_seconds - trajectory.start_seconds)
    gain = iou(shown, clues) - by_showing_all
    framed = max(0.0, gain / (1 - by_showing_all)) if by_showing_all < 1 else 0.0
    is_choice = is_only_choice(trajectory.answer or "", trajectory.task)
    right = float(is_choice and unnested_format(trajectory).score > 0)
    return Reward(right * (1 + framed), {"right": right, "framed": framed})


@dataclass
class Guesser:
    """Answers at random; a sly one crops the whole video first, without a look at it."""

    is_sly: bool = False

    def reset(self, *, seed: int | None = None) -> None:
        """Begin an episode; all randomness comes from the seed."""
        self.letter = "ABCD"[np.random.default_rng(seed).integers(4)]

    def act(self, observation: Observation) -> str:
        """Crop, if that is the trick, and answer."""
        clip = observation.clip
        if self.is_sly and clip is not None and clip.strategy == "overview":
            everything = Segment(0.0, float(clip.timestamps_seconds[-1]))
            return write_crop("All of it.", everything, "coarse")
        return write_answer("Whatever.", self.letter)


def mean_reward(env: VideoSeekEnv, policy: Policy) -> float:
    """Play every task of an environment."""
    total = 0.0
    for number, task_id in enumerate(env.tasks):
        env.reset(options={"task_id": task_id})
        policy.reset(seed=number)
        is_over = False
        while not is_over:
            _, reward, terminated, truncated, _ = env.step(policy.act(env.observation))
            total, is_over = total + reward, terminated or truncated
    return total / len(env.tasks)


def main() -> None:
    """Check both rewards, then let three policies play for each."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    check = partial(check_reward, low=0, high=2, kinds=KINDS, max_examples=cases)
    survey = check(careless, keep_going=True)
    print(f"careless: {survey}\n\n{survey.broken['whole_video_crop']}\n")
    print("careful:", check(careful))  # raises if a property is broken: in a test, this is enough

    tasks = [task for task in load_tasks("needle") if task.kind in KINDS]
    # gymnasium.make("VideoSeek-v0", tasks=tasks, reward=careful) makes the same environment.
    envs = [VideoSeekEnv(tasks, reward) for reward in (careless, careful)]
    print(f"\nmean reward of {len(tasks)} questions\n{'':>16}{'careless':>10}{'careful':>10}")
    rows = ("guess", Guesser()), ("crop all, guess", Guesser(is_sly=True)), ("seek", PixelSeeker())
    for name, policy in rows:
        print(f"{name:>16}" + "".join(f"{mean_reward(env, policy):10.2f}" for env in envs))
    for env in envs:
        env.close()


if __name__ == "__main__":
    main()
