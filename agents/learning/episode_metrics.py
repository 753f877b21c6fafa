"""What the episodes of a step say about the policy."""

from __future__ import annotations

from collections import Counter

import numpy as np

from agents.learning.collecting import Collected


def episode_metrics(collected: Collected) -> dict[str, float]:
    """Means over all sound episodes of a step, dropped groups included, and counts of the rest.

    Endings are shares, each under its own name, such as "end/answered"; parts of the reward are
    means, such as "reward/accuracy".
    """
    sound = [one for one in collected.all_played if one.error is None]
    counts = {
        "questions": float(collected.drawn),
        "uninformative_groups": float(collected.uninformative_groups),
        "failed_groups": float(collected.failed_groups),
        **{f"failed/{reason}": float(n) for reason, n in sorted(collected.failures.items())},
    }
    if not sound:
        return counts
    rewards = np.array([one.reward.value for one in sound])
    parts = {
        f"reward/{name}": float(np.mean([one.reward.parts.get(name, 0.0) for one in sound]))
        for name in sorted({name for one in sound for name in one.reward.parts})
    }
    endings = Counter(str(one.trajectory.end_reason) for one in sound)
    return {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        **parts,
        "calls": float(np.mean([len(one.trajectory.crops) for one in sound])),
        "turns": float(np.mean([len(one.trajectory.turns) for one in sound])),
        "reply_tokens": float(np.mean([one.sample.trained_tokens for one in sound if one.sample])),
        **{f"end/{reason}": n / len(sound) for reason, n in sorted(endings.items())},
        **counts,
    }
