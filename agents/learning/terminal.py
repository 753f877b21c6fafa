"""What one sees of a run: a bar, a line of numbers now and then, and an episode."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agents.learning.collecting import Experience
from agents.learning.learner import Update
from videoseek_env.errors import ConfigError

_SHOWN: Final = {
    "loss": "loss {:.3f}",
    "reward": "reward {:.2f}",
    "reward/acc": "right {:.0%}",
    "reward/format": "form {:.0%}",
    "reward/iou": "IoU {:.2f}",
    "calls": "calls {:.1f}",
    "end/answered": "answered {:.0%}",
    "uninformative_groups": "alike {:.0f}",
    "failed_groups": "failed {:.0f}",
    "tokens_per_second": "{:.0f} tokens/s",
}
_LONGEST_REPLY: Final = 300


class Terminal:
    """Shows a run; use it as a context manager."""

    def __init__(
        self, console: Console, total_steps: int, *, every: int = 10, done: int = 0
    ) -> None:
        """Prepare.

        Args:
            console: Where to write.
            total_steps: Of the run.
            every: Steps between lines; the bar shows each.
            done: Steps that earlier runs did.

        Raises:
            ConfigError: If `every` is below 1.
        """
        if every < 1:
            raise ConfigError(f"a line can be shown every step at most, got every={every}")
        self._console, self._every = console, every
        columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console)
        self._bar = self._progress.add_task("step", total=total_steps, completed=done)
        self._total = total_steps

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, step: int, update: Update) -> None:
        """Take note of a step."""
        self._progress.update(self._bar, completed=step + 1)
        if step % self._every and step + 1 != self._total:
            return
        self._console.print(f"{step + 1:>5}  {line_of(update.metrics)}", highlight=False)
        if update.experiences:
            self._console.print(episode_text(update.experiences[-1]), highlight=False)


def line_of(metrics: Mapping[str, float]) -> str:
    """The numbers that matter most, on one line.

    >>> line_of({"reward": 1.25, "calls": 1.5, "grad_norm": 0.3})
    'reward 1.25  calls 1.5'
    """
    return "  ".join(text.format(metrics[name]) for name, text in _SHOWN.items() if name in metrics)


def episode_text(one: Experience) -> str:
    """An episode in a few dim lines of console markup."""
    task = one.trajectory.task
    replies = [" ".join(turn.reply.split())[:_LONGEST_REPLY] for turn in one.trajectory.turns]
    lines = [f"{task.question} [{task.answer}]", *replies]
    ending = f"{one.trajectory.end_reason}, reward {one.reward.value:.2f}"
    return "\n".join(f"       [dim]{escape(line)}[/]" for line in [*lines, ending])
