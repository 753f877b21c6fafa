"""What any reward should do, each property with the trajectories that could break it."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rewards.reward import Reward, RewardFunction
from rewards.testing._backend import strategies as st
from rewards.testing.episodes import BUDGET, RULES, play
from rewards.testing.exploits import ALL_KINDS, EXPLOITS, TOLERANCE, Exploit
from rewards.testing.scripts import Script, duration_of, gold_script
from rewards.testing.strategies import json_writers, scripts, tasks, trajectories
from videoseek_env.errors import VideoSeekError
from videoseek_env.session import SessionConfig
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason, Trajectory

Kinds = Collection[TaskKind]
Case = Mapping[str, Trajectory]
"""Trajectories to compare, by what they are."""


class Range(NamedTuple):
    """What a reward says that it pays, both ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Property:
    """Something that every reward of some kinds of task should do."""

    name: str
    claim: str
    """What must hold, in words."""
    cases: Callable[[Kinds], st.SearchStrategy[Case]]
    """Trajectories of tasks of these kinds."""
    fault: Callable[[RewardFunction, Case, Range], str | None]
    """What is wrong about a case, or None."""
    kinds: tuple[TaskKind, ...] = ALL_KINDS
    """Kinds that it makes sense for."""


class WrongTypeError(VideoSeekError, TypeError):
    """What should be a reward returned something else."""


def score(reward: RewardFunction, trajectory: Trajectory) -> Reward:
    """Score a trajectory.

    Raises:
        WrongTypeError: If what comes back is no `Reward`, or holds what is no number.
    """
    scored = reward(trajectory)
    if not isinstance(scored, Reward):
        raise WrongTypeError(f"expected a Reward, got {scored!r}; return Reward(value)")
    numbers = {"value": scored.value, **{f"part {name!r}": x for name, x in scored.parts.items()}}
    for name, number in numbers.items():
        if isinstance(number, str) or not hasattr(number, "__float__"):
            raise WrongTypeError(f"expected a number for the reward's {name}, got {number!r}")
    return scored


# --- one trajectory ---


def _any_one(kinds: Kinds) -> st.SearchStrategy[Case]:
    return trajectories(kinds=kinds).map(lambda trajectory: {"trajectory": trajectory})


def _raises(reward: RewardFunction, case: Case, _: Range) -> str | None:
    score(reward, *case.values())
    return None


def _out_of_range(reward: RewardFunction, case: Case, span: Range) -> str | None:
    scored = score(reward, *case.values())
    for name, part in scored.parts.items():
        if not math.isfinite(part):
            return f"the part {name!r} is {part}"
    if not math.isfinite(scored.value):
        return f"the value is {scored.value}, which is not finite"
    if not span.low - TOLERANCE <= scored.value <= span.high + TOLERANCE:
        return f"{scored.value} lies outside [{span.low}, {span.high}]"
    return None


def _differs(reward: RewardFunction, case: Case, _: Range) -> str | None:
    (trajectory,) = case.values()
    copied = Trajectory.from_dict(json.loads(json.dumps(trajectory.to_dict())))
    first, second, third = (score(reward, one) for one in (trajectory, trajectory, copied))
    for again, what in ((second, "the second time"), (third, "for a saved and loaded copy")):
        if (first.value, dict(first.parts)) != (again.value, dict(again.parts)):
            return f"{first} the first time, {again} {what}"
    return None


def _mutates(reward: RewardFunction, case: Case, _: Range) -> str | None:
    (trajectory,) = case.values()
    before = copy.deepcopy(trajectory.to_dict())
    score(reward, trajectory)
    return None if trajectory.to_dict() == before else "the trajectory was changed"


# --- two that must score the same ---


def _unequal(reward: RewardFunction, case: Case, _: Range) -> str | None:
    first, second = (score(reward, trajectory).value for trajectory in case.values())
    is_same = math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return None if is_same else f"{first} is not {second}"


def _scripts(kinds: Kinds) -> st.SearchStrategy[Script]:
    return tasks(kinds=kinds).flatmap(scripts)


def _pair(script: Script, name: str, other: Trajectory) -> Case:
    return {"as it is": play(script.task, script.replies()), name: other}


@st.composite
def _clues_reordered(draw: st.DrawFn, kinds: Kinds) -> Case:
    script = draw(_scripts(kinds))
    clues = tuple(draw(st.permutations(script.task.clues)))
    task = dataclasses.replace(script.task, clues=clues)
    return _pair(script, "clues in another order", play(task, script.replies()))


@st.composite
def _moved_within_the_video(draw: st.DrawFn, kinds: Kinds) -> Case:
    script = draw(_scripts(kinds))
    earliest, latest = min(script.times), max(script.times)
    room = duration_of(script.task) - latest
    later = draw(st.integers(int(-earliest * 4), int(room * 4)).map(lambda quarter: quarter / 4))
    moved = script.on_another_clock(lambda time: time + later)
    return _pair(script, f"all {later:+g} s", play(moved.task, moved.replies()))


@st.composite
def _clock_shifted(draw: st.DrawFn, kinds: Kinds) -> Case:
    script = draw(_scripts(kinds))
    start = float(draw(st.integers(1, 100)))
    late = script.on_another_clock(lambda time: time + start)
    other = play(late.task, late.replies(), start_seconds=start)
    return _pair(script, f"the video's clock starts at {start:g} s", other)


@st.composite
def _scaled(draw: st.DrawFn, kinds: Kinds) -> Case:
    script = draw(_scripts(kinds))
    factor = draw(st.sampled_from([2.0, 4.0]))
    slow = script.on_another_clock(lambda time: time * factor)
    task = dataclasses.replace(slow.task, duration_seconds=duration_of(slow.task) * factor)
    return _pair(script, f"all x {factor:g}", play(task, slow.replies(), fps=8.0 / factor))


@st.composite
def _respaced(draw: st.DrawFn, kinds: Kinds) -> Case:
    script = draw(_scripts(kinds))
    write = draw(json_writers())
    return _pair(script, "other white space", play(script.task, script.replies(write)))


# --- one that must not score more than the other ---


def _more(reward: RewardFunction, case: Case, _: Range) -> str | None:
    least, most = (score(reward, trajectory).value for trajectory in case.values())
    return None if least <= most + TOLERANCE else f"{least} is more than {most}"


@st.composite
def _gold_and_any(draw: st.DrawFn, kinds: Kinds) -> Case:
    task = draw(tasks(kinds=kinds))
    other = draw(trajectories(st.just(task)))
    return {"trajectory": other, "gold": play(task, gold_script(task).replies())}


@st.composite
def _empty_and_any(draw: st.DrawFn, kinds: Kinds) -> Case:
    task = draw(tasks(kinds=kinds))
    return {"empty": draw(_worthless(task)), "trajectory": draw(trajectories(st.just(task)))}


def _worthless(task: VideoTask) -> st.SearchStrategy[Trajectory]:
    """Episodes of no turns, and of turns that hold nothing to carry out."""
    none, unknown = (), ("I do not know.",)
    broken = ("<grounding>{}</grounding>", "<grounding>no JSON</grounding>")
    cut = dataclasses.replace(BUDGET, max_reply_tokens=1)
    plays: list[tuple[tuple[str, ...], SessionConfig, EndReason | None]] = [
        (none, RULES, EndReason.ABANDONED),
        (none, RULES, None),
        (unknown, RULES, None),
        (("",), RULES, None),
        (broken * 3, RULES, None),
        (gold_script(task).replies(), dataclasses.replace(RULES, budget=cut), None),
    ]
    return st.sampled_from(plays).map(lambda one: play(task, one[0], rules=one[1], ending=one[2]))


# --- exploits ---


def _exploit_property(exploit: Exploit) -> Property:
    def pair(task: VideoTask) -> st.SearchStrategy[Case]:
        return st.sampled_from(list(exploit.variants(task))).map(
            lambda found: {
                "honest": play(task, found.honest),
                "exploit": play(task, found.exploit),
            }
        )

    def fault(reward: RewardFunction, case: Case, _: Range) -> str | None:
        honest, gained = (score(reward, trajectory).value for trajectory in case.values())
        if exploit.holds(honest, gained):
            return None
        relation = "not less than" if exploit.must_cost else "more than"
        return f"the exploit's {gained} is {relation} the honest {honest}"

    return Property(
        exploit.name,
        exploit.claim,
        lambda kinds: tasks(kinds=kinds).flatmap(pair),
        fault,
        exploit.kinds,
    )


_SEVERAL_CLUES = (TaskKind.MULTI_CLUE_TOOL, TaskKind.MULTI_CLUE_DIRECT, TaskKind.OPEN_ENDED)

PROPERTIES: Mapping[str, Property] = {
    one.name: one
    for one in (
        Property(
            "never_raises",
            "whatever a model writes, the reward returns a Reward of numbers",
            _any_one,
            _raises,
        ),
        Property(
            "finite_and_in_range",
            "the value lies in the stated range, and it and its parts are finite",
            _any_one,
            _out_of_range,
        ),
        Property(
            "deterministic",
            "the same trajectory scores the same, again and once saved and loaded",
            _any_one,
            _differs,
        ),
        Property("input_unchanged", "the trajectory is left as it was", _any_one, _mutates),
        Property(
            "clue_order",
            "the order of the clues does not matter",
            _clues_reordered,
            _unequal,
            _SEVERAL_CLUES,
        ),
        Property(
            "time_translation",
            "clues, crops and answer at another place of the same video score the same",
            _moved_within_the_video,
            _unequal,
        ),
        Property(
            "clock_shift",
            "a video whose first frame comes late scores the same, all its times being later",
            _clock_shifted,
            _unequal,
        ),
        Property(
            "time_scaling",
            "a slower video scores the same, all its times and its length being longer",
            _scaled,
            _unequal,
        ),
        Property(
            "json_whitespace",
            "white space in the JSON of crops and answers does not matter",
            _respaced,
            _unequal,
        ),
        Property(
            "gold_is_maximal",
            "no trajectory scores more than the gold one of its task",
            _gold_and_any,
            _more,
        ),
        Property(
            "empty_is_minimal",
            "an empty or wholly malformed trajectory scores no more than any other",
            _empty_and_any,
            _more,
        ),
        *map(_exploit_property, EXPLOITS.values()),
    )
}
"""Every property by its name, exploits included."""
