"""Answer about a video that is still arriving: at once, when the clue has come, or at the end.

Run: python examples/08_live_video.py [number of tasks]
"""

import sys
from dataclasses import replace
from typing import cast

import gymnasium
import numpy as np

from agents.needle_eyes import find_thing
from agents.policy import Policy
from agents.seeker import PixelSeeker
from envs.live import LiveVideoSeekEnv, write_wait
from videoseek_env import Observation, TaskKind, load_tasks
from videoseek_env.video.clip import Clip


class Watcher:
    """Waits until the card of the question has come and gone; then it plays as a PixelSeeker."""

    def __init__(self, *, until_the_end: bool = False) -> None:
        """Watch, or only wait for the end of the video."""
        self.until_the_end = until_the_end

    def reset(self, *, seed: int | None = None) -> None:
        """Begin an episode."""
        self.seeker = PixelSeeker()
        self.seeker.reset(seed=seed)
        self.question = ""
        self.updates: list[Clip] = []
        self.has_come = False

    def act(self, observation: Observation) -> str:
        """Wait, or look back and answer."""
        clip = observation.clip
        if clip is None or clip.strategy != "overview":  # what the seeker asked to see
            return self.seeker.act(observation)
        if not self.question:
            self.question = observation.text
        else:
            self.updates.append(clip)
        is_time = self.has_gone(clip) and not self.until_the_end
        if not is_time and "has ended" not in observation.text:
            return write_wait("What I am asked about has not come and gone yet.", 10)
        frames = np.concatenate([update.frames for update in self.updates])
        times = np.concatenate([update.timestamps_seconds for update in self.updates])
        so_far = Clip(frames, times, clip.segment, "overview")
        return self.seeker.act(replace(observation, text=self.question, clip=so_far))

    def has_gone(self, clip: Clip) -> bool:
        """Whether the card of the question has been there and is no longer."""
        things = map(find_thing, clip.frames)
        is_there = [f"{thing.colour} {thing.kind}" in self.question for thing in things if thing]
        self.has_come |= any(is_there)
        return self.has_come and find_thing(clip.frames[-1]) is None


def play(env: LiveVideoSeekEnv, policy: Policy, task_id: str) -> tuple[float, float, float]:
    """Play one episode: accuracy, delay in seconds, reward."""
    env.reset(options={"task_id": task_id})
    policy.reset(seed=0)
    is_over = False
    while not is_over:
        _, reward, terminated, truncated, info = env.step(policy.act(env.observation))
        is_over = terminated or truncated
    return info["reward_parts"]["acc"], info["delay_seconds"], reward


def main() -> None:
    """Compare three ways to spend the time."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    tasks = [task for task in load_tasks("needle") if task.kind is TaskKind.SINGLE_CLUE_TOOL]
    tasks = tasks[:count]
    env = gymnasium.make("VideoSeekLive-v0", tasks=tasks)
    live_env = cast("LiveVideoSeekEnv", env.unwrapped)
    policies: dict[str, Policy] = {
        "at once": PixelSeeker(may_crop=False),
        "when seen": Watcher(),
        "at the end": Watcher(until_the_end=True),
    }
    print(f"{len(tasks)} questions, asked at the start\n  answers  accuracy   delay  reward")
    for name, policy in policies.items():
        scores = np.mean([play(live_env, policy, task.id) for task in tasks], axis=0)
        print(f"{name:>10} {scores[0]:8.0%} {scores[1]:6.1f} s {scores[2]:7.2f}")
    env.close()


if __name__ == "__main__":
    main()
