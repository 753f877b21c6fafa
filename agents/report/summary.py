"""Episodes in numbers: per policy, and per kind of task, with 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agents.episode import Episode
from rewards.accuracy import accuracy
from videoseek_env.task import TaskKind

_Z = 1.959964
"""Standard normal quantile of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float | None
    """None where too few episodes leave it unknown."""
    high: float | None
    count: int
    """Episodes behind it."""


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """One policy's row."""

    policy: str
    episodes: int
    failures: int
    """Episodes in which the policy or the decoder raised an exception."""
    accuracy: Estimate
    reward: Estimate
    parts: Mapping[str, Estimate]
    """The reward's named components, over the episodes that have them."""
    turns: Estimate
    visual_tokens: Estimate
    seconds: Estimate
    """Wall-clock time of an episode."""
    accuracy_by_kind: Mapping[TaskKind, Estimate]


def summarise(episodes: Iterable[Episode]) -> list[PolicySummary]:
    """One row per policy, in order of first appearance."""
    by_policy: dict[str, list[Episode]] = {}
    graded: set[str] = set()
    for episode in episodes:
        by_policy.setdefault(episode.policy, []).append(episode)
        graded.update(name for name, value in episode.reward.parts.items() if value not in (0, 1))
    return [_summarise_policy(policy, group, graded) for policy, group in by_policy.items()]


def _summarise_policy(
    policy: str, episodes: Sequence[Episode], graded_parts: Container[str]
) -> PolicySummary:
    """One row. Parts that are more than right or wrong in some row get the same interval in all."""

    def mean(measure: Callable[[Episode], float]) -> Estimate:
        return mean_estimate([measure(episode) for episode in episodes])

    part_names = dict.fromkeys(name for episode in episodes for name in episode.reward.parts)
    by_kind: dict[TaskKind, list[float]] = {kind: [] for kind in TaskKind}
    for episode in episodes:
        by_kind[episode.trajectory.task.kind].append(accuracy(episode.trajectory))
    return PolicySummary(
        policy=policy,
        episodes=len(episodes),
        failures=sum(episode.error is not None for episode in episodes),
        accuracy=share_estimate([score for scores in by_kind.values() for score in scores]),
        reward=mean(lambda episode: episode.reward.value),
        parts={
            name: (mean_estimate if name in graded_parts else share_estimate)(
                [e.reward.parts[name] for e in episodes if name in e.reward.parts]
            )
            for name in part_names
        },
        turns=mean(lambda episode: len(episode.trajectory.turns)),
        visual_tokens=mean(lambda episode: episode.trajectory.visual_tokens),
        seconds=mean(lambda episode: episode.seconds),
        accuracy_by_kind={
            kind: share_estimate(scores) for kind, scores in by_kind.items() if scores
        },
    )


def share_estimate(scores: Sequence[float]) -> Estimate:
    """The mean of scores in [0, 1], with Wilson's interval if all are 0 or 1.

    Otherwise it is the normal one, cut off at 0 and 1.

    Raises:
        ValueError: If there is no score.
    """
    if scores and all(score in (0, 1) for score in scores):
        return wilson_estimate(round(sum(scores)), len(scores))
    estimate = mean_estimate(scores)
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(estimate.low, 0.0), high=min(estimate.high, 1.0))


def wilson_estimate(successes: int, count: int) -> Estimate:
    """A proportion with its Wilson score interval (Wilson 1927).

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    Raises:
        ValueError: Unless 0 <= successes <= count and 1 <= count.

    >>> estimate = wilson_estimate(8, 10)
    >>> round(estimate.low, 3), estimate.mean, round(estimate.high, 3)
    (0.49, 0.8, 0.943)
    """
    if not (0 <= successes <= count and count >= 1):
        raise ValueError(f"expected 0 <= successes <= count, count >= 1; got {successes}, {count}")
    share = successes / count
    centre = share + _Z**2 / (2 * count)
    spread = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return Estimate(share, max(low, 0.0), min(high, 1.0), count)


def mean_estimate(values: Sequence[float]) -> Estimate:
    """A mean with its normal interval, mean -+ z s / sqrt(n); unknown for fewer than two values.

    Raises:
        ValueError: If there is no value.

    >>> mean_estimate([1.0])
    Estimate(mean=1.0, low=None, high=None, count=1)
    """
    count = len(values)
    if count == 0:
        raise ValueError("a mean needs at least one value, got none")
    mean = math.fsum(values) / count
    if count < 2:
        return Estimate(mean, None, None, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = _Z * math.sqrt(variance / count)
    return Estimate(mean, mean - half, mean + half, count)
