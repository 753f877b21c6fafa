"""One episode before one's eyes: a person types the replies, or a policy writes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import av
from rich.console import Console

from agents.named_policy import load_policy, rules_of
from agents.named_tasks import tasks_for
from agents.policy import PrivilegedPolicy
from agents.session_rules import overridden
from envs.registration import make_video_seek
from videoseek_env.action import write_crop
from videoseek_env.env import VideoSeekEnv
from videoseek_env.errors import ConfigError, SegmentError
from videoseek_env.render import Window, printable, render_ansi, render_rgb
from videoseek_env.segment import Segment
from videoseek_env.session import Observation
from videoseek_env.trajectory import write_trajectories
from videoseek_env.video.clip import STRATEGIES

if TYPE_CHECKING:
    from agents.cli import Play

_VIDEOS = 4
"""Needle videos to draw from."""
_HELP = (
    "Type [bold]crop START END coarse|medium|fine[/], [bold]answer TEXT[/], or a whole reply with "
    "tags; [bold]quit[/] to stop."
)
_CROP = re.compile(rf"crop\s+(\S+)\s+(\S+)\s+({'|'.join(STRATEGIES)})", re.IGNORECASE)
_ANSWER = re.compile(r"answer\s+(.+)", re.IGNORECASE | re.DOTALL)


def run_play(config: Play) -> int:
    """Play one episode on the terminal.

    Returns:
        0 if the episode came to an end, 1 if the person stopped it.

    Raises:
        ConfigError: If the seed is negative, or the policy's name leads nowhere.
    """
    if config.seed is not None and config.seed < 0:
        raise ConfigError(f"seed must be at least 0, got {config.seed}")
    console = Console(highlight=False)
    rules = rules_of([config.policy or ""], adapter=config.model.adapter)
    rules = overridden(rules, budget=config.budget, max_turns=config.max_turns)
    rules = replace(rules, force_answer=True)  # as in eval
    tasks = tasks_for(rules, annotations=config.annotations, videos=_VIDEOS, seed=0, split="test")
    named, player = None, None
    if config.policy is not None:
        named = load_policy(config.policy, config.model, rules)
        player, rules = named.make(), named.session
    env = make_video_seek(tasks, config=rules)
    window = Window("VideoSeek") if config.window else None
    try:
        options = {"task_id": config.task} if config.task else None
        _, info = env.reset(seed=config.seed, options=options)
        console.print(info["system_prompt"], style="dim", markup=False)
        if player is None:
            next_reply = _person(console)
        else:
            player.reset(seed=config.seed)
            if isinstance(player, PrivilegedPolicy):
                player.reveal(env.session.task)
            next_reply = player.act
        is_over, turn = "end_reason" in info, 0
        while not is_over:
            _show(console, env, window, config.out, turn)
            reply = next_reply(env.observation)
            if reply is None:
                env.session.abandon()
                break
            if player is not None:
                console.print(f"{config.policy}> {printable(reply)}", markup=False)
            *_, terminated, truncated, info = env.step(reply)
            is_over, turn = terminated or truncated, turn + 1
        _finish(console, env, info, config.out)
        return 0 if is_over else 1
    finally:
        env.close()
        if named is not None:
            named.close()
        if window is not None:
            window.close()


def as_reply(line: str) -> str | None:
    """What a person types, in the grammar; a line with tags is sent as it is, any other is None.

    >>> as_reply("answer B")
    '<think>I looked.</think><answer>B</answer>'
    """
    if crop := _CROP.fullmatch(line.strip()):
        try:
            segment = Segment(float(crop[1]), float(crop[2]))
        except (SegmentError, ValueError):
            return None
        strategy = next(known for known in STRATEGIES if known == crop[3].lower())
        return write_crop("I look closer.", segment, strategy)
    if answer := _ANSWER.fullmatch(line.strip()):
        return f"<think>I looked.</think><answer>{answer[1]}</answer>"
    return line if "<" in line else None


def _person(console: Console) -> Callable[[Observation], str | None]:
    """Asks until a line is a reply; None when the person stops."""
    console.print(_HELP)

    def ask(_: Observation) -> str | None:
        while (line := _ask()) is not None:
            if (reply := as_reply(line)) is not None:
                return reply
            console.print(_HELP)
        return None

    return ask


def _ask() -> str | None:
    try:
        line = input("> ")
    except (EOFError, KeyboardInterrupt):
        return None
    return None if line.strip() in ("quit", "exit") else line


def _show(
    console: Console, env: VideoSeekEnv, window: Window | None, folder: Path, turn: int
) -> None:
    trajectory, observation = env.session.trajectory, env.observation
    picture = render_rgb(
        trajectory, observation.clip, observation_text=observation.text, show_clues=False
    )
    path = folder / f"observation_{turn}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    av.VideoFrame.from_ndarray(picture, format="rgb24").save(path)
    if window is not None:
        window.show(picture)
    console.print(printable(observation.text), markup=False)
    console.print(f"The frames are in {path}", style="dim", markup=False)


def _finish(console: Console, env: VideoSeekEnv, info: dict[str, object], folder: Path) -> None:
    trajectory = env.session.trajectory
    print(render_ansi(trajectory, colour=console.is_terminal))
    task = trajectory.task
    console.print(f"The right answer: {task.answer or task.clues[0]}", markup=False)
    if "reward_parts" in info:
        console.print(f"Reward parts: {info['reward_parts']}", markup=False)
    write_trajectories(folder / "trajectories.jsonl", [trajectory])
    console.print(f"Appended to {folder / 'trajectories.jsonl'}", style="dim", markup=False)
