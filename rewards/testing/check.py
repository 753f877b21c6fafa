"""Hunt for trajectories that break a reward."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from rewards.reward import RewardFunction
from rewards.testing._backend import hypothesis
from rewards.testing.exploits import ALL_KINDS
from rewards.testing.properties import (
    PROPERTIES,
    Case,
    Kinds,
    Property,
    Range,
    WrongTypeError,
    score,
)
from videoseek_env.errors import VideoSeekError
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import Trajectory

_LONGEST_REPLY_CHARS = 300


class RewardPropertyError(VideoSeekError, AssertionError):
    """A reward breaks a property; the message shows the smallest trajectories found to do so.

    Attributes:
        property_name: A key of `PROPERTIES`.
        case: The trajectories, by what they are.
        scores: Their values, in the same order; None where the reward raised.
    """

    def __init__(
        self, property_name: str, fault: str, case: Case, scores: tuple[float | None, ...]
    ) -> None:
        super().__init__(property_name, fault, case, scores)
        self.property_name, self.fault, self.case, self.scores = property_name, fault, case, scores

    def __str__(self) -> str:
        claim = PROPERTIES[self.property_name].claim
        shown = (
            _describe(name, trajectory, value)
            for (name, trajectory), value in zip(self.case.items(), self.scores, strict=True)
        )
        tasks = dict.fromkeys(_describe_task(one.task) for one in self.case.values())
        return "\n".join(
            (
                f"the reward breaks {self.property_name!r}: {claim}.",
                f"Here {self.fault}.",
                *(f"task: {task}" for task in tasks),
                *shown,
                f"If that is meant, pass skip={[self.property_name]!r}.",
            )
        )


@dataclass(frozen=True, slots=True)
class RewardCheck:
    """What a check ran."""

    examples: Mapping[str, int]
    """Cases tried, by the name of each property."""
    broken: Mapping[str, RewardPropertyError]
    """What each broken property was broken by."""

    def __str__(self) -> str:
        return (
            f"{len(self.examples)} properties, {sum(self.examples.values())} examples, "
            f"broken: {', '.join(self.broken) or 'none'}"
        )


def check_reward(
    reward: RewardFunction,
    /,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    kinds: Kinds = ALL_KINDS,
    properties: Collection[str] = tuple(PROPERTIES),
    skip: Collection[str] = (),
    max_examples: int = 100,
    seed: int = 0,
    keep_going: bool = False,
) -> RewardCheck:
    """Check that a reward keeps every property; see `PROPERTIES`.

    Args:
        reward: A function of a trajectory.
        low: The least that it pays, inclusive; say it, or only finiteness is checked.
        high: The most that it pays, inclusive.
        kinds: Kinds of task that it is for. A property that makes sense for none is left out.
        properties: Names of the properties to check.
        skip: Names of those that the reward is not meant to keep.
        max_examples: Cases to try of each property.
        seed: The same seed tries the same cases.
        keep_going: Go on where a property is broken, and return all that are, instead of raising.

    Raises:
        RewardPropertyError: If a property is broken, unless it is to keep going.
        ValueError: If a property is unknown, low > high, or there is no kind.

    >>> from rewards import Accuracy
    >>> str(check_reward(Accuracy(), low=0, high=1, properties=["deterministic"], max_examples=9))
    '1 properties, 9 examples, broken: none'
    """
    examples: dict[str, int] = {}
    broken: dict[str, RewardPropertyError] = {}
    for one in _chosen(kinds, properties, skip, Range(low, high)):
        examples[one.name], error = _hunt(one, reward, kinds, Range(low, high), max_examples, seed)
        if error is not None and not keep_going:
            raise error
        if error is not None:
            broken[one.name] = error
    return RewardCheck(examples, broken)


def _chosen(
    kinds: Kinds, properties: Collection[str], skip: Collection[str], span: Range
) -> Iterator[Property]:
    """The properties to check that make sense for one of the kinds."""
    if not span.low <= span.high:
        raise ValueError(f"expected low <= high, got [{span.low}, {span.high}]")
    if not kinds:
        raise ValueError(f"expected at least one kind of task, of {', '.join(TaskKind)}")
    if unknown := sorted({*properties, *skip} - PROPERTIES.keys()):
        raise ValueError(
            f"no property is named {', '.join(unknown)}; choose from {', '.join(PROPERTIES)}"
        )
    return (
        one
        for name, one in PROPERTIES.items()
        if name in properties and name not in skip and set(kinds) & set(one.kinds)
    )


def _hunt(
    one: Property, reward: RewardFunction, kinds: Kinds, span: Range, max_examples: int, seed: int
) -> tuple[int, RewardPropertyError | None]:
    """The cases tried, and the error of the smallest that breaks the property."""
    tried, found = 0, None

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max_examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(one.cases([kind for kind in kinds if kind in one.kinds]))
    def holds(case: Case) -> None:
        nonlocal tried, found
        tried += 1
        error = _judge(one, reward, case, span)
        if error is not None:
            found = error  # Hypothesis tries the smallest last
            raise error

    try:
        holds()
    except RewardPropertyError:
        pass
    except hypothesis.errors.Flaky:
        if found is not None:
            found.fault += ", and once more it did not: the reward is not deterministic"
    return tried, found


def _judge(
    one: Property, reward: RewardFunction, case: Case, span: Range
) -> RewardPropertyError | None:
    try:
        fault = one.fault(reward, case, span)
    except Exception as error:  # whatever a user's function does
        is_ours = isinstance(error, WrongTypeError)
        fault = str(error) if is_ours else f"it raised {type(error).__name__}: {error}"
        broken = RewardPropertyError(one.name, fault, case, _scores(reward, case))
        broken.__cause__ = error
        return broken
    if fault is None:
        return None
    return RewardPropertyError(one.name, fault, case, _scores(reward, case))


def _scores(reward: RewardFunction, case: Case) -> tuple[float | None, ...]:
    return tuple(_score_or_none(reward, trajectory) for trajectory in case.values())


def _score_or_none(reward: RewardFunction, trajectory: Trajectory) -> float | None:
    try:
        return score(reward, trajectory).value
    except Exception:
        return None


def _describe(name: str, trajectory: Trajectory, value: float | None) -> str:
    ending = trajectory.end_reason.value if trajectory.end_reason else "still running"
    return "\n".join(
        (
            f"{name}: scores {'nothing' if value is None else value}, {ending}",
            *(
                f"  turn {number}: {_shorten(reply)}"
                for number, reply in enumerate(trajectory.replies, start=1)
            ),
        )
    )


def _describe_task(task: VideoTask) -> str:
    clues = ", ".join(f"[{clue.start_seconds:g}, {clue.end_seconds:g})" for clue in task.clues)
    return (
        f"{task.kind}, {task.duration_seconds:g} s, clues {clues or 'none'}, "
        f"options {list(task.lettered_options)}, answer {task.answer!r}"
    )


def _shorten(reply: str) -> str:
    """A reply on one line, its middle left out where it is long."""
    half = _LONGEST_REPLY_CHARS // 2
    if len(reply) > 2 * half:
        reply = f"{reply[:half]} ... {reply[-half:]}"
    return repr(reply)
