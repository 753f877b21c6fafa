"""The runs behind docs/RESULTS.md: read from docs/data/needle, averaged, laid out as tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from discrete_results import STUDENT_T

from agents.report.summary import wilson_estimate
from videoseek_env.task import TaskKind

DATA = Path(__file__).parent / "data" / "needle"
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
    """Updates that the arm adds to what its seed's arms share."""
    quadrants: Mapping[str, Quadrant]
    """By `TaskKind`."""
    invalid: float
    """Share of greedy episodes that did not end with an answer, or held a malformed reply."""
    sampled_invalid: float
    seconds: float
    """Processor time of a greedy question, decoding included, 64 of them played at once."""
    cpu_seconds: float
    """Processor time of the arm's own training."""

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
        runs.setdefault(fields["arm"], []).append(Run(quadrants=quadrants, **fields))
    return {arm: sorted(some, key=lambda run: run.seed) for arm, some in runs.items()}


def _quadrant(fields: dict[str, Any]) -> Quadrant:
    spreads = {name: Spread(*fields[name]) for name in ("reward", "sampled_reward")}
    return Quadrant(**(fields | spreads))


def reward_interval(runs: Sequence[Run], measure: Callable[[Quadrant], Spread]) -> str:
    """The mean reward of tool questions with its 95 % interval, over the questions of all runs."""
    parts = [run.quadrants[kind] for run in runs for kind in TOOL_KINDS]
    total = sum(one.questions for one in parts)
    centre = sum(measure(one).mean * one.questions for one in parts) / total
    square = sum(
        (measure(one).std ** 2 + (measure(one).mean - centre) ** 2) * one.questions for one in parts
    )
    half = _Z * math.sqrt(square / total / total)
    return f"{centre:.2f} [{centre - half:.2f}, {centre + half:.2f}]"


def interval(values: Sequence[float], questions: int) -> str:
    """A mean in percent with its 95 % interval: over seeds if there are several, else Wilson's."""
    centre = mean(values)
    if len(values) > 1:
        half = STUDENT_T[len(values) - 2] * stdev(values) / math.sqrt(len(values))
        low, high = centre - half, centre + half
    else:
        estimate = wilson_estimate(round(centre * questions), questions)
        low, high = estimate.low or 0.0, estimate.high or 1.0
    return f"{centre:.0%} [{100 * max(low, 0):.0f}, {100 * min(high, 1):.0f}]"


def comparable(runs: Mapping[str, Sequence[Run]], arms: Mapping[str, str]) -> dict[str, list[Run]]:
    """The runs of arms, of the seeds that all arms with runs have; nothing for a lone arm."""
    present = {arm: runs[arm] for arm in arms if arm in runs}
    if len(present) < 2:
        return {}
    seeds = set.intersection(*({run.seed for run in some} for some in present.values()))
    chosen = {arm: [run for run in some if run.seed in seeds] for arm, some in present.items()}
    return {arm: some for arm, some in chosen.items() if some}


def accuracy_table(runs: Mapping[str, Sequence[Run]], arms: Mapping[str, str]) -> str:
    """How often arms are right, by kind of question: one line an arm that has runs."""
    heads = ["arm", "seeds", *QUADRANTS.values(), "all, sampled", "invalid", "invalid, sampled"]

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
            f"{mean(run.invalid for run in some):.1%}",
            f"{mean(run.sampled_invalid for run in some):.1%}",
        ]

    return _table(heads, runs, arms, cells)


def seeking_table(runs: Mapping[str, Sequence[Run]], arms: Mapping[str, str]) -> str:
    """What arms look at to be so often right, greedy: one line an arm that has runs."""
    heads = ["arm", "reward, tool", "sampled", *(f"calls: {name}" for name in QUADRANTS.values())]
    heads += ["IoU: one clue", "IoU: several", "visual tokens", "ms a question", "minutes of RL"]

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
            f"{1000 * mean(run.seconds for run in some):.0f}",
            f"{mean(run.cpu_seconds for run in some) / 60:.0f}",
        ]

    return _table(heads, runs, arms, cells)


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
