from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pettingzoo", reason="PettingZoo is an extra")

from hypothesis import HealthCheck, given, settings

from agents.baselines import OraclePolicy, RandomPolicy
from envs import seeker_answerer
from envs.decoupled import ANSWERER, SEEKER
from envs.seeker_answerer import SeekerAnswererEnv
from tests.envs.decoupled_games import Told, make_arguments, make_game, play
from tests.hostile_replies import hostile_replies, random_hostile_replies
from videoseek_env.trajectory import Trajectory


def test_policies_play_through_the_environment(minute_video: Path) -> None:
    env = seeker_answerer.env(**make_arguments(minute_video))
    policies: dict[str, Any] = {SEEKER: OraclePolicy(), ANSWERER: Told()}
    env.reset(seed=0)
    for policy in policies.values():
        policy.reset()
        policy.reveal(env.unwrapped.session.seeker.task)
    rewards = []
    for agent in env.agent_iter():
        _, reward, terminated, truncated, _ = env.last(observe=False)
        if terminated or truncated:
            rewards.append(reward)
            env.step(None)
        else:
            env.step(policies[agent].act(env.unwrapped.observation))
    assert rewards == [3.0, 3.0]


def test_random_policies_survive_and_repeat_themselves(minute_video: Path) -> None:
    def endings() -> Iterator[Trajectory]:
        for seed in range(20):
            game = make_game(minute_video, max_turns=3, max_clips=3)
            yield play(game, RandomPolicy(), RandomPolicy(), seed)

    first = list(endings())
    assert first == list(endings())
    assert {len(trajectory.crops) for trajectory in first} == {0, 1, 2}


def play_all(env: SeekerAnswererEnv, replies: Sequence[str]) -> set[tuple[str, str]]:
    """Feed replies, starting anew whenever an episode ends; how searches and games ended."""
    endings = set()
    env.reset(seed=0)
    for reply in replies:
        env.step(reply)
        for agent in env.agents:
            assert env.observe(agent) in env.observation_space(agent)
        if env.truncations[SEEKER] or env.terminations[SEEKER]:
            assert np.isfinite(env.rewards[SEEKER])
            assert env.rewards[SEEKER] == env.rewards[ANSWERER]
            sought = env.infos[SEEKER]["own_trajectory"].end_reason
            endings.add((str(sought), env.infos[ANSWERER]["end_reason"]))
            env.reset()
    return endings


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(replies=hostile_replies())
def test_no_reply_breaks_a_game(minute_video: Path, replies: list[str]) -> None:
    play_all(seeker_answerer.raw_env(**make_arguments(minute_video)), replies)


def test_random_hostile_replies_meet_every_ending_that_a_reply_can_cause(
    minute_video: Path,
) -> None:
    env = seeker_answerer.raw_env(**make_arguments(minute_video, max_turns=4, max_clips=3))
    replies = list(random_hostile_replies(2000, np.random.default_rng(0)))
    searches, games = map(set, zip(*play_all(env, replies), strict=True))
    assert searches == {
        "answered", "no_action", "reply_cut", "turns_exhausted", "clips_exhausted",
    }  # fmt: skip
    assert games == {"answered", "no_action", "reply_cut", "turns_exhausted"}
