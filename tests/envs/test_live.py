from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import SyncVectorEnv

from envs.live import (
    LiveConfig,
    LiveTrajectory,
    LiveVideoSeekEnv,
    StreamConfig,
    StreamFeed,
    TimelyReward,
    make_video_seek_live,
    write_wait,
)
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from tests.synthetic_video import read_barcodes, remux, write_video
from videoseek_env.errors import VideoDecodeError
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache


def make_tasks(path: Path, count: int = 4) -> list[VideoTask]:
    return [
        dataclasses.replace(make_task(), id=f"task-{number}", video=str(path))
        for number in range(count)
    ]


def make_env(path: Path, **arguments: Any) -> LiveVideoSeekEnv:
    return make_video_seek_live(make_tasks(path), **{"budget": "tiny"} | arguments)


def test_gymnasium_checks_the_environment_without_a_warning(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gymnasium.make("VideoSeekLive-v0", tasks=make_tasks(minute_video), budget="tiny")
    check_env(env.unwrapped, skip_render_check=importlib.util.find_spec("pygame") is None)
    env.close()


def test_an_episode_pays_by_the_delay_and_tells_it_at_its_end(minute_video: Path) -> None:
    env = make_env(minute_video, reward=TimelyReward(patience_seconds=10.0))
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert (info["now_seconds"], info["waited_seconds"]) == (0.0, 0.0)
    assert "<wait>" in info["system_prompt"]
    observation, reward, terminated, truncated, info = env.step(write_wait("", 29))
    assert observation in env.observation_space
    assert len(observation["frames"]) == 14  # 30 s at 0.5 fps are 15, so 14
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["now_seconds"], info["waited_seconds"]) == (30.0, 29.0)
    assert info["malformed_replies"] == 0
    assert "delay_seconds" not in info
    _, reward, terminated, truncated, info = env.step(answer_reply("B"))
    # Right and in form without a crop: 2, eleven seconds after the clue's end: exp(-1.1).
    assert reward == pytest.approx(2 * math.exp(-1.1))
    assert (terminated, truncated, info["end_reason"]) == (True, False, "answered")
    assert (info["delay_seconds"], info["reward_parts"]["base"]) == (11.0, 2.0)
    assert isinstance(info["trajectory"], LiveTrajectory)


def test_no_answer_in_time_is_truncation_without_reward(minute_video: Path) -> None:
    env = make_env(minute_video, live=LiveConfig(grace_seconds=2.0))
    env.reset(seed=0)
    env.step(write_wait("", 60))
    _, reward, terminated, truncated, info = env.step(write_wait("", 60))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["end_reason"] == "turns_exhausted"


def test_the_same_seed_and_replies_give_the_same_observations(minute_video: Path) -> None:
    def play(seed: int) -> list[Any]:
        env = make_env(minute_video)
        first = env.reset(seed=seed)
        steps = [env.step(reply) for reply in (write_wait("", 7), crop_reply(1, 5))]
        return [first[0], first[1]["task_id"], *(step[0] for step in steps)]

    assert data_equivalence(play(3), play(3))


def test_a_new_episode_begins_at_zero(minute_video: Path) -> None:
    env = make_env(minute_video)
    env.reset(seed=0)
    env.step(write_wait("", 30))
    _, info = env.reset(options={"task_id": "task-1"})
    assert (info["now_seconds"], info["waited_seconds"], info["turns"]) == (0.0, 0.0, 0)
    assert len(env.session.trajectory.turns) == 0


def test_members_of_a_group_share_what_was_decoded(minute_video: Path) -> None:
    cache = ClipCache(2**24)
    for _ in range(3):
        env = make_env(minute_video, cache=cache)
        env.reset(options={"task_id": "task-0"})
        env.step(write_wait("", 9))
    assert (cache.stats.misses, cache.stats.hits) == (2, 4)


def test_renderings_show_the_episode_so_far(minute_video: Path) -> None:
    env = make_env(minute_video, render_mode="rgb_array")
    env.reset(seed=0)
    pictures = [env.render()]
    env.step(write_wait("", 30))
    pictures.append(env.render())
    assert not np.array_equal(pictures[0], pictures[1])  # type: ignore[arg-type]
    env.render_mode = "ansi"
    assert "Waits 30 s." in str(env.render())


def test_vector_environments(minute_video: Path) -> None:
    vector = SyncVectorEnv([lambda: make_env(minute_video)] * 2)
    vector.reset(seed=0)
    observations, rewards, terminations, _, infos = vector.step(
        (write_wait("", 5), answer_reply("B"))
    )
    assert rewards.tolist() == [0.0, 2.0]
    assert terminations.tolist() == [False, True]
    assert observations["text"][0].startswith("Update:")
    assert infos["now_seconds"].tolist() == [6.0, 1.0]
    vector.close()


def test_rules_come_as_fields_and_unknown_ones_are_errors(minute_video: Path) -> None:
    env = make_env(minute_video, max_turns=3)
    assert (env.config.max_turns, env.config.max_clips) == (3, 64)
    with pytest.raises(TypeError, match="max_turn"):
        make_env(minute_video, max_turn=3)
    with pytest.raises(TypeError, match="either config or its fields"):
        make_env(minute_video, config=SessionConfig())


def test_the_id_makes_an_environment_with_a_default_set_of_needle_tasks() -> None:
    env = gymnasium.make("VideoSeekLive-v0")
    _, info = env.reset(seed=0)
    assert info["task_id"].startswith("needle")
    observation, *_ = env.step(write_wait("", 9))
    assert len(observation["frames"]) == 4
    env.close()


@pytest.fixture(scope="module")
def transport_stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s at 10 frames per second, a keyframe every 2 s at least."""
    folder = tmp_path_factory.mktemp("live")
    return remux(write_video(folder / "v.mp4", 200, fps=10, gop_frames=20), folder / "v.ts")


def receive(task: VideoTask) -> StreamFeed:
    """A file by its URL is a stream that ends where the file ends."""
    return StreamFeed(f"file://{task.video}", StreamConfig(segment_seconds=4.0))


def test_an_episode_over_a_received_stream(transport_stream: Path) -> None:
    env = make_env(transport_stream, open_feed=receive, budget="laptop")
    observation, _ = env.reset(seed=0)
    while "has ended" not in observation["text"]:
        observation, *_, info = env.step(write_wait("", 30))
        assert info["waited_seconds"] <= info["now_seconds"]
    observation, *_, info = env.step(crop_reply(10, 12))
    assert read_barcodes(observation["frames"]) == [100, 107, 113, 120]
    _, reward, terminated, _, info = env.step(answer_reply("B"))
    assert terminated and info["end_reason"] == "answered"
    assert 0 < reward < 3
    env.close()


@pytest.fixture
def broken_stream(transport_stream: Path, tmp_path: Path) -> Path:
    path = tmp_path / "twice.ts"
    path.write_bytes(transport_stream.read_bytes() * 2)
    return path


def test_a_stream_that_breaks_off_ends_the_episode_by_name(broken_stream: Path) -> None:
    env = make_env(broken_stream, open_feed=receive)
    env.reset(seed=0)
    with pytest.raises(VideoDecodeError, match="times jump back"):
        for _ in range(5):
            env.step(write_wait("", 30))
    *_, terminated, truncated, info = env.step(answer_reply("B"))
    assert (terminated, truncated, info["end_reason"]) == (False, True, "video_failed")
    env.close()


def test_an_answer_needs_no_stream_any_more(broken_stream: Path) -> None:
    env = make_env(broken_stream, open_feed=receive)
    env.reset(seed=0)
    *_, info = env.step(answer_reply("B"))
    assert info["end_reason"] == "answered"
    env.close()


def test_each_episode_opens_its_feed_and_closes_the_one_before(transport_stream: Path) -> None:
    feeds: list[StreamFeed] = []

    def receive_and_note(task: VideoTask) -> StreamFeed:
        feeds.append(receive(task))
        return feeds[-1]

    env = make_env(transport_stream, open_feed=receive_and_note)
    for _ in range(2):
        env.reset(seed=0)
    with pytest.raises(VideoDecodeError, match="it was closed"):
        feeds[0].arrival()
    feeds[1].arrival()
    env.close()
    with pytest.raises(VideoDecodeError, match="it was closed"):
        feeds[1].arrival()
    assert len(feeds) == 2
