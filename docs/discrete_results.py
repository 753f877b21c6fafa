"""The runs behind docs/discrete.md: read from docs/data/discrete, averaged, drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from make_reward_plots import BLUE, GREEN, ORANGE, PURPLE, STYLE, label
from matplotlib import pyplot as plt
from matplotlib.ticker import PercentFormatter

DATA = Path(__file__).parent / "data" / "discrete"
ARMS: Mapping[str, str] = {
    "ppo": "PPO of stable-baselines3",
    "tianshou": "PPO of tianshou",
    "single_turn": "PPO with a single turn",
    "random": "random actions",
}
COLOURS = dict(zip(ARMS, (BLUE, GREEN, ORANGE, PURPLE), strict=True))
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5 % quantile of Student's t with 1, 2, ... degrees of freedom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One arm trained with one seed."""

    arm: str
    """A key of `ARMS`."""
    seed: int
    steps: int
    """Environment steps that it was trained for; 0 if it does not learn."""
    videos: int
    """Training videos, with four questions each."""
    tasks: int
    """Held-out questions that `accuracy` is about, each asked once."""
    accuracy: float
    """Share of them answered right after training, in [0, 1]."""
    turns: float
    """Mean turns of those episodes; all but the last are crops."""
    curve: Sequence[tuple[int, float]]
    """Accuracy on every fourth of the questions, after so many steps."""
    cpu_seconds: int
    """CPU time, evaluations included."""

    @property
    def whole_curve(self) -> list[tuple[int, float]]:
        """The curve, its end from all questions."""
        before = [(step, share) for step, share in self.curve if step < self.steps]
        return [*before, (self.steps, self.accuracy)]

    def write(self, folder: Path) -> None:
        """Keep it; a run that was stopped half-way leaves no file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = run_path(folder, self.arm, self.seed)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
        part.replace(path)


class Estimate(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


def run_path(folder: Path, arm: str, seed: int) -> Path:
    """The file of a run."""
    return folder / f"{arm}-{seed}.json"


def read_runs(folder: Path = DATA) -> dict[str, list[Run]]:
    """The finished runs of each arm, by seed."""
    runs: dict[str, list[Run]] = {arm: [] for arm in ARMS}
    for path in sorted(folder.glob("*.json")):
        run = Run(**json.loads(path.read_text(encoding="utf-8")))
        runs[run.arm].append(run)
    return {arm: sorted(some, key=lambda run: run.seed) for arm, some in runs.items() if some}


def estimate(shares: Sequence[float]) -> Estimate:
    """The mean of 2 to 10 shares, -+ t s / sqrt(n), with t of n - 1 degrees of freedom.

    The interval is cut at 0 and 1.
    """
    centre = mean(shares)
    half = STUDENT_T[len(shares) - 2] * stdev(shares) / math.sqrt(len(shares))
    return Estimate(centre, max(centre - half, 0.0), min(centre + half, 1.0))


def accuracy_of(runs: Sequence[Run]) -> Estimate:
    """Final accuracy over seeds."""
    return estimate([run.accuracy for run in runs])


def table_block(runs: Mapping[str, Sequence[Run]]) -> str:
    """The table of the page."""
    lines = [
        "| agent | right, held-out questions | 95 % interval | each seed | turns | CPU time |",
        "|---|---|---|---|---|---|",
    ]
    for arm, some in runs.items():
        found = accuracy_of(some)
        seeds = ", ".join(f"{run.accuracy:.1%}" for run in some)
        turns = mean(run.turns for run in some)
        cells = [
            ARMS[arm],
            f"{found.mean:.1%}",
            f"{found.low:.1%} to {found.high:.1%}",
            seeds,
            f"{turns:.2f}",
            f"{mean(run.cpu_seconds for run in some):.0f} s",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(runs: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Learning curves: the mean over seeds, and from the worst seed to the best."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
        for arm, some in runs.items():
            _draw_arm(axes, arm, some)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:.0f}k")
        axes.set_ylim(0, 1.03)
        label(axes, "questions about videos not trained on", "environment steps", "answered right")
        axes.legend(loc="upper left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _draw_arm(axes: Any, arm: str, runs: Sequence[Run]) -> None:
    """A run without a curve is as good at any step."""
    if not runs[0].curve:
        line = {"color": COLOURS[arm], "linestyle": (0, (4, 3)), "label": ARMS[arm]}
        axes.axhline(accuracy_of(runs).mean, **line)
        return
    points = list(zip(*(run.whole_curve for run in runs), strict=True))
    steps = [mean(step for step, _ in point) for point in points]
    shares = [[share for _, share in point] for point in points]
    axes.fill_between(
        steps, [min(s) for s in shares], [max(s) for s in shares], color=COLOURS[arm], alpha=0.18,
        linewidth=0,
    )  # fmt: skip
    axes.plot(steps, [mean(s) for s in shares], color=COLOURS[arm], label=ARMS[arm])
