"""Games of a seeker and an answerer, as the tests play them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.policy import Policy, PrivilegedPolicy
from envs.decoupled import (
    ANSWERER,
    ANSWERER_PROMPTS,
    SEEKER,
    SEEKER_PROMPTS,
    SeekerAnswererSession,
)
from tests.sample_trajectories import answer_reply, make_task
from videoseek_env.action import write_answer
from videoseek_env.prompts import Prompts
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory
from videoseek_env.video import ClipCache, open_video

DONE = answer_reply("done")


def make_tasks(path: Path, count: int = 4) -> list[VideoTask]:
    return [
        dataclasses.replace(make_task(), id=f"task-{number}", video=str(path))
        for number in range(count)
    ]


def make_arguments(path: Path, **changes: Any) -> dict[str, Any]:
    return {"tasks": make_tasks(path), "budget": "tiny", **changes}


def make_game(
    path: Path,
    task: VideoTask | None = None,
    *,
    cache: ClipCache | None = None,
    answerer_prompts: Prompts = ANSWERER_PROMPTS,
    **rules: Any,
) -> SeekerAnswererSession:
    config = SessionConfig(**{"budget": "tiny", "prompts": SEEKER_PROMPTS, **rules})
    seeker = VideoSession(
        dataclasses.replace(task or make_task(), video=str(path)),
        open_video(path),
        config,
        cache=ClipCache(2**26) if cache is None else cache,
    )
    return SeekerAnswererSession(seeker, answerer_prompts=answerer_prompts)


def hand_over(game: SeekerAnswererSession, replies: Sequence[str]) -> Observation:
    """Play the seeker's replies; what the answerer sees after the last one."""
    agent, observation = game.start()
    for number, reply in enumerate(replies):
        assert agent == SEEKER, f"handed over by reply {number}"
        turn = game.reply(reply)
        assert turn is not None
        agent, observation = turn
    assert agent == ANSWERER
    return observation


class Told:
    """Answers what it was told."""

    def reset(self, *, seed: int | None = None) -> None:
        pass

    def reveal(self, task: VideoTask) -> None:
        self.answer = task.answer

    def act(self, observation: Observation) -> str:
        return write_answer("I was told.", self.answer)


def play(
    game: SeekerAnswererSession, seeker: Policy, answerer: Policy, seed: int = 0
) -> Trajectory:
    policies = {SEEKER: seeker, ANSWERER: answerer}
    for policy in policies.values():
        policy.reset(seed=seed)
        if isinstance(policy, PrivilegedPolicy):
            policy.reveal(game.seeker.task)
    turn: tuple[str, Observation] | None = game.start()
    while turn is not None and game.end_reason is None:
        agent, observation = turn
        turn = game.reply(policies[agent].act(observation))
    return game.trajectory
