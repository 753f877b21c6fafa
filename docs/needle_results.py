"""The runs behind docs/RESULTS.md: read from docs/data/needle, averaged, laid out as tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from discrete_results import STUDENT_T

from videoseek_env.task import TaskKind

DATA = Path(__file__).parent / "data" / "needle"
QUADRANTS = {
    TaskKind.SINGLE_CLUE_TOOL: "one clue, tool",
    TaskKind.MULTI_CLUE_TOOL: "several clues, tool",
    TaskKind.SINGLE_CLUE_DIRECT: "one clue, direct",
    TaskKind.MULTI_CLUE_DIRECT: "several clues, direct",
}
_Z = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Quadrant:
    """Means over the held-out questions of one kind."""

    questions: int
    accuracy: float
    """Greedy."""
    sampled_accuracy: float
    """At temperature 1."""
    reward: float
    """The trajectory-guided one, greedy, whatever the arm learned by."""
    sampled_reward: float
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
    """Wall-clock time of a greedy question, all of them played in one batch, decoding included."""
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
        quadrants = {kind: Quadrant(**some) for kind, some in fields.pop("quadrants").items()}
        runs.setdefault(fields["arm"], []).append(Run(quadrants=quadrants, **fields))
    return {arm: sorted(some, key=lambda run: run.seed) for arm, some in runs.items()}


def interval(values: Sequence[float], questions: int) -> str:
    """A mean in percent with its 95 % interval: over seeds if there are several, else Wilson's."""
    centre = mean(values)
    if len(values) > 1:
        half = STUDENT_T[len(values) - 2] * stdev(values) / math.sqrt(len(values))
        low, high = centre - half, centre + half
    else:
        spread = _Z * math.sqrt(centre * (1 - centre) / questions + _Z**2 / (4 * questions**2))
        middle, scale = centre + _Z**2 / (2 * questions), 1 + _Z**2 / questions
        low, high = (middle - spread) / scale, (middle + spread) / scale
    return f"{centre:.0%} [{100 * max(low, 0):.0f}, {100 * min(high, 1):.0f}]"


def accuracy_table(runs: Mapping[str, Sequence[Run]], arms: Mapping[str, str]) -> str:
    """Accuracy by quadrant, greedy, and what it cost: one line an arm that has runs."""
    heads = [
        "arm",
        "seeds",
        *QUADRANTS.values(),
        "sampled, all",
        "invalid",
        "calls",
        "visual tokens",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm, name in arms.items():
        some = runs.get(arm, [])
        if some:
            lines.append(f"| {' | '.join(_cells(name, some))} |")
    return "\n".join(lines)


def _cells(name: str, runs: Sequence[Run]) -> list[str]:
    cells = [name, str(len(runs))]
    for kind in QUADRANTS:
        of_kind = [run.quadrants[kind] for run in runs]
        cells.append(interval([one.accuracy for one in of_kind], of_kind[0].questions))
    return [
        *cells,
        f"{mean(overall(run, lambda one: one.sampled_accuracy) for run in runs):.0%}",
        f"{mean(run.invalid for run in runs):.1%}",
        f"{mean(overall(run, lambda one: one.calls) for run in runs):.2f}",
        f"{mean(overall(run, lambda one: one.visual_tokens) for run in runs):.0f}",
    ]


def overall(run: Run, measure: Callable[[Quadrant], float]) -> float:
    """A mean over all questions of a run."""
    parts = run.quadrants.values()
    return sum(measure(one) * one.questions for one in parts) / sum(one.questions for one in parts)
