"""Plug in a policy of your own, compare it with the baselines, and write a report.

Run: python examples/02_own_policy.py [report.html]
"""

import sys

import numpy as np

from agents.baselines import RandomPolicy, read_options
from agents.report import summarise, write_report
from agents.rollout import RolloutConfig, rollout
from agents.seeker import PixelSeeker
from videoseek_env import Observation, Segment, load_tasks
from videoseek_env.action import write_answer, write_crop


class MostColourful:
    """Crops around the overview's most colourful frame, then guesses: better looks than answers."""

    def reset(self, *, seed: int | None = None) -> None:
        """Begin an episode; all randomness comes from the seed."""
        self._rng = np.random.default_rng(seed)

    def act(self, observation: Observation) -> str:
        """Crop once, answer the second time."""
        clip = observation.clip
        if clip is None or clip.strategy != "overview":
            return write_answer("Now I have to guess.", str(self._rng.choice(self._letters)))
        self._letters = list(read_options(observation.text)) or ["1"]
        channels = clip.frames.astype(int)
        saturation = (channels.max(axis=-1) - channels.min(axis=-1)).mean(axis=(1, 2))
        time = float(clip.timestamps_seconds[saturation.argmax()])
        return write_crop(f"Bright at {time:.0f} s.", Segment(max(0.0, time - 4), time + 4), "fine")


def main() -> None:
    """Play, print a line per policy, write the report."""
    tasks = load_tasks("needle")
    config = RolloutConfig(workers=2)
    episodes = [
        episode
        for make_policy in (RandomPolicy, MostColourful, PixelSeeker)
        for episode in rollout(make_policy, tasks, config)
    ]
    for row in summarise(episodes):
        grounding = row.parts["iou"].mean
        print(f"{row.policy:>14}: accuracy {row.accuracy.mean:.0%}, grounding IoU {grounding:.2f}")
    path = sys.argv[1] if len(sys.argv) > 1 else "runs/own_policy.html"
    print("report:", write_report(path, episodes, title="A policy of my own"))


if __name__ == "__main__":
    main()
