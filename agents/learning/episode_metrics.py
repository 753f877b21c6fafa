"""What the episodes of a step say about the policy."""

from __future__ import annotations

from collections import Counter

import numpy as np
from accelerate.utils import gather_object

from agents.learning.collecting import Collected, Experience


def episode_metrics(collected: Collected) -> dict[str, float]:
    """Means over the sound episodes of a step on all processes, and counts of the rest.

    Episodes of dropped groups are in the means. Endings are shares, each under its own name, such
    as "end/answered"; parts of the reward are means, such as "reward/accuracy". Every process has
    to call this.
    """
    sound = [one for one in collected.all_played if one.error is None]
    rows: list[dict[str, float]] = gather_object([_row(one) for one in sound])
    counts: Counter[str] = Counter()
    for part in gather_object([_counts(collected)]):
        counts.update(part)
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: float(np.mean([row.get(name, 0.0) for row in rows])) for name in names}
    if rows:
        means["reward_std"] = float(np.std([row["reward"] for row in rows]))
    return {
        **means,
        "questions": float(collected.drawn),
        **{name: float(count) for name, count in counts.items()},
    }


def speed_metrics(
    collected: Collected, *, rollout_seconds: float, learning_seconds: float
) -> dict[str, float]:
    """How long a step took, and how many tokens all processes played in a second of it."""
    own = sum(len(sample.tokens) for one in collected.all_played for sample in one.samples)
    return {
        "rollout_seconds": rollout_seconds,
        "learning_seconds": learning_seconds,
        "tokens_per_second": sum(gather_object([own])) / (rollout_seconds + learning_seconds),
    }


def _row(one: Experience) -> dict[str, float]:
    parts = {f"reward/{name}": float(value) for name, value in one.reward.parts.items()}
    return {
        "reward": float(one.reward.value),
        **parts,
        "calls": float(len(one.trajectory.crops)),
        "turns": float(len(one.trajectory.turns)),
        "reply_tokens": float(sum(sample.trained_tokens for sample in one.samples)),
        f"end/{one.trajectory.end_reason}": 1.0,
    }


def _counts(collected: Collected) -> dict[str, int]:
    failures = {f"failed/{reason}": n for reason, n in sorted(collected.failures.items())}
    return {
        "uninformative_groups": collected.uninformative_groups,
        "failed_groups": collected.failed_groups,
        **failures,
    }
