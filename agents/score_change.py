"""What a new reward changes about scores, as running sums and as tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

from rewards.reward import Reward
from videoseek_env.task import TaskKind

_SAME = 1e-9
"""Scores that differ by no more count as unchanged."""
_MOST_POLICIES = 6
"""More than these don't fit side by side; then the parts are shown for all together."""


@dataclass(slots=True)
class Change:
    """The scores of a group of trajectories, before and after."""

    count: int = 0
    pairs: int = 0
    """Trajectories whose score before is known."""
    up: int = 0
    down: int = 0
    sum_before: float = 0.0
    """Over the pairs, as is the difference."""
    sum_difference: float = 0.0
    sum_after: float = 0.0
    """Over all."""
    parts: dict[str, tuple[int, float]] = field(default_factory=dict)
    """How many trajectories have a part of the new reward, and its sum over them."""

    def add(self, before: float | None, after: Reward) -> None:
        """Count one trajectory; `before` is None where it is unknown."""
        self.count += 1
        self.sum_after += after.value
        for name, amount in after.parts.items():
            count, total = self.parts.get(name, (0, 0.0))
            self.parts[name] = count + 1, total + amount
        if before is not None:
            self.pairs += 1
            self.sum_before += before
            self.sum_difference += after.value - before
            self.up += after.value > before + _SAME
            self.down += after.value < before - _SAME

    @property
    def unchanged(self) -> int:
        """Trajectories whose score stayed."""
        return self.pairs - self.up - self.down


@dataclass(slots=True)
class Comparison:
    """Changes in all, by policy and by kind of task."""

    total: Change = field(default_factory=Change)
    by_policy: dict[str, Change] = field(default_factory=dict)
    """In order of first appearance."""
    by_kind: dict[TaskKind, Change] = field(default_factory=dict)
    skipped: int = 0
    """Lines that could not be read or scored."""

    def add(self, policy: str, kind: TaskKind, before: float | None, after: Reward) -> None:
        """Count one trajectory."""
        for change in (
            self.total,
            self.by_policy.setdefault(policy, Change()),
            self.by_kind.setdefault(kind, Change()),
        ):
            change.add(before, after)


def print_comparison(comparison: Comparison, console: Console, *, reward: str) -> None:
    """Print what changed, and what the new reward is made of."""
    console.print(f"Mean reward before and after {reward}", soft_wrap=True, highlight=False)
    console.print(change_table(comparison))
    if comparison.total.parts:
        console.print("Parts of the new reward, means")
        console.print(part_table(comparison))
    if comparison.skipped:
        console.print(f"Skipped {comparison.skipped} broken lines.")


def change_table(comparison: Comparison) -> Table:
    """Means and counts: one line per policy and per kind, and one for all."""
    table = _table("policy or kind")
    for heading in ("count", "before", "after", "change", "up", "down", "same"):
        table.add_column(heading, justify="right", no_wrap=True)
    kinds = [
        (kind.value, comparison.by_kind[kind]) for kind in TaskKind if kind in comparison.by_kind
    ]
    for section in (comparison.by_policy.items(), kinds, [("all", comparison.total)]):
        for name, change in section:
            table.add_row(name, *_cells(change))
        table.add_section()
    return table


def part_table(comparison: Comparison) -> Table:
    """The mean of each part of the new reward, for all and for each policy."""
    groups = {"all": comparison.total}
    if 1 < len(comparison.by_policy) <= _MOST_POLICIES:
        groups |= comparison.by_policy
    table = _table("part")
    for name in groups:
        table.add_column(name, justify="right")
    for part in comparison.total.parts:
        table.add_row(part, *(_part_mean(change, part) for change in groups.values()))
    return table


def _table(first_column: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first_column, no_wrap=True)
    return table


def _cells(change: Change) -> Iterable[str]:
    yield str(change.count)
    yield f"{change.sum_before / change.pairs:.3f}" if change.pairs else "-"
    yield f"{change.sum_after / change.count:.3f}"
    if change.pairs:
        yield f"{change.sum_difference / change.pairs:+.3f}"
        yield from map(str, (change.up, change.down, change.unchanged))
    else:
        yield from "----"


def _part_mean(change: Change, part: str) -> str:
    count, total = change.parts.get(part, (0, 0.0))
    return f"{total / count:.3f}" if count else "-"
