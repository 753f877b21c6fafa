"""The runs behind docs/RESULTS.md: read from docs/data/needle, averaged, laid out as tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, NamedTuple

from discrete_results import STUDENT_T

from agents.report.summary import wilson_estimate
from videoseek_env.task import TaskKind

DATA = Path(__file__).parent / "data" / "needle"
SECONDS = DATA.with_name("needle_seconds.json")
QUADRANTS = {
    TaskKind.SINGLE_CLUE_TOOL: "one clue, tool",
    TaskKind.MULTI_CLUE_TOOL: "several clues, tool",
    TaskKind.SINGLE_CLUE_DIRECT: "one clue, direct",
    TaskKind.MULTI_CLUE_DIRECT: "several clues, direct",
}
TOOL_KINDS = (TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL)
_Z = 1.959964


class Spread(NamedTuple):
    """Of a number over questions."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quadrant:
    """Means over the held-out questions of one kind."""

    questions: int
    accuracy: float
    """Greedy."""
    sampled_accuracy: float
    """At temperature 1."""
    reward: Spread
    """The trajectory-guided one, greedy, whatever the arm learned by."""
    sampled_reward: Spread
    calls: float
    iou: float | None
    """Of crops and clues; None where there is nothing to crop for."""
    visual_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One arm with one seed."""

    arm: str
    seed: int
    steps: int
    """Updates of reinforcement learning."""
    quadrants: Mapping[str, Quadrant]
    """By `TaskKind`."""
    cpu_seconds: float
    """Processor time of these updates."""
    right: Sequence[float] = ()
    """Of each update, the share of right answers among the episodes that were played for it."""

    def write(self, folder: Path = DATA) -> None:
        """Keep it; a run that was stopped half-way leaves no file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = run_path(self.arm, self.seed, folder)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        part.replace(path)


def run_path(arm: str, seed: int, folder: Path = DATA) -> Path:
    """The file of a run."""
    return folder / f"{arm}-{seed}.json"


def read_runs(folder: Path = DATA) -> dict[str, list[Run]]:
    """The finished runs of each arm, by seed."""
    runs: dict[str, list[Run]] = {}
    for path in sorted(folder.glob("*.json")):
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        quadrants = {kind: _quadrant(some) for kind, some in fields.pop("quadrants").items()}
        right = tuple(fields.pop("right", ()))  # former runs noted none
        run = Run(quadrants=quadrants, right=right, **fields)
        runs.setdefault(run.arm, []).append(run)
    return {arm: sorted(some, key=lambda run: run.seed) for arm, some in runs.items()}


def _quadrant(fields: dict[str, Any]) -> Quadrant:
    spreads = {name: Spread(*fields[name]) for name in ("reward", "sampled_reward")}
    return Quadrant(**(fields | spreads))


def reward_interval(runs: Sequence[Run], measure: Callable[[Quadrant], Spread]) -> str:
    """The mean reward of tool questions with its 95 % interval: over seeds, or one's questions."""
    pooled = [_tool_rewards(run, measure) for run in runs]
    means = [one.mean for one in pooled]
    centre = mean(means)
    if len(means) > 1:
        half = _student_half(means)
    else:
        half = _Z * pooled[0].std / math.sqrt(pooled[0].questions)
    return f"{centre:.2f} [{centre - half:.2f}, {centre + half:.2f}]"


class _Pooled(NamedTuple):
    questions: int
    mean: float
    std: float


def _tool_rewards(run: Run, measure: Callable[[Quadrant], Spread]) -> _Pooled:
    """The mean and standard deviation over the questions that need the tool."""
    parts = [run.quadrants[kind] for kind in TOOL_KINDS]
    spreads = [(one.questions, measure(one)) for one in parts]
    total = sum(count for count, _ in spreads)
    centre = sum(count * one.mean for count, one in spreads) / total
    square = sum(count * (one.std**2 + (one.mean - centre) ** 2) for count, one in spreads)
    return _Pooled(total, centre, math.sqrt(square / total))


def _student_half(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean over seeds."""
    return STUDENT_T[len(values) - 2] * stdev(values) / math.sqrt(len(values))


def interval(values: Sequence[float], questions: int) -> str:
    """A mean in percent with its 95 % interval: over seeds if there are several, else Wilson's."""
    centre = mean(values)
    if len(values) > 1:
        half = _student_half(values)
        low, high = centre - half, centre + half
    else:
        estimate = wilson_estimate(round(centre * questions), questions)
        low, high = estimate.low or 0.0, estimate.high or 1.0
    return f"{centre:.0%} [{100 * max(low, 0):.0f}, {100 * min(high, 1):.0f}]"


def comparable(runs: Mapping[str, Sequence[Run]], arms: Mapping[str, str]) -> dict[str, list[Run]]:
    """The most runs of at least two arms that all have the same seeds; of as many, more arms."""
    of_arm = {arm: {run.seed: run for run in runs[arm]} for arm in arms if arm in runs}
    known = sorted(set[int]().union(*of_arm.values()))
    best: dict[str, list[Run]] = {}
    for count in range(1, len(known) + 1):
        for seeds in combinations(known, count):
            found = {
                arm: [some[seed] for seed in seeds]
                for arm, some in of_arm.items()
                if some.keys() >= set(seeds)
            }
            if len(found) > 1 and len(found) * count > sum(map(len, best.values())):
                best = found
    return best


def accuracy_table(runs: Mapping[str, Sequence[Run]], arms: Mapping[str, str]) -> str:
    """How often arms are right, by kind of question: one line an arm that has runs."""
    heads = ["arm", "seeds", *QUADRANTS.values(), "all, sampled"]

    def cells(some: Sequence[Run]) -> list[str]:
        questions = sum(one.questions for one in some[0].quadrants.values())
        sampled = [overall(run, lambda one: one.sampled_accuracy) for run in some]
        return [
            str(len(some)),
            *(
                interval(
                    [run.quadrants[kind].accuracy for run in some],
                    some[0].quadrants[kind].questions,
                )
                for kind in QUADRANTS
            ),
            interval(sampled, questions),
        ]

    return _table(heads, runs, arms, cells)


def difference_table(runs: Mapping[str, Sequence[Run]], arms: Mapping[str, str]) -> str:
    """How far arms are from the first one, seed by seed: means with 95 % intervals over seeds.

    Seeds differ more than arms, so intervals of the arms themselves say little of their distance.
    Empty if there is but one seed.
    """
    first, *others = (arm for arm in arms if arm in runs)
    if len(runs[first]) < 2:
        return ""
    measures: dict[str, tuple[str, Callable[[Run], float]]] = {
        "all": (".1f", lambda run: 100 * overall(run, lambda one: one.accuracy)),
        "all, sampled": (".1f", lambda run: 100 * overall(run, lambda one: one.sampled_accuracy)),
        "reward, tool": (".2f", lambda run: _tool_rewards(run, lambda one: one.reward).mean),
        "sampled": (".2f", lambda run: _tool_rewards(run, lambda one: one.sampled_reward).mean),
    }

    def cells(some: Sequence[Run]) -> list[str]:
        found = []
        for style, measure in measures.values():
            pairs = zip(some, runs[first], strict=True)
            apart = [measure(run) - measure(other) for run, other in pairs]
            found.append(f"{mean(apart):+{style}} ± {_student_half(apart):{style}}")
        return found

    heads = [f'less "{arms[first]}"', *measures]
    return _table(heads, runs, {arm: arms[arm] for arm in others}, cells)


def seeking_table(runs: Mapping[str, Sequence[Run]], arms: Mapping[str, str]) -> str:
    """What arms look at to be so often right, greedy: one line an arm that has runs."""
    heads = ["arm", "reward, tool", "sampled", *(f"calls: {name}" for name in QUADRANTS.values())]
    heads += ["IoU: one clue", "IoU: several", "visual tokens", "minutes of RL"]
    learned = [run for some in runs.values() for run in some if run.steps]
    are_known = bool(learned) and all(run.right for run in learned)
    if are_known:
        heads.append("right while learning")

    def cells(some: Sequence[Run]) -> list[str]:
        def of(kind: TaskKind, measure: Callable[[Quadrant], float | None]) -> str:
            values = [measure(run.quadrants[kind]) for run in some]
            known = [value for value in values if value is not None]
            return f"{mean(known):.2f}" if known else ""

        return [
            reward_interval(some, lambda one: one.reward),
            reward_interval(some, lambda one: one.sampled_reward),
            *(of(kind, lambda one: one.calls) for kind in QUADRANTS),
            of(TaskKind.SINGLE_CLUE_TOOL, lambda one: one.iou),
            of(TaskKind.MULTI_CLUE_TOOL, lambda one: one.iou),
            f"{mean(overall(run, lambda one: one.visual_tokens) for run in some):.0f}",
            f"{mean(run.cpu_seconds for run in some) / 60:.0f}",
            *([_while_learning(some)] if are_known else []),
        ]

    return _table(heads, runs, arms, cells)


def _while_learning(runs: Sequence[Run]) -> str:
    """How often answers were right in all updates: the earlier it is learned, the more often."""
    return f"{mean(mean(run.right) for run in runs):.0%}" if runs[0].right else ""


def write_seconds(seconds: Mapping[str, Sequence[float]]) -> None:
    """Keep the processor seconds a question of some arms."""
    SECONDS.write_text(json.dumps(seconds, indent=1) + "\n", encoding="utf-8")


def read_seconds() -> dict[str, list[float]]:
    """Processor seconds a question of some arms, by seed and round; the last arm is the peer."""
    seconds: dict[str, list[float]] = json.loads(SECONDS.read_text(encoding="utf-8"))
    return seconds


def seconds_table(seconds: Mapping[str, Sequence[float]], names: Mapping[str, str]) -> str:
    """Medians, and ratios to the last arm within a round."""
    *_, peer = seconds.values()
    lines = ["| arm | ms a question | of the native way's |", "|---|---|---|"]
    for arm, values in seconds.items():
        ratio = median(one / other for one, other in zip(values, peer, strict=True))
        lines.append(f"| {names[arm]} | {1000 * median(values):.0f} | {ratio:.2f} |")
    return "\n".join(lines)


def _table(
    heads: Sequence[str],
    runs: Mapping[str, Sequence[Run]],
    arms: Mapping[str, str],
    cells: Callable[[Sequence[Run]], list[str]],
) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [
        f"| {' | '.join([name, *cells(runs[arm])])} |" for arm, name in arms.items() if arm in runs
    ]
    return "\n".join(lines)


def overall(run: Run, measure: Callable[[Quadrant], float]) -> float:
    """A mean over all questions of a run."""
    parts = run.quadrants.values()
    return sum(measure(one) * one.questions for one in parts) / sum(one.questions for one in parts)
