import copy
import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from hypothesis import HealthCheck, given, settings

from rewards import Reward, TrajectoryGuidedReward
from tests.hostile_replies import hostile_replies, random_hostile_replies
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from videoseek_env.budget import get_budget
from videoseek_env.env import VideoSeekEnv
from videoseek_env.errors import EpisodeError, TaskError, VideoDecodeError
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import ClipCache

TINY = SessionConfig(budget="tiny")


def make_tasks(path: Path, count: int = 4) -> list[VideoTask]:
    return [
        dataclasses.replace(make_task(), id=f"task-{number}", video=str(path))
        for number in range(count)
    ]


def make_env(path: Path, config: SessionConfig = TINY, **arguments: Any) -> VideoSeekEnv:
    return VideoSeekEnv(make_tasks(path), TrajectoryGuidedReward(), config=config, **arguments)


def test_gymnasium_checks_the_environment_without_a_warning(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    has_window = importlib.util.find_spec("pygame") is not None
    env = gymnasium.make(
        "VideoSeek-v0", tasks=make_tasks(minute_video), budget="tiny", render_mode=None
    )
    check_env(env.unwrapped, skip_render_check=not has_window)
    env.close()


def test_an_episode_pays_at_its_end_and_names_it(minute_video: Path) -> None:
    env = make_env(minute_video)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert info["task_id"].startswith("task-")
    assert "<grounding>" in info["system_prompt"]
    observation, reward, terminated, truncated, info = env.step(crop_reply(10, 20))
    assert observation in env.observation_space
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert "end_reason" not in info
    observation, reward, terminated, truncated, info = env.step(answer_reply("B"))
    assert observation in env.observation_space
    assert observation["frames"].shape == (0, 0, 0, 3)
    assert (reward, terminated, truncated) == (3.0, True, False)
    assert info["end_reason"] == "answered"
    assert info["reward_parts"]["bonus"] == 1.0
    assert info["trajectory"].answer == "B"
    assert info["turns"] == 2


@pytest.mark.parametrize(
    ("rules", "reply", "reason", "truncated"),
    [
        ({"max_turns": 1}, crop_reply(1, 5), "turns_exhausted", True),
        ({"max_clips": 1}, crop_reply(1, 5), "clips_exhausted", True),
        ({}, "nothing", "no_action", False),
        ({}, "x" * 10_000, "reply_cut", False),
    ],
)
def test_running_out_truncates_and_a_void_reply_terminates(
    minute_video: Path, rules: dict[str, int], reply: str, reason: str, truncated: bool
) -> None:
    env = make_env(minute_video, SessionConfig(budget="tiny", **rules))  # type: ignore[arg-type]
    env.reset(seed=0)
    *_, terminated, was_truncated, info = env.step(reply)
    assert (terminated, was_truncated) == (not truncated, truncated)
    assert info["end_reason"] == reason
    assert set(info["reward_parts"]) >= {"acc", "format", "bonus"}


def test_a_prompt_over_the_context_is_told_at_reset_and_ends_with_the_first_step(
    minute_video: Path,
) -> None:
    budget = dataclasses.replace(get_budget("tiny"), context_tokens=60, reserve_tokens=0)
    env = make_env(minute_video, SessionConfig(budget=budget))
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert info["end_reason"] == "prompt_too_long"
    *_, terminated, truncated, info = env.step(answer_reply("B"))
    assert (terminated, truncated) == (False, True)
    assert info["end_reason"] == "prompt_too_long"
    assert info["trajectory"].turns == ()


def test_the_same_seed_draws_the_same_tasks(minute_video: Path) -> None:
    def draw(seed: int) -> list[str]:
        env = make_env(minute_video)
        first = env.reset(seed=seed)[1]["task_id"]
        return [first, *(env.reset()[1]["task_id"] for _ in range(10))]

    assert draw(5) == draw(5)
    assert any(draw(5) != draw(seed) for seed in range(6, 10))
    assert len(set(draw(5))) > 1


def test_a_pinned_task_is_the_one_played(minute_video: Path) -> None:
    env = make_env(minute_video)
    for seed in range(5):
        _, info = env.reset(seed=seed, options={"task_id": "task-2"})
        assert info["task_id"] == "task-2"


@pytest.mark.parametrize("options", [{"task_id": "no-such"}, {"taskid": "task-1"}, {"task_id": 3}])
def test_wrong_options_are_errors(minute_video: Path, options: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match="task"):
        make_env(minute_video).reset(options=options)


def test_observations_are_fresh_and_writable(minute_video: Path) -> None:
    env = make_env(minute_video)
    first, _ = env.reset(options={"task_id": "task-1"})
    kept = copy.deepcopy(first)
    first["frames"][:] = 7
    first["timestamps"][:] = -1
    second, _ = env.reset(options={"task_id": "task-1"})
    assert not np.shares_memory(first["frames"], second["frames"])
    assert data_equivalence(second, kept)


def test_stepping_out_of_order_is_an_error(minute_video: Path) -> None:
    env = make_env(minute_video)
    with pytest.raises(EpisodeError, match="reset"):
        env.step("x")
    env.reset(seed=0)
    with pytest.raises(TypeError, match="an action is a string, got int"):
        env.step(3)  # type: ignore[arg-type]
    env.step(answer_reply("B"))
    with pytest.raises(EpisodeError, match="the episode is over"):
        env.step(answer_reply("B"))


@pytest.mark.parametrize("tasks", [[], [make_task(), make_task()]])
def test_no_tasks_or_equal_ids_are_errors(tasks: list[VideoTask]) -> None:
    with pytest.raises(TaskError, match="each with its own id"):
        VideoSeekEnv(tasks, TrajectoryGuidedReward())


def test_a_reward_that_raises_leaves_the_episode_scorable(minute_video: Path) -> None:
    failures = [ZeroDivisionError("once")]

    def fragile(trajectory: Trajectory) -> Reward:
        if failures:
            raise failures.pop()
        return Reward(1.0)

    env = VideoSeekEnv(make_tasks(minute_video), fragile, config=TINY)
    env.reset(seed=0)
    with pytest.raises(ZeroDivisionError):
        env.step(answer_reply("B"))
    assert env.step("")[1] == 1.0


def test_a_closed_environment_must_be_reset(minute_video: Path) -> None:
    env = make_env(minute_video)
    env.reset(seed=0)
    env.close()
    with pytest.raises(EpisodeError, match="reset"):
        env.step(answer_reply("B"))
    env.reset(seed=0)
    assert env.step(answer_reply("B"))[2]


def test_a_host_that_stops_the_episode_truncates_it(minute_video: Path) -> None:
    env = make_env(minute_video)
    env.reset(seed=0)
    env.session.abandon()
    *_, terminated, truncated, info = env.step(answer_reply("B"))
    assert (terminated, truncated, info["end_reason"]) == (False, True, "abandoned")


def test_an_unknown_render_mode_is_an_error(minute_video: Path) -> None:
    with pytest.raises(ValueError, match="'gif'"):
        make_env(minute_video, render_mode="gif")


def test_a_video_that_cannot_be_decoded_is_the_hosts_affair(
    minute_video: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    tasks = [*make_tasks(minute_video, 1), dataclasses.replace(make_task(), video=str(broken))]
    env = VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=TINY)
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4"):
        env.reset(options={"task_id": tasks[1].id})
    env.reset(options={"task_id": "task-0"})
    *_, info = env.step(answer_reply("B"))
    assert info["end_reason"] == "answered"


def test_any_reward_function_plugs_in(minute_video: Path) -> None:
    def length(trajectory: Trajectory) -> Reward:
        return Reward(float(len(trajectory.turns)), {"length": 1.0})

    env = VideoSeekEnv(make_tasks(minute_video), length, config=TINY)
    env.reset(seed=0)
    env.step(crop_reply(1, 5))
    _, reward, *_, info = env.step(answer_reply("A"))
    assert (reward, info["reward_parts"]) == (2.0, {"length": 1.0})


def test_environments_can_share_a_cache(minute_video: Path) -> None:
    cache = ClipCache(2**24)
    for _ in range(3):
        make_env(minute_video, cache=cache).reset(options={"task_id": "task-0"})
    assert (cache.stats.misses, cache.stats.hits) == (1, 2)


def test_renderings(minute_video: Path) -> None:
    env = make_env(minute_video, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(crop_reply(1, 5))
    second = env.render()
    env.step(answer_reply("B"))
    third = env.render()
    for picture in (first, second, third):
        assert isinstance(picture, np.ndarray) and picture.dtype == np.uint8
        assert picture.shape == first.shape  # type: ignore[union-attr]
    assert not np.array_equal(first, second)  # type: ignore[arg-type]
    env.render_mode = "ansi"
    assert "answered" in str(env.render())
    env.render_mode = None
    assert env.render() is None


def test_a_human_can_watch(minute_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame", reason="the window is an extra")
    monkeypatch.setitem(os.environ, "SDL_VIDEODRIVER", "dummy")
    env = make_env(minute_video, render_mode="human")
    env.reset(seed=0)
    env.step(crop_reply(1, 5))
    assert env.render() is None
    env.close()
    env.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_vector_environments(minute_video: Path, kind: str) -> None:
    factories = [lambda: make_env(minute_video)] * 2
    vector: SyncVectorEnv | AsyncVectorEnv = (
        SyncVectorEnv(factories)
        if kind == "sync"
        else AsyncVectorEnv(factories, shared_memory=False)
    )
    observations, _ = vector.reset(seed=0)
    assert observations in vector.observation_space
    replies = (crop_reply(1, 5), "<think>é🎬</think><answer>B</answer>")
    observations, rewards, terminations, _, infos = vector.step(replies)
    assert rewards.tolist() == [0.0, 2.0]
    assert terminations.tolist() == [False, True]
    assert "Crop: 8 frames from 1.0 s to 5.0 s" in observations["text"][0]
    assert observations["text"][1] == "The episode is over: answered."
    assert infos["end_reason"][1] == "answered"
    vector.close()


def play_all(env: VideoSeekEnv, replies: list[str]) -> set[str]:
    """Feed replies, starting a new episode whenever one ends; the endings that occurred."""
    endings = set()
    env.reset(seed=0, options={"task_id": "task-0"})
    for reply in replies:
        observation, reward, terminated, truncated, info = env.step(reply)
        assert observation in env.observation_space
        assert np.isfinite(reward)
        assert (terminated or truncated) == ("end_reason" in info)
        if terminated or truncated:
            endings.add(EndReason(info["end_reason"]).value)
            env.reset(options={"task_id": "task-0"})
    return endings


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(replies=hostile_replies())
def test_no_reply_breaks_an_episode(minute_video: Path, replies: list[str]) -> None:
    play_all(make_env(minute_video), replies)


def test_random_hostile_replies_meet_every_ending_that_a_reply_can_cause(
    minute_video: Path,
) -> None:
    env = make_env(minute_video, SessionConfig(budget="tiny", max_turns=5, max_clips=3))
    endings = play_all(env, list(random_hostile_replies(3000, np.random.default_rng(0))))
    assert endings >= {"answered", "no_action", "reply_cut", "turns_exhausted", "clips_exhausted"}
