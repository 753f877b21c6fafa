"""Learning curves of a run, drawn from its log."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from videoseek_env.errors import MissingExtraError
from videoseek_env.trajectory import read_jsonl

PANELS: Final[Mapping[str, str]] = {
    "loss": "loss",
    "reward": "reward",
    "reward/acc": "right answers",
    "reward/iou": "IoU of crops and clues",
    "calls": "crops an episode",
    "reply_tokens": "tokens written",
    "end/answered": "episodes answered",
    "tokens_per_second": "tokens a second",
}
"""What is drawn, if the log has it, and how it is called."""

_COLUMNS: Final = 4
_SMOOTHING_STEPS: Final = 10


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's `log.jsonl`, in order; errors as in `read_jsonl`."""
    return [line for _, line in read_jsonl(path)]


def draw_curves(log: Sequence[Mapping[str, Any]]) -> str | None:
    """A panel for each number of `PANELS` that the log has: the steps, and their running mean.

    Args:
        log: From `read_log`.

    Returns:
        The picture as SVG; None if there is nothing to draw.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "plots", "Learning curves") from error
    names = [name for name in PANELS if any(name in line for line in log)]
    if not names:
        return None
    rows = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(12, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axis, name in itertools.zip_longest(axes, names):
        if name is None:
            axis.remove()
            continue
        points = [(line["step"] + 1, line[name]) for line in log if name in line]
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, color="#9EC3DE", linewidth=1)
        axis.plot(steps, running_mean(values, _SMOOTHING_STEPS), color="#0072B2", linewidth=1.8)
        axis.set_title(PANELS[name], loc="left", fontsize=10)
        axis.grid(color="#E6E6E6", linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
    picture = io.StringIO()
    figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return picture.getvalue()


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of the last `window` values at each place, of fewer at the beginning.

    >>> running_mean([1.0, 3.0, 5.0], 2)
    [1.0, 2.0, 4.0]
    """
    sums = [0.0, *itertools.accumulate(values)]
    return [
        (sums[end] - sums[max(0, end - window)]) / min(window, end)
        for end in range(1, len(values) + 1)
    ]
