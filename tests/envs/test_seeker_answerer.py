import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pettingzoo", reason="PettingZoo is an extra")

from gymnasium.utils.env_checker import data_equivalence

from envs import seeker_answerer
from envs.decoupled import AGENTS, ANSWERER, SEEKER
from envs.registration import make_video_seek
from rewards import Reward
from tests.envs.decoupled_games import DONE, make_arguments, make_tasks
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from tests.synthetic_video import write_video
from videoseek_env.budget import LAPTOP, TINY
from videoseek_env.errors import EpisodeError, TaskError, VideoDecodeError
from videoseek_env.prompts import Prompts
from videoseek_env.session import SessionConfig
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import ClipCache


def test_an_episode_pays_both_agents_at_its_end_and_names_it(minute_video: Path) -> None:
    env = seeker_answerer.env(**make_arguments(minute_video))
    env.reset(seed=0)
    assert env.agents == [SEEKER, ANSWERER]
    assert "look for the moments" in env.infos[SEEKER]["system_prompt"]
    assert "someone else cropped" in env.infos[ANSWERER]["system_prompt"]
    for reply in (crop_reply(10, 20), DONE, answer_reply("B")):
        assert env.rewards == {SEEKER: 0.0, ANSWERER: 0.0}
        assert all("end_reason" not in info for info in env.infos.values())
        env.step(reply)
    assert env.rewards == {SEEKER: 3.0, ANSWERER: 3.0}
    endings = {}
    for agent in env.agent_iter():
        observation, reward, terminated, truncated, info = env.last()
        assert (reward, terminated, truncated) == (3.0, True, False)
        assert observation["text"] == "The episode is over: answered."
        assert observation["frames"].shape == (0, 0, 0, 3)
        assert info["reward_parts"]["bonus"] == 1.0
        endings[agent] = info
        env.step(None)
    assert [(info["turns"], info["visual_tokens"]) for info in endings.values()] == [
        # The overview's 10 pairs of a token, and twice the crop: 4 pairs of 1 x 2 cells.
        (2, 18),
        (1, 8),
    ]
    assert endings[SEEKER]["trajectory"] == endings[ANSWERER]["trajectory"]
    assert endings[SEEKER]["own_trajectory"].replies == (crop_reply(10, 20), DONE)
    assert endings[ANSWERER]["own_trajectory"].replies == (answer_reply("B"),)
    assert env.agents == []


@pytest.mark.parametrize(
    ("reply", "reason", "truncated"),
    [
        (answer_reply("A"), "answered", False),
        ("nothing", "no_action", False),
        ("x" * 10_000, "reply_cut", False),
        (crop_reply(1, 5), "turns_exhausted", True),
    ],
)
def test_a_reply_terminates_both_agents_and_a_crop_too_many_truncates_them(
    minute_video: Path, reply: str, reason: str, truncated: bool
) -> None:
    env = seeker_answerer.env(**make_arguments(minute_video))
    env.reset(seed=0)
    env.step(DONE)
    env.step(reply)
    assert env.terminations == dict.fromkeys(AGENTS, not truncated)
    assert env.truncations == dict.fromkeys(AGENTS, truncated)
    assert {info["end_reason"] for info in env.infos.values()} == {reason}


def act(env: Any, face: str, reply: str) -> dict[str, Any]:
    """Play a reply on either face; what there is to see afterwards, agent by agent."""
    if face == "parallel":
        observations, rewards, terminations, truncations, infos = env.step(
            {env.unwrapped.session.agent: reply}
        )
    else:
        env.step(reply)
        rewards, terminations, truncations, infos = (
            dict(env.rewards), env.terminations, env.truncations, env.infos,
        )  # fmt: skip
        observations = {agent: env.observe(agent) for agent in env.agents}
    return {
        "observations": observations,
        "rewards": rewards,
        "terminations": dict(terminations),
        "truncations": dict(truncations),
        "infos": infos,
    }


def test_both_faces_play_the_same_episode(minute_video: Path) -> None:
    one = seeker_answerer.env(**make_arguments(minute_video))
    many = seeker_answerer.parallel_env(**make_arguments(minute_video))
    for seed in range(3):
        one.reset(seed=seed)
        observations, infos = many.reset(seed=seed)
        assert data_equivalence(observations, {agent: one.observe(agent) for agent in AGENTS})
        assert infos == one.infos
        for reply in (crop_reply(5, 9), "<grounding>{}</grounding>", DONE, answer_reply("B")):
            assert data_equivalence(act(one, "aec", reply), act(many, "parallel", reply))
        assert many.agents == []


def test_the_waiting_agents_action_is_ignored(minute_video: Path) -> None:
    env = seeker_answerer.parallel_env(**make_arguments(minute_video))
    env.reset(seed=0)
    env.step({SEEKER: crop_reply(10, 20), ANSWERER: answer_reply("A")})
    *_, infos = env.step({SEEKER: DONE, ANSWERER: answer_reply("A")})
    assert infos[SEEKER]["active_agent"] == infos[ANSWERER]["active_agent"] == ANSWERER
    _, rewards, _, _, infos = env.step({SEEKER: DONE, ANSWERER: answer_reply("B")})
    assert rewards == {SEEKER: 3.0, ANSWERER: 3.0}
    assert infos[SEEKER]["own_trajectory"].replies == (crop_reply(10, 20), DONE)


def test_a_seed_draws_the_tasks_that_the_single_agents_environment_draws(
    minute_video: Path,
) -> None:
    def draw(env: Any, seed: int) -> list[str]:
        tasks = []
        for place in range(8):
            result = env.reset(seed=seed if place == 0 else None)
            infos = result[1] if result else env.infos[SEEKER]
            tasks.append(infos["task_id"])
        return tasks

    arguments = make_arguments(minute_video)
    env, single = seeker_answerer.env(**arguments), make_video_seek(**arguments)
    for seed in range(3):
        assert draw(env, seed) == draw(env, seed) == draw(single, seed)
    assert len(set(draw(env, 0))) > 1


def test_a_pinned_task_is_played_and_other_options_are_logged(
    minute_video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = seeker_answerer.env(**make_arguments(minute_video))
    for seed in range(4):
        env.reset(seed=seed, options={"task_id": "task-2"})
        assert env.infos[ANSWERER]["task_id"] == "task-2"
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        env.reset(options={"taskid": "task-2"})
    assert "['taskid']" in caplog.text
    with pytest.raises(TaskError, match="no task 'task-9'"):
        env.reset(options={"task_id": "task-9"})
    assert env.agents == []


def test_observations_are_fresh_writable_and_in_their_space(minute_video: Path) -> None:
    arguments = make_arguments(minute_video, budget="laptop", max_turns=7)
    env = seeker_answerer.env(**arguments)
    env.reset(seed=0)
    # Six crops of 32 frames, 150 s of a minute: frames are shared, but one clip has more of them
    # than any clip of a single agent.
    for start in (0, 7, 14, 21, 28, 35):
        first = env.last()[0]
        assert first in env.observation_space(SEEKER)
        first["frames"][:] = 7
        assert data_equivalence(env.last()[0]["timestamps"], first["timestamps"])
        assert not np.array_equal(env.last()[0]["frames"], first["frames"])
        env.step(crop_reply(start, start + 25))
    env.step(DONE)
    found = env.last()[0]
    assert found in env.observation_space(ANSWERER)
    assert len(found["frames"]) > LAPTOP.max_clip_frames
    assert env.observe(SEEKER) in env.observation_space(SEEKER)


def test_a_prompt_over_the_context_is_told_at_reset_and_ends_with_the_first_step(
    minute_video: Path,
) -> None:
    budget = dataclasses.replace(TINY, name="small", context_tokens=60, reserve_tokens=0)
    env = seeker_answerer.env(**make_arguments(minute_video, budget=budget))
    env.reset(seed=0)
    assert env.infos[SEEKER]["end_reason"] == "prompt_too_long"
    assert not env.terminations[SEEKER] and not env.truncations[SEEKER]
    env.step(DONE)
    assert env.truncations == {SEEKER: True, ANSWERER: True}
    assert env.infos[ANSWERER]["end_reason"] == "prompt_too_long"


def test_stepping_out_of_order_is_an_error(minute_video: Path) -> None:
    raw = seeker_answerer.raw_env(**make_arguments(minute_video))
    with pytest.raises(EpisodeError, match="reset"):
        raw.step(DONE)
    with pytest.raises(EpisodeError, match="reset"):
        raw.session  # noqa: B018
    wrapped = seeker_answerer.env(**make_arguments(minute_video))
    with pytest.raises(AssertionError, match="reset"):
        wrapped.step(DONE)
    raw.reset(seed=0)
    for action in (3, None):
        with pytest.raises(TypeError, match="an action is a string"):
            raw.step(action)  # type: ignore[arg-type]
    raw.step(DONE)
    raw.step(answer_reply("B"))
    with pytest.raises(ValueError, match="only valid action is None"):
        raw.step(DONE)
    raw.step(None)
    raw.step(None)
    with pytest.raises(EpisodeError, match="no episode is running"):
        raw.step(None)


def test_a_new_episode_forgets_one_that_was_broken_off(minute_video: Path) -> None:
    env = seeker_answerer.env(**make_arguments(minute_video))
    for replies in ([crop_reply(1, 5)], [DONE], [DONE, answer_reply("B")], [DONE, DONE, None]):
        env.reset(seed=0)
        for reply in replies:
            env.step(reply)
        env.reset(seed=0)
        assert (env.agents, env.agent_selection) == ([SEEKER, ANSWERER], SEEKER)
        assert env.infos[SEEKER]["turns"] == 0
        assert [env.last()[1], *env.rewards.values()] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("replies", [[], [DONE]])
def test_a_closed_environment_must_be_reset(minute_video: Path, replies: list[str]) -> None:
    raw = seeker_answerer.raw_env(**make_arguments(minute_video))
    raw.reset(seed=0)
    game = raw.session
    for reply in replies:
        raw.step(reply)
    raw.close()
    raw.close()
    assert game.end_reason is EndReason.ABANDONED
    with pytest.raises(EpisodeError, match="reset"):
        raw.step(DONE)
    raw.reset(seed=0)
    raw.step(DONE)


def test_a_host_that_stops_the_game_truncates_it(minute_video: Path) -> None:
    env = seeker_answerer.env(**make_arguments(minute_video))
    env.reset(seed=0)
    env.unwrapped.session.abandon()
    env.step(DONE)
    assert env.truncations == {SEEKER: True, ANSWERER: True}
    assert env.infos[SEEKER]["end_reason"] == "abandoned"


@pytest.mark.parametrize("last", [crop_reply(30, 40), DONE])
def test_a_video_that_fails_midway_ends_the_game_with_the_next_step(
    tmp_path: Path, last: str
) -> None:
    path = write_video(tmp_path / "v.mp4", 600, fps=10)
    env = seeker_answerer.env(**make_arguments(path, cache=ClipCache(0)))
    env.reset(seed=0)
    env.step(crop_reply(10, 20))
    env.unwrapped.session.seeker._reader.close()
    path.write_bytes(b"")
    with pytest.raises(VideoDecodeError):
        env.step(last)
    assert env.observe(ANSWERER)["frames"].shape == (0, 0, 0, 3)
    env.step("whatever")
    assert env.truncations == {SEEKER: True, ANSWERER: True}
    assert env.infos[SEEKER]["end_reason"] == "video_failed"
    assert env.rewards == {SEEKER: 0.0, ANSWERER: 0.0}


def test_a_video_that_cannot_be_opened_leaves_no_episode(
    minute_video: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    tasks = [*make_tasks(minute_video, 1), dataclasses.replace(make_task(), video=str(broken))]
    env = seeker_answerer.env(tasks=tasks, budget="tiny")
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4"):
        env.reset(options={"task_id": tasks[1].id})
    assert env.agents == []
    env.reset(options={"task_id": "task-0"})
    assert env.agents == [SEEKER, ANSWERER]


def test_a_reward_that_raises_leaves_the_episode_scorable(minute_video: Path) -> None:
    failures = [ZeroDivisionError("once")]

    def fragile(trajectory: Trajectory) -> Reward:
        if failures:
            raise failures.pop()
        return Reward(1.0, {"turns": float(len(trajectory.turns))})

    env = seeker_answerer.env(**make_arguments(minute_video, reward=fragile))
    env.reset(seed=0)
    env.step(DONE)
    with pytest.raises(ZeroDivisionError):
        env.step(answer_reply("B"))
    env.step("")
    assert env.rewards == {SEEKER: 1.0, ANSWERER: 1.0}
    assert env.infos[SEEKER]["reward_parts"] == {"turns": 1.0}


def test_arguments_mean_what_they_mean_to_the_single_agents_environment(
    minute_video: Path,
) -> None:
    for wrong, error, message in (
        ({"max_turn": 3}, TypeError, "max_turn"),
        ({"tasks": []}, TaskError, "at least one task"),
        ({"render_mode": "gif"}, ValueError, "'gif'"),
        ({"config": SessionConfig(), "budget": "tiny"}, TypeError, "either config"),
    ):
        with pytest.raises(error, match=message):
            seeker_answerer.env(**make_arguments(minute_video, **wrong))
    config = SessionConfig(budget="tiny", prompts=Prompts(system="Find it."))
    env = seeker_answerer.env(tasks=make_tasks(minute_video), config=config)
    env.reset(seed=0)
    assert env.infos[SEEKER]["system_prompt"] == "Find it."


def test_renderings_follow_the_game(minute_video: Path) -> None:
    env = seeker_answerer.env(**make_arguments(minute_video, render_mode="rgb_array"))
    env.reset(seed=0)
    pictures = [env.render()]
    for reply in (crop_reply(1, 5), crop_reply(9, 15), DONE, answer_reply("B")):
        env.step(reply)
        pictures.append(env.render())
    assert len({picture.tobytes() for picture in pictures}) == 5
    env.unwrapped.render_mode = "ansi"
    assert "ended: answered" in env.render()
    env.unwrapped.render_mode = None
    assert env.render() is None
