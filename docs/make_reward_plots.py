"""Draw the plots of docs/rewards.md from the reward code itself.

Run with `python docs/make_reward_plots.py`, after `pip install '.[plots,testing]'`; an argument
names another folder than docs/plots. The same version of matplotlib writes the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from reward_curves import (
    CLUE_SECONDS,
    ONE_CLUE,
    RULESETS,
    THREE_CLUES,
    VIDEO_SECONDS,
    around,
    bonus,
    format_score,
    grounding_score,
    looked,
    overlong_penalty,
    turn_efficiency,
)

from rewards import CoverageShaping, OverlongPenalty
from rewards.credit import potentials
from rewards.grounding import multi_clue_quality, single_clue_quality
from rewards.intervals import Interval, diou, iog, iop, iou
from videoseek_env.task import TaskKind

BLUE, ORANGE, GREEN, PURPLE, BLACK = "#0072B2", "#D55E00", "#009E73", "#8E5BA6", "#1A1A1A"
LINES: Mapping[str, Mapping[str, Any]] = {
    "published": {"color": ORANGE, "linewidth": 3.2, "alpha": 0.75, "label": "published"},
    "hardened": {"color": BLUE, "label": "hardened"},
    "IoU": {"color": BLUE, "linestyle": (0, (4, 3)), "zorder": 4},
    "IoP": {"color": ORANGE},
    "IoG": {"color": GREEN},
    "(DIoU + 1) / 2": {"color": PURPLE},
    "g1, their mean": {"color": BLACK, "linewidth": 2.6, "zorder": 3},
    "g2, IoU twice": {"color": BLACK, "linewidth": 2.6, "zorder": 3},
}
STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "videoseek-env",
}
OFFSETS = np.linspace(-60, 60, 121)

Quality = Callable[[list[Interval], list[Interval]], float]
TERMS: Mapping[str, Quality] = {"IoU": iou, "IoP": iop, "IoG": iog}


def single_clue() -> Any:
    """G1 over offset and width, and its terms over each."""
    figure, (map_axes, offset_axes, width_axes) = panels(3)
    widths = up_to(120)
    grid = [
        [single_clue_quality([around(ONE_CLUE[0], w, x)], ONE_CLUE) for x in OFFSETS]
        for w in widths
    ]
    image = map_axes.pcolormesh(OFFSETS, widths, grid, vmin=0, vmax=1, rasterized=True)
    map_axes.grid(visible=False)
    map_axes.set_yscale("log")
    seconds_ticks(map_axes.yaxis, 100)
    figure.colorbar(image, ax=map_axes, label="g1", pad=0.02)
    label(map_axes, "g1 of one crop, clue of 10 s", "offset of its centre (s)", "its width (s)")
    terms = {
        **TERMS,
        "(DIoU + 1) / 2": lambda crops, truth: (diou(crops, truth) + 1) / 2,
        "g1, their mean": single_clue_quality,
    }
    draw_terms(offset_axes, terms, OFFSETS, lambda x: [around(ONE_CLUE[0], 10, x)], ONE_CLUE)
    label(offset_axes, "a crop as wide as the clue", "offset of its centre (s)", "term")
    offset_axes.legend(loc="upper left", fontsize=7)
    whole = up_to(VIDEO_SECONDS)
    draw_terms(width_axes, terms, whole, lambda w: [around(ONE_CLUE[0], w)], ONE_CLUE)
    width_scale(width_axes, VIDEO_SECONDS)
    label(width_axes, "a crop centred on the clue", "width of the crop (s)", "term")
    return figure


def multi_clue() -> Any:
    """G2 over how many clues are found, and over how wide the crops are."""
    figure, (found_axes, terms_axes) = panels(2)
    widths = up_to(VIDEO_SECONDS / 3)
    for found, colour in ((3, BLUE), (2, GREEN), (1, ORANGE)):
        values = [multi_clue_quality(crops_of(w)[:found], THREE_CLUES) for w in widths]
        found_axes.plot(widths, values, color=colour, label=f"{found} of 3 clues cropped")
    label(found_axes, "three clues of 10 s", "width of each crop (s)", "g2")
    terms = {**TERMS, "g2, IoU twice": multi_clue_quality}
    draw_terms(terms_axes, terms, widths, crops_of, THREE_CLUES)
    label(terms_axes, "all three clues cropped", "width of each crop (s)", "term")
    for axes in (found_axes, terms_axes):
        width_scale(axes, VIDEO_SECONDS / 3)
        axes.set_ylim(0, 1.05)
        axes.legend(loc="lower left" if axes is terms_axes else "upper right")
    terms_axes.legend(loc="center left", bbox_to_anchor=(0, 0.68))
    return figure


def calls() -> Any:
    """The bonus over the number of tool calls."""
    figure, (single_axes, multi_axes, direct_axes) = panels(3)
    counts = np.arange(31)
    cases = (
        (single_axes, TaskKind.SINGLE_CLUE_TOOL, ONE_CLUE, "one clue, cropped again and again"),
        (multi_axes, TaskKind.MULTI_CLUE_TOOL, THREE_CLUES, "three clues, cropped in turn"),
        (direct_axes, TaskKind.SINGLE_CLUE_DIRECT, ONE_CLUE, "direct questions"),
    )
    for axes, kind, clues, title in cases:
        for rules in RULESETS:
            bonuses = [bonus(rules, kind, (clues * 30)[:count]) for count in counts]
            axes.plot(counts, bonuses, marker=".", **LINES[rules])
        label(axes, title, "tool calls", "bonus")
        axes.set_ylim(-1.6, 1.1)
        axes.axhline(0, color=BLACK, linewidth=0.6)
    flat = [bonus("published", TaskKind.MULTI_CLUE_DIRECT, ONE_CLUE * count) for count in counts]
    direct_axes.plot(counts, flat, color=GREEN, label="several clues, both rules")
    single_axes.legend(loc="lower left")
    direct_axes.legend(loc="lower left")
    return figure


def hardened() -> Any:
    """Published and hardened bonus over width and offset of the crops."""
    figure, (single_axes, multi_axes, offset_axes) = panels(3)
    one, three = TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL
    wide, narrow = up_to(VIDEO_SECONDS), up_to(VIDEO_SECONDS / 3)
    for rules in RULESETS:
        style = LINES[rules]
        single_axes.plot(wide, [bonus(rules, one, [around(ONE_CLUE[0], w)]) for w in wide], **style)
        multi_axes.plot(narrow, [bonus(rules, three, crops_of(w)) for w in narrow], **style)
        shifted = [bonus(rules, one, [around(ONE_CLUE[0], 10, x)]) for x in OFFSETS]
        offset_axes.plot(OFFSETS, shifted, **style)
    for axes, widest in ((single_axes, VIDEO_SECONDS), (multi_axes, VIDEO_SECONDS / 3)):
        width_scale(axes, widest)
        axes.annotate(
            "whole\nvideo", (widest, 0.01), (-4, 22), textcoords="offset points", fontsize=7,
            ha="center", arrowprops={"arrowstyle": "-", "linewidth": 0.6},
        )  # fmt: skip
    label(single_axes, "one clue of 10 s, one crop", "width of the crop (s)", "bonus")
    label(multi_axes, "three clues, three crops", "width of each crop (s)", "bonus")
    label(offset_axes, "one clue, one crop of 10 s", "offset of its centre (s)", "bonus")
    for axes in (single_axes, multi_axes, offset_axes):
        axes.set_ylim(-0.03, 1.05)
    offset_axes.legend(loc="upper left")
    return figure


def other_parts() -> Any:
    """Temporal grounding, format, overlong penalty, turn efficiency."""
    figure, (iou_axes, format_axes, long_axes, turn_axes) = panels(4)
    for width, colour in ((5, GREEN), (10, BLUE), (20, ORANGE), (40, PURPLE)):
        scores = [grounding_score(around(ONE_CLUE[0], width, x)) for x in OFFSETS]
        iou_axes.plot(OFFSETS, scores, color=colour, label=f"{width} s wide")
    label(iou_axes, "temporal grounding, clue of 10 s", "offset of the answer (s)", "score")
    iou_axes.legend(loc="upper left", fontsize=7)
    for turns, colour in ((2, ORANGE), (4, GREEN), (6, BLUE)):
        scores = [format_score(turns, faults) for faults in range(turns)]
        format_axes.plot(range(turns), scores, color=colour, marker="o", label=f"{turns} turns")
    format_axes.set_ylim(0, 1.05)
    label(format_axes, "format", "JSON faults", "score")
    format_axes.legend(loc="lower left")
    penalty = OverlongPenalty(limit_tokens=8192, buffer_tokens=2048)
    lengths = np.arange(4096, 9217, 128)
    long_axes.plot(lengths, [overlong_penalty(penalty, int(n)) for n in lengths], color=BLUE)
    label(long_axes, "overlong, limit 8192, buffer 2048", "tokens of all replies", "penalty")
    long_axes.set_xticks([4096, 6144, 8192])
    counts = np.arange(31)
    efficiency = [turn_efficiency(int(count)) for count in counts]
    turn_axes.plot(counts, efficiency, color=BLUE, marker=".")
    label(turn_axes, "turn efficiency", "tool calls", "score")
    return figure


def credit() -> Any:
    """Coverage before each turn and the credit of each turn, for one episode."""
    figure, (cover_axes, credit_axes) = panels(2)
    crops = [(200.0, 240.0), THREE_CLUES[0], (290.0, 300.0), THREE_CLUES[2]]
    trajectory = looked(TaskKind.MULTI_CLUE_TOOL, crops)
    names = ["1: a miss", "2: clue 1", "3: half\nof clue 2", "4: clue 3", "5: answer"]
    credits = CoverageShaping()(trajectory)
    cover_axes.bar(names, potentials(trajectory), color=GREEN, width=0.6)
    colours = [BLUE if amount >= 0 else ORANGE for amount in credits]
    credit_axes.bar(names, credits, color=colours, width=0.6)
    credit_axes.axhline(0, color=BLACK, linewidth=0.6)
    label(cover_axes, "coverage of three clues before each turn", "turn", "coverage Φ")
    label(credit_axes, f"credit of each turn, together {sum(credits):.0f}", "turn", "credit F")
    for axes in (cover_axes, credit_axes):
        axes.grid(visible=False, axis="x")
    return figure


def panels(count: int) -> tuple[Any, Any]:
    """A row of small plots."""
    return plt.subplots(1, count, figsize=(11, 2.9), layout="constrained")


def up_to(widest_seconds: float) -> Any:
    """Widths from a second on, the clue's own among them, [N]."""
    return np.union1d(np.geomspace(1, widest_seconds, 60), [CLUE_SECONDS])


def crops_of(width_seconds: float) -> list[Interval]:
    """A crop around each of three clues."""
    return [around(clue, width_seconds) for clue in THREE_CLUES]


def draw_terms(
    axes: Any,
    terms: Mapping[str, Quality],
    inputs: Iterable[float],
    crops: Callable[[float], list[Interval]],
    truth: list[Interval],
) -> None:
    """One line per term."""
    for name, measure in terms.items():
        values = [measure(crops(value), truth) for value in inputs]
        axes.plot(inputs, values, label=name, **LINES[name])


def width_scale(axes: Any, widest_seconds: float) -> None:
    """Widths in seconds on a logarithmic axis, the clue's own marked."""
    axes.set_xscale("log")
    seconds_ticks(axes.xaxis, widest_seconds)
    axes.axvline(CLUE_SECONDS, color="#9A9A9A", linewidth=0.8, linestyle=":")


def seconds_ticks(axis: Any, widest_seconds: float) -> None:
    """Plain numbers on a logarithmic axis."""
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300) if tick <= widest_seconds]
    axis.set_major_locator(mpl.ticker.FixedLocator(ticks))
    axis.set_major_formatter(mpl.ticker.FixedFormatter([str(tick) for tick in ticks]))
    axis.set_minor_locator(mpl.ticker.NullLocator())


def label(axes: Any, title: str, x: str, y: str) -> None:
    """Title and axes."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def main(folder: Path) -> None:
    """Draw everything into a folder."""
    mpl.use("svg")
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (single_clue, multi_clue, calls, hardened, other_parts, credit):
        with mpl.rc_context(STYLE):
            figure = draw()
            path = folder / f"{draw.__name__}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "plots")
