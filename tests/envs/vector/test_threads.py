from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from envs.vector import VideoSeekVectorEnv
from rewards import Reward, TrajectoryGuidedReward
from tests.envs.vector.batches import NOTHING, REPLIES, TINY, Make, assert_same, play
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.errors import EpisodeError
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory


def test_as_many_environments_work_at_the_same_time_as_there_are_workers(make: Make) -> None:
    meeting = threading.Barrier(3)  # passes only when three rewards are called at the same time
    now, most, lock = [0], [0], threading.Lock()

    def counting(trajectory: Trajectory) -> Reward:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        meeting.wait(timeout=60)
        with lock:
            now[0] -= 1
        return Reward(1.0)

    vector = make(6, workers=3, reward=counting)
    vector.reset(options={"task_id": "task-0"})
    assert vector.step([answer_reply("B")] * 6)[1].tolist() == [1.0] * 6
    assert most == [3]


def test_the_outcome_does_not_depend_on_threads(make: Make) -> None:
    def late(trajectory: Trajectory) -> Reward:
        time.sleep(0.002 * (trajectory.task.id in ("task-0", "task-2")))
        return TrajectoryGuidedReward()(trajectory)

    steps = [tuple(REPLIES[(number + index) % 6] for index in range(6)) for number in range(8)]
    seen = [play(make(6, workers=n, reward=late, cache=None), steps, 11) for n in (1, 2, 6)]
    assert_same(seen[1], seen[0])
    assert_same(seen[2], seen[0])


def test_threads_can_step_environments_of_their_own(make: Make) -> None:
    vector = make(4, autoreset_mode="Disabled")

    def episode(index: int) -> list[int]:
        turns = []
        for number in range(10):
            vector.reset_subset({index: {"task_id": f"task-{number % 6}"}})
            vector.step_subset({index: crop_reply(1, 5 + index)})
            info = vector.step_subset({index: answer_reply("ABCD"[index])})[index][4]
            assert info["task_id"] == f"task-{number % 6}"
            assert info["trajectory"].answer == "ABCD"[index]
            turns.append(info["turns"])
        return turns

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(episode, range(4))) == [[2] * 10] * 4


def test_a_closed_vector_environment_says_so(make: Make) -> None:
    vector = make()
    vector.reset(seed=0)
    vector.close()
    vector.close()
    uses: list[Callable[[], object]] = [
        lambda: vector.step([NOTHING] * 3),
        lambda: vector.step_subset({0: NOTHING}),
        lambda: vector.reset(seed=0),
        lambda: vector.reset_subset({0: None}),
        lambda: vector.call("session"),
        lambda: vector.set_attr("render_mode", None),
        vector.render,
    ]
    for use in uses:
        with pytest.raises(EpisodeError, match="the vector environment is closed; make a new"):
            use()


def test_closing_lets_running_steps_finish_and_begins_no_other(make: Make) -> None:
    begun, may_end = threading.Event(), threading.Event()
    scored = []

    def slow(trajectory: Trajectory) -> Reward:
        begun.set()
        assert may_end.wait(60)
        scored.append(trajectory)
        return Reward(1.0)

    vector = make(2, workers=1, reward=slow)
    vector.reset(seed=0)
    with ThreadPoolExecutor(2) as pool:
        stepping = pool.submit(vector.step, [answer_reply("B")] * 2)
        assert begun.wait(60)
        closing = pool.submit(vector.close)
        while not vector.closed:
            time.sleep(0.001)
        assert not closing.done()
        may_end.set()
        closing.result(60)
        with pytest.raises(EpisodeError, match="closed") as caught:
            stepping.result(60)
    assert caught.value.__notes__ == ["in environment 1; failed in all: [1]"]
    assert len(scored) == 1


def test_nothing_is_left_of_one_that_is_forgotten(tasks: list[VideoTask]) -> None:
    threads = threading.active_count()
    vector = VideoSeekVectorEnv(3, tasks, TrajectoryGuidedReward(), config=TINY, workers=3)
    vector.reset(seed=0)
    vector.step([crop_reply(1, 5)] * 3)
    assert threading.active_count() == threads
    remains: list[weakref.ref[Any]] = [
        weakref.ref(vector),
        weakref.ref(vector.cache),
        weakref.ref(vector.envs[0]),
    ]
    del vector
    gc.collect()
    assert [remain() for remain in remains] == [None] * 3
