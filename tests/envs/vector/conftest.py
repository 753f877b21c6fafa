from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from envs.vector import VideoSeekVectorEnv
from rewards import TrajectoryGuidedReward
from tests.envs.vector.batches import TINY, Make
from tests.sample_trajectories import make_task
from tests.synthetic_video import write_video
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache


@pytest.fixture(scope="session")
def tasks(minute_video: Path, tmp_path_factory: pytest.TempPathFactory) -> list[VideoTask]:
    """Tasks 0 to 3 about the minute, 4 and 5 about a taller video of half a minute."""
    tall = tmp_path_factory.mktemp("tall") / "tall.mp4"
    write_video(tall, 150, fps=5, height=192, width=64)
    return [
        dataclasses.replace(
            make_task(), id=f"task-{number}", video=str(minute_video if number < 4 else tall)
        )
        for number in range(6)
    ]


@pytest.fixture(scope="session")
def cache() -> ClipCache:
    """Decodes once for all tests that don't count decodes."""
    return ClipCache(2**26)


@pytest.fixture
def make(tasks: list[VideoTask], cache: ClipCache) -> Iterator[Make]:
    made = []

    def make_vector(num_envs: int = 3, **arguments: Any) -> VideoSeekVectorEnv:
        defaults: dict[str, Any] = {
            "tasks": tasks,
            "reward": TrajectoryGuidedReward(),
            "config": TINY,
            "cache": cache,
        }
        made.append(VideoSeekVectorEnv(num_envs, **(defaults | arguments)))
        return made[-1]

    yield make_vector
    for vector in made:
        vector.close()
