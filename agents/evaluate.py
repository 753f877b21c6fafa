"""Policies against tasks: every episode kept as it ends, resumed where it stopped, reported."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from agents.episode import Episode, read_episodes
from agents.named_policy import NamedPolicy, check_policy_name, load_policy, rules_of
from agents.named_reward import checked, load_reward
from agents.named_tasks import tasks_for
from agents.report import Estimate, PolicySummary, summarise, write_report
from agents.rollout import RolloutConfig, episode_seed, rollout
from agents.session_rules import overridden
from agents.settings_file import claim, write_settings
from rewards.reward import RewardFunction
from videoseek_env.errors import ConfigError, check_counts
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import append_jsonl, filter_jsonl
from videoseek_env.video import ClipCache

if TYPE_CHECKING:
    from agents.cli import Eval

_Key: TypeAlias = tuple[str, str, int]
"""Of an episode: its policy, its task, its seed."""

_SAY_EVERY_SECONDS = 30.0
"""Where there is no terminal to show a bar."""

_REPORTED_TRAJECTORIES = 120
"""Trajectories that the report shows one by one; its figures count all."""


def run_eval(config: Eval) -> int:
    """Play, print a table, write episodes and a report.

    Returns:
        0, or 1 if every episode of a policy failed.
    """
    check_processes("videoseek eval")
    _check(config)
    path = config.out / "episodes.jsonl"
    if path.exists() and not config.resume:
        raise ConfigError(f"{path} exists; choose another --out, or --resume to go on with it")
    console = Console(markup=False, emoji=False)  # a name may look like some
    rules = rules_of(config.policy, adapter=config.model.adapter)
    rules = overridden(rules, budget=config.budget, max_turns=config.max_turns)
    session = replace(rules, overview=config.overview, force_answer=True)
    tasks = _tasks(config, session)
    plan = RolloutConfig(
        episodes_per_task=config.episodes_per_task,
        seed=config.seed,
        workers=config.workers,
        batch_size=config.batch_size,
    )
    policies = (load_policy(name, config.model, session) for name in config.policy)
    reward = None if config.reward is None else checked(load_reward(config.reward))
    if path.exists():
        claim(config.out / "config.json", _settings(config))
    else:
        write_settings(config.out / "config.json", _settings(config))
    started = time.perf_counter()
    episodes = play_all(tasks, policies, plan, path=path, console=console, reward=reward)
    return present(episodes, config.out, title="Evaluation", started=started, console=console)


def check_processes(command: str) -> None:
    """Refuse several processes, which would write to the same files.

    Raises:
        ConfigError: If this is one of several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"one process plays: launch {command} without accelerate or torchrun")


def _check(config: Eval) -> None:
    """Refuse what would be noticed only when other policies have played."""
    if not config.policy:
        raise ConfigError("expected a policy after --policy")
    if twice := sorted(name for name, count in Counter(config.policy).items() if count > 1):
        raise ConfigError(f"{', '.join(twice)} would play twice: --episodes-per-task plays more")
    for name in config.policy:
        check_policy_name(name)
    check_counts(config, "videos", "episodes_per_task", "workers", "batch_size")
    if config.limit is not None:
        check_counts(config, "limit")


def _settings(config: Eval) -> dict[str, Any]:
    """What decides an episode, beside its policy and its task."""
    fields = asdict(config)
    for name in ("policy", "out", "resume", "limit", "workers", "batch_size"):
        del fields[name]
    for name in ("api_key", "device_map", "timeout_seconds", "max_concurrency"):
        del fields["model"][name]
    folder = config.annotations
    return fields | {"annotations": None if folder is None else str(folder.resolve())}


def _tasks(config: Eval, session: SessionConfig) -> list[VideoTask]:
    tasks = tasks_for(
        session,
        annotations=config.annotations,
        videos=config.videos,
        seed=config.seed,
        split="test",
    )
    return tasks[: config.limit]


def play_all(
    tasks: Sequence[VideoTask],
    policies: Iterable[NamedPolicy],
    plan: RolloutConfig,
    *,
    path: Path,
    console: Console,
    reward: RewardFunction | None = None,
) -> list[Episode]:
    """Let every policy play every task; the file grows as episodes end.

    Episodes that the file holds already are not played again: a run that was killed goes on. Those
    that failed are: a server may have been down.

    Args:
        tasks: In the order of the run that the file is of.
        policies: Each is made when its turn comes, and may be freed after it.
        plan: Episodes of each task, their seeds, and how many at once.
        path: JSON Lines of episodes.
        console: Shows the progress.
        reward: By default the trajectory-guided one.
    """
    cache = ClipCache(2**29)
    known = _read_known(path)
    episodes: list[Episode] = []
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for policy in policies:
            jobs = {
                (policy.name, task.id, episode_seed(plan.seed, i, k)): (i, k)
                for i, task in enumerate(tasks)
                for k in range(plan.episodes_per_task)
            }
            again = {key for key in jobs if key in known and known[key].error is not None}
            _drop(path, again)
            settled = {key: known[key] for key in jobs if key in known and key not in again}
            done = {jobs[key] for key in settled}
            episodes += settled.values()
            bar = progress.add_task(policy.name, total=len(jobs), completed=len(done))
            said = time.monotonic()
            played = rollout(
                policy.make,
                tasks,
                plan,
                session=policy.session,
                reward=reward,
                cache=cache,
                name=policy.name,
                done=done,
            )
            try:
                for episode in played:
                    append_jsonl(path, [episode.to_dict()])
                    episodes.append(episode)
                    progress.advance(bar)
                    if not console.is_terminal and time.monotonic() - said > _SAY_EVERY_SECONDS:
                        said, count = time.monotonic(), progress.tasks[bar].completed
                        console.print(f"{policy.name}: {count} of {len(jobs)} episodes")
            finally:
                policy.close()
            del policy, played  # with its model, before the next one is loaded
    return episodes


def _read_known(path: Path) -> dict[_Key, Episode]:
    if not path.exists():
        return {}
    return {_key(episode): episode for episode in read_episodes(path)}


def _drop(path: Path, keys: Set[_Key]) -> None:
    """Take episodes out of the file; it is written anew, whole or not at all."""
    if keys:
        filter_jsonl(path, lambda record: _key(Episode.from_dict(record)) not in keys)


def _key(episode: Episode) -> _Key:
    return episode.policy, episode.trajectory.task.id, episode.seed


def present(
    episodes: Sequence[Episode], out: Path, *, title: str, started: float, console: Console
) -> int:
    """Print the table, write the report, and say where everything is.

    Returns:
        0, or 1 if every episode of a policy failed.
    """
    rows = summarise(episodes)
    console.print(summary_table(rows))
    report = write_report(
        out / "report.html", episodes, title=title, max_trajectories=_REPORTED_TRAJECTORIES
    )
    console.print(f"Episodes: {out / 'episodes.jsonl'}", soft_wrap=True)
    console.print(f"Report:   {report.resolve().as_uri()}", soft_wrap=True)
    console.print(f"Done in {time.perf_counter() - started:.0f} s.")
    failed = [row for row in rows if row.failures]
    for row in failed:
        console.print(
            f"{row.policy}: {row.failures} of {row.episodes} episodes failed; see episodes"
        )
    return int(any(row.failures == row.episodes for row in failed))


def summary_table(rows: Sequence[PolicySummary]) -> Table:
    """One line per policy, narrow enough for a terminal of 80 columns."""
    table = Table(
        title=f"{rows[0].episodes} episodes each; accuracy with its 95 % interval; s per episode",
        box=None,
        padding=(0, 2, 0, 0),
    )
    parts = [name for name in ("format", "bonus", "iou") if name in rows[0].parts]
    table.add_column("policy", overflow="fold")  # what gives way
    for heading in ("accuracy", "reward", *parts, "turns", "tokens", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row, policy in zip(rows, _short([row.policy for row in rows]), strict=True):
        table.add_row(
            policy,
            _percent(row.accuracy),
            f"{row.reward.mean:.2f}",
            *(f"{row.parts[name].mean:.2f}" for name in parts),
            f"{row.turns.mean:.1f}",
            f"{row.visual_tokens.mean:.0f}",
            f"{row.seconds.mean:.2f}",
        )
    return table


def _short(policies: Sequence[str]) -> list[str]:
    """Names of policies, folders by as many of their last parts as tell them apart, at least two.

    >>> _short(["oracle", "hf:runs/a/model", "hf:runs/b/model", "hf:base/runs/b/model"])
    ['oracle', 'hf:runs/a/model', 'hf:runs/b/model', 'hf:base/runs/b/model']
    >>> _short(["hf:/data/runs/a/model", "hf:/data/runs/b/model"])
    ['hf:a/model', 'hf:b/model']
    """
    longest = max(len(Path(policy).parts) for policy in policies)
    for count in range(2, longest + 1):
        short = [_last_parts(policy, count) for policy in policies]
        if len(set(short)) == len(policies):
            return short
    return list(policies)


def _last_parts(policy: str, count: int) -> str:
    kind, colon, name = policy.partition(":")
    return f"{kind}{colon}{Path(*Path(name).parts[-count:])}" if colon else policy


def _percent(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.0%}"
    return f"{estimate.mean:.0%} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"
