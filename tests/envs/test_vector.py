from __future__ import annotations

import copy
import dataclasses
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics, TransformReward
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.vector import VideoSeekVectorEnv
from rewards import Reward, TrajectoryGuidedReward
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from tests.synthetic_video import write_video
from videoseek_env.env import VideoSeekEnv
from videoseek_env.errors import ConfigError, EpisodeError, TaskError, VideoDecodeError
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory
from videoseek_env.video import ClipCache

TINY = SessionConfig(budget="tiny", max_turns=3)
MODES = list(AutoresetMode)
NOTHING = "no action at all"
REPLIES = [
    crop_reply(1, 5),
    crop_reply(10, 40, "coarse"),
    "<grounding>{}</grounding>",
    answer_reply("B"),
    "<think>é🎬</think><answer>A</answer>",
    NOTHING,
]


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def cache() -> ClipCache:
    """Decodes once for all tests that don't count decodes."""
    return ClipCache(2**26)


@pytest.fixture
def make(tasks: list[VideoTask], cache: ClipCache) -> Iterator[Callable[..., VideoSeekVectorEnv]]:
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


def make_sync(
    tasks: list[VideoTask], cache: ClipCache, num_envs: int = 3, **arguments: Any
) -> SyncVectorEnv[Any, Any]:
    def make_one() -> VideoSeekEnv:
        return VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=TINY, cache=cache)

    return SyncVectorEnv([make_one] * num_envs, **arguments)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal in types, shapes and values, all the way down."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert set(ours) == set(theirs)
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, tuple | list):
        assert len(ours) == len(theirs)
        for left, right in zip(ours, theirs, strict=True):
            assert_same(left, right)
    elif isinstance(ours, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if ours.dtype == object:
            assert_same(ours.tolist(), theirs.tolist())
        else:
            np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs


def mask_of(*indices: int, num_envs: int = 3) -> np.ndarray[Any, Any]:
    mask = np.zeros(num_envs, np.bool_)
    mask[list(indices)] = True
    return mask


def play(
    vector: VectorEnv[Any, Any, Any], steps: Sequence[tuple[str, ...]], seed: int
) -> list[Any]:
    """All that a vector environment returns; where nothing resets by itself, a mask does."""
    seen: list[Any] = [vector.reset(seed=seed)]
    for replies in steps:
        seen.append(vector.step(replies))
        ended = seen[-1][2] | seen[-1][3]
        if vector.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            seen.append(vector.reset(seed=seed + 7, options={"reset_mask": ended}))
    return seen


@settings(max_examples=40)
@given(
    mode=st.sampled_from(MODES),
    steps=st.lists(st.tuples(*[st.sampled_from(REPLIES)] * 3), min_size=1, max_size=6),
    seed=st.integers(0, 100),
)
def test_everything_is_as_sync_vector_env_returns_it(
    tasks: list[VideoTask],
    cache: ClipCache,
    mode: AutoresetMode,
    steps: list[tuple[str, ...]],
    seed: int,
) -> None:
    theirs = make_sync(tasks, cache, autoreset_mode=mode)
    ours = VideoSeekVectorEnv(
        3, tasks, TrajectoryGuidedReward(), config=TINY, cache=cache, autoreset_mode=mode
    )
    assert_same(play(ours, steps, seed), play(theirs, steps, seed))
    ours.close()
    theirs.close()


def test_attributes_are_those_of_sync_vector_env(
    make: Callable[..., VideoSeekVectorEnv], tasks: list[VideoTask], cache: ClipCache
) -> None:
    ours, theirs = make(autoreset_mode="SameStep"), make_sync(tasks, cache)
    theirs.metadata["autoreset_mode"] = AutoresetMode.SAME_STEP
    for name in (
        "num_envs",
        "metadata",
        "render_mode",
        "single_observation_space",
        "observation_space",
        "single_action_space",
        "action_space",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    for vector in (ours, theirs):
        vector.reset(seed=[3, 1, 4])
    assert ours.np_random_seed == theirs.np_random_seed == (3, 1, 4)
    assert [generator.random() for generator in ours.np_random] == [
        generator.random() for generator in theirs.np_random
    ]


@pytest.fixture
def vector_id() -> Iterator[str]:
    """An id of the test's own, made as the library's is."""
    entry = "videoseek_env.entry:make_video_seek"
    gymnasium.register("VectorTest-v0", entry, vector_entry_point=f"{entry}_vector")
    yield "VectorTest-v0"
    del gymnasium.registry["VectorTest-v0"]


def test_make_vec_gives_texts_that_change_with_every_step(
    vector_id: str, tasks: list[VideoTask]
) -> None:
    """`AsyncVectorEnv` with its default arguments freezes any `Text` at '000..'."""
    vector = gymnasium.make_vec(vector_id, num_envs=2, tasks=tasks, budget="tiny")
    assert isinstance(vector, VideoSeekVectorEnv)
    observations, _ = vector.reset(seed=0)
    assert observations in vector.observation_space
    for text in observations["text"]:
        assert "Which digit does the red card show?" in text
    observations, *_ = vector.step((crop_reply(1, 5), crop_reply(2, 9)))
    assert observations in vector.observation_space
    assert "from 1.0 s to 5.0 s" in observations["text"][0]
    assert "from 2.0 s to 9.0 s" in observations["text"][1]
    observations, rewards, *_ = vector.step(("<think>é🎬</think><answer>B</answer>", NOTHING))
    assert observations["text"] == (
        "The episode is over: answered.",
        "The episode is over: no_action.",
    )
    # accuracy 1, format 1 and the bonus for a crop that overlaps no clue; nothing
    assert rewards[0] >= 2 and rewards[1] == 0
    vector.close()


def test_make_vec_takes_the_rules_of_an_episode_and_the_vector_environments_own_arguments(
    vector_id: str, tasks: list[VideoTask]
) -> None:
    vector = gymnasium.make_vec(
        vector_id, num_envs=2, tasks=tasks, max_turns=2, autoreset_mode="SameStep", workers=1
    )
    assert isinstance(vector, VideoSeekVectorEnv)
    assert vector.get_attr("config") == (SessionConfig(max_turns=2),) * 2
    assert (vector.autoreset_mode, vector.workers) == (AutoresetMode.SAME_STEP, 1)
    assert vector.spec is not None
    again = gymnasium.make_vec(vector.spec)
    assert isinstance(again, VideoSeekVectorEnv)
    assert again.num_envs == 2 and again.get_attr("config") == vector.get_attr("config")
    with pytest.raises(TypeError, match=r"max_turn.*max_turns"):
        gymnasium.make_vec(vector_id, tasks=tasks, max_turn=2)
    with pytest.raises(TypeError, match="either config or its fields"):
        gymnasium.make_vec(vector_id, tasks=tasks, config=TINY, max_turns=2)


def test_async_vector_env_refuses_to_freeze_the_texts_of_an_episode(
    tasks: list[VideoTask],
) -> None:
    def make_one() -> VideoSeekEnv:
        return VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=TINY)

    with pytest.raises(ValueError, match="shared_memory=False"):
        AsyncVectorEnv([make_one])


def test_async_vector_env_without_shared_memory_returns_the_same(
    make: Callable[..., VideoSeekVectorEnv], tasks: list[VideoTask], cache: ClipCache
) -> None:
    def make_one() -> VideoSeekEnv:
        return VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=TINY, cache=cache)

    steps = [(REPLIES[0], REPLIES[3], REPLIES[2]), (REPLIES[4], REPLIES[0], REPLIES[1])]
    theirs: AsyncVectorEnv[Any, Any] = AsyncVectorEnv([make_one] * 3, shared_memory=False)
    assert_same(play(make(), steps, 5), play(theirs, steps, 5))
    theirs.close()


def test_a_clip_is_decoded_once_for_all(make: Callable[..., VideoSeekVectorEnv]) -> None:
    vector = make(4, cache=None, workers=4)
    vector.reset(options={"task_id": "task-0"})
    vector.step([crop_reply(1, 5)] * 4)
    # an overview and a crop are decoded, and three more environments get each
    assert (vector.cache.stats.misses, vector.cache.stats.hits) == (2, 6)


def test_a_subset_steps_as_its_environments_would_alone(
    make: Callable[..., VideoSeekVectorEnv], tasks: list[VideoTask], cache: ClipCache
) -> None:
    vector = make()
    alone = [
        VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=TINY, cache=cache) for _ in range(3)
    ]
    started = vector.reset_subset({2: {"task_id": "task-4"}, 0: {"task_id": "task-1"}})
    assert list(started) == [2, 0]
    assert_same(started[2], alone[2].reset(options={"task_id": "task-4"}))
    assert_same(started[0], alone[0].reset(options={"task_id": "task-1"}))
    rounds: list[Mapping[Any, str]] = [
        {2: crop_reply(1, 5)},
        {0: crop_reply(3, 9), 2: crop_reply(1, 6)},
        {np.int64(0): answer_reply("B")},
        {2: answer_reply("A")},
        {},
    ]
    for actions in rounds:
        stepped = vector.step_subset(actions)
        assert list(stepped) == list(actions)
        for index, action in actions.items():
            assert_same(stepped[index], alone[index].step(action))
    with pytest.raises(EpisodeError, match="no episode yet"):
        vector.step_subset({1: NOTHING})


@pytest.mark.parametrize("mode", MODES)
def test_the_autoreset_mode_holds_for_each_environment_of_a_subset(
    make: Callable[..., VideoSeekVectorEnv], mode: AutoresetMode
) -> None:
    vector = make(autoreset_mode=mode)
    vector.reset(seed=0)
    ended = vector.step_subset({1: answer_reply("B")})[1]
    assert ended[1:4] == (2.0, True, False)
    info = ended[4].get("final_info", ended[4])
    assert info["end_reason"] == "answered"
    assert ("final_obs" in ended[4]) == (mode is AutoresetMode.SAME_STEP)
    assert ("system_prompt" in ended[4]) == (mode is AutoresetMode.SAME_STEP)
    if mode is AutoresetMode.DISABLED:
        with pytest.raises(EpisodeError, match=r"the episode is over; call reset\(\) first"):
            vector.step_subset({1: crop_reply(1, 5)})
        return
    following = vector.step_subset({1: crop_reply(1, 5)})[1]
    assert following[1:4] == (0.0, False, False)
    assert following[4]["turns"] == (0 if mode is AutoresetMode.NEXT_STEP else 1)
    assert vector.step_subset({0: crop_reply(1, 5)})[0][4]["turns"] == 1


def test_a_masked_reset_shows_the_last_observation_of_the_others(
    make: Callable[..., VideoSeekVectorEnv],
) -> None:
    vector = make(autoreset_mode="Disabled")
    vector.reset(options={"task_id": "task-0"})
    shown, *_ = vector.step([crop_reply(1, 5), crop_reply(1, 5), NOTHING])
    expected = copy.deepcopy(shown)
    for frames in shown["frames"]:
        frames[:] = 7  # the caller's own
    options = {"reset_mask": mask_of(1), "task_ids": [None, "task-5", None]}
    again, infos = vector.reset(options=options)
    assert infos["_task_id"].tolist() == [False, True, False]
    assert infos["task_id"][1] == "task-5"
    for key in ("text", "frames", "timestamps"):
        assert_same(again[key][::2], expected[key][::2])
    # the taller video lasts half a minute; the last of its 150 frames is shown at 29.8 s
    assert again["timestamps"][1][-1] <= 29.8
    assert set(options) == {"reset_mask", "task_ids"}


def test_clips_of_one_batch_may_differ_in_length_and_size(
    make: Callable[..., VideoSeekVectorEnv],
) -> None:
    vector = make()
    vector.reset(options={"task_ids": ["task-0", "task-4", "task-0"]})
    observations, *_ = vector.step([crop_reply(1, 5), crop_reply(1, 5), "<grounding>{}"])
    assert observations in vector.observation_space
    wide, tall, none = (frames.shape for frames in observations["frames"])
    assert wide[2] > wide[1] and tall[1] > tall[2] and none == (0, 0, 0, 3)


@pytest.mark.parametrize(
    ("seed", "seeds"),
    [(5, (5, 6, 7)), (np.int64(5), (5, 6, 7)), ([9, 2, 9], (9, 2, 9)), (0, (0, 1, 2))],
)
def test_seeds_are_those_of_single_environments(
    make: Callable[..., VideoSeekVectorEnv], tasks: list[VideoTask], seed: Any, seeds: Any
) -> None:
    vector = make()
    drawn = vector.reset(seed=seed)[1]["task_id"].tolist()
    again = vector.reset()[1]["task_id"].tolist()
    alone = [VideoSeekEnv(tasks, TrajectoryGuidedReward(), config=TINY) for _ in seeds]
    assert drawn == [
        env.reset(seed=own)[1]["task_id"] for env, own in zip(alone, seeds, strict=True)
    ]
    assert again == [env.reset()[1]["task_id"] for env in alone]


def test_tasks_can_be_pinned_for_all_or_for_each(make: Callable[..., VideoSeekVectorEnv]) -> None:
    vector = make()
    _, infos = vector.reset(seed=3, options={"task_id": "task-2"})
    assert infos["task_id"].tolist() == ["task-2"] * 3
    drawn = vector.reset(seed=3)[1]["task_id"].tolist()
    pinned = {"task_ids": ("task-4", None, "task-4")}
    assert vector.reset(seed=3, options=pinned)[1]["task_id"].tolist() == [
        "task-4",
        drawn[1],
        "task-4",
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"seed": [1, 2]}, ConfigError, "expected 3 seeds, one per environment, got 2"),
        ({"options": {"task_id": "no-such"}}, TaskError, "no task 'no-such'"),
        ({"options": {"taskid": "task-1"}}, TaskError, "unknown reset options"),
        ({"options": {"task_ids": ["task-1"]}}, ConfigError, "expected 3 task_ids"),
        ({"options": {"task_ids": "abc"}}, ConfigError, "task_ids as a sequence"),
        (
            {"options": {"task_ids": [None] * 3, "task_id": "task-1"}},
            ConfigError,
            "either task_id, or task_ids",
        ),
        ({"options": {"reset_mask": [True] * 3}}, TypeError, "array of bool"),
        ({"options": {"reset_mask": np.ones(3)}}, TypeError, "array of bool"),
        ({"options": {"reset_mask": np.ones(2, np.bool_)}}, ConfigError, r"shape \(3,\)"),
        ({"options": {"reset_mask": np.zeros(3, np.bool_)}}, ConfigError, "at least one"),
    ],
)
def test_wrong_resets_are_errors(
    make: Callable[..., VideoSeekVectorEnv],
    arguments: dict[str, Any],
    error: type[Exception],
    match: str,
) -> None:
    with pytest.raises(error, match=match):
        make().reset(**arguments)


def test_wrong_actions_are_errors_that_change_nothing(
    make: Callable[..., VideoSeekVectorEnv],
) -> None:
    vector = make()
    with pytest.raises(EpisodeError, match="no episode yet"):
        vector.step([NOTHING] * 3)
    vector.reset(seed=0)
    with pytest.raises(ConfigError, match="expected 3 replies, one per environment, got 2"):
        vector.step([NOTHING] * 2)
    with pytest.raises(TypeError, match="sequence of 3 replies, got str"):
        vector.step("abc")
    with pytest.raises(TypeError, match="use step_subset"):
        vector.step({0: NOTHING})  # type: ignore[arg-type]
    for index in (3, -1):
        with pytest.raises(IndexError, match="there are 3, from 0"):
            vector.step_subset({0: NOTHING, index: NOTHING})
    with pytest.raises(TypeError, match="interpreted as an integer"):
        vector.reset_subset({0.0: None})  # type: ignore[dict-item]
    assert vector.call("session")[0].trajectory.turns == ()
    with pytest.raises(TypeError, match="an action is a string, got int") as caught:
        vector.step([crop_reply(1, 5), 3, crop_reply(1, 5)])  # type: ignore[list-item]
    assert caught.value.__notes__ == ["in environment 1; failed in all: [1]"]
    assert [len(session.trajectory.turns) for session in vector.call("session")] == [1, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"num_envs": 0}, ConfigError, "at least 1, got 0"),
        ({"workers": 0}, ConfigError, "at least 1, got 3 and 0"),
        ({"render_mode": "human"}, ConfigError, "share a window"),
        ({"render_mode": "gif"}, ValueError, "'gif'"),
        ({"autoreset_mode": "never"}, ValueError, "'never'"),
        ({"tasks": []}, TaskError, "at least one task"),
    ],
)
def test_wrong_settings_are_errors(
    make: Callable[..., VideoSeekVectorEnv],
    arguments: dict[str, Any],
    error: type[Exception],
    match: str,
) -> None:
    with pytest.raises(error, match=match):
        make(**arguments)


def copy_of(task: VideoTask, folder: Path) -> VideoTask:
    path = folder / "copy.mp4"
    path.write_bytes(Path(task.video).read_bytes())
    return dataclasses.replace(task, id="copy", video=str(path))


@pytest.mark.parametrize("mode", MODES)
def test_a_video_that_fails_ends_the_episode_of_its_environment_alone(
    make: Callable[..., VideoSeekVectorEnv],
    tasks: list[VideoTask],
    tmp_path: Path,
    mode: AutoresetMode,
) -> None:
    copied = copy_of(tasks[0], tmp_path)
    vector = make(tasks=[tasks[0], copied], autoreset_mode=mode)
    # a seed with which an automatic reset draws the first task, whose video is there
    seed = next(seed for seed in range(99) if np_random(seed)[0].integers(2) == 0)
    vector.reset(seed=[seed] * 3, options={"task_ids": ["task-0", "copy", "task-0"]})
    Path(copied.video).unlink()
    replies = [crop_reply(1, 5)] * 3
    observations, rewards, terminations, truncations, infos = vector.step(replies)
    assert terminations.tolist() == [False] * 3
    assert truncations.tolist() == [False, True, False]
    assert rewards.tolist() == [0.0] * 3
    final = infos["final_info"] if mode is AutoresetMode.SAME_STEP else infos
    assert final["end_reason"][1] == "video_failed"
    assert "copy.mp4: it is gone" in final["error"][1]
    assert final["trajectory"][1].end_reason == "video_failed"
    assert "from 1.0 s to 5.0 s" in observations["text"][0]
    following = vector.step_subset(dict.fromkeys((0, 2), answer_reply("B")))
    assert [following[index][2] for index in (0, 2)] == [True, True]


def test_a_video_that_cannot_be_opened_is_raised_once_the_others_are_reset(
    make: Callable[..., VideoSeekVectorEnv], tasks: list[VideoTask], tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_text("not a video")
    broken = dataclasses.replace(tasks[0], id="broken", video=str(tmp_path / "broken.mp4"))
    vector = make(tasks=[tasks[0], broken])
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4") as caught:
        vector.reset(options={"task_ids": ["broken", "task-0", "broken"]})
    assert caught.value.__notes__ == ["in environment 0; failed in all: [0, 2]"]
    assert vector.step_subset({1: answer_reply("B")})[1][2]
    with pytest.raises(EpisodeError, match="no episode yet"):
        vector.step_subset({0: NOTHING})
    options = {"reset_mask": mask_of(0, 2), "task_id": "task-0"}
    assert all(vector.reset(options=options)[0]["text"])


def test_a_reward_that_raises_leaves_every_episode_intact(
    make: Callable[..., VideoSeekVectorEnv],
) -> None:
    failures = [ZeroDivisionError("once")]

    def fragile(trajectory: Trajectory) -> Reward:
        if trajectory.answer == "C" and failures:
            raise failures.pop()
        return Reward(1.0)

    vector = make(reward=fragile)
    vector.reset(seed=0)
    with pytest.raises(ZeroDivisionError) as caught:
        vector.step([crop_reply(1, 5), answer_reply("C"), crop_reply(1, 5)])
    assert caught.value.__notes__ == ["in environment 1; failed in all: [1]"]
    _, rewards, terminations, *_ = vector.step([answer_reply("A"), "", answer_reply("A")])
    assert (rewards.tolist(), terminations.tolist()) == ([1.0] * 3, [True] * 3)


def test_as_many_environments_work_at_the_same_time_as_there_are_workers(
    make: Callable[..., VideoSeekVectorEnv],
) -> None:
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


def test_the_outcome_does_not_depend_on_threads(make: Callable[..., VideoSeekVectorEnv]) -> None:
    def late(trajectory: Trajectory) -> Reward:
        time.sleep(0.002 * (trajectory.task.id in ("task-0", "task-2")))
        return TrajectoryGuidedReward()(trajectory)

    steps = [tuple(REPLIES[(number + index) % 6] for index in range(6)) for number in range(8)]
    seen = [play(make(6, workers=n, reward=late, cache=None), steps, 11) for n in (1, 2, 6)]
    assert_same(seen[1], seen[0])
    assert_same(seen[2], seen[0])


def test_threads_can_step_environments_of_their_own(
    make: Callable[..., VideoSeekVectorEnv],
) -> None:
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


def test_a_closed_vector_environment_says_so(make: Callable[..., VideoSeekVectorEnv]) -> None:
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


def test_closing_lets_running_steps_finish_and_begins_no_other(
    make: Callable[..., VideoSeekVectorEnv],
) -> None:
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


def test_attributes_and_methods_of_the_environments(
    make: Callable[..., VideoSeekVectorEnv],
) -> None:
    vector = make(render_mode="rgb_array")
    vector.reset(seed=0)
    pictures = vector.render()
    assert [picture.ndim for picture in pictures] == [3] * 3
    assert vector.get_attr("render_mode") == ("rgb_array",) * 3
    vector.set_attr("render_mode", "ansi")
    assert all(isinstance(text, str) for text in vector.render())
    vector.set_attr("render_mode", ["ansi", "rgb_array", None])
    assert [type(picture) for picture in vector.call("render")] == [str, np.ndarray, type(None)]
    with pytest.raises(ConfigError, match="expected 3 values"):
        vector.set_attr("render_mode", [None])
    with pytest.raises(AttributeError, match="no_such"):
        vector.get_attr("no_such")


@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_wrappers_record_the_same_statistics(
    make: Callable[..., VideoSeekVectorEnv],
    tasks: list[VideoTask],
    cache: ClipCache,
    mode: AutoresetMode,
) -> None:
    steps = [tuple(REPLIES[(number + 2 * index) % 6] for index in range(3)) for number in range(6)]
    seen = []
    for vector in (make(autoreset_mode=mode), make_sync(tasks, cache, autoreset_mode=mode)):
        recorder = RecordEpisodeStatistics(vector)
        for step in play(recorder, steps, 3):
            step[-1].get("episode", {}).pop("t", None)
            seen.append(step[-1])
        seen.append([list(recorder.return_queue), list(recorder.length_queue)])
    half = len(seen) // 2
    if mode is AutoresetMode.DISABLED:
        # `SyncVectorEnv` takes the mask out of the options, so that the recorder never sees it
        # and counts on; ours leaves them alone. Episodes are two to three steps long.
        assert set(seen[half - 1][1]) <= {1, 2, 3}
    else:
        assert_same(seen[:half], seen[half:])


def test_other_wrappers_of_gymnasium_run(make: Callable[..., VideoSeekVectorEnv]) -> None:
    vector = DictInfoToList(TransformReward(make(), lambda rewards: rewards * 10))
    vector.reset(seed=0)
    _, rewards, *_, infos = vector.step([answer_reply("B"), answer_reply("A"), crop_reply(1, 5)])
    # accuracy and format; format alone; not over
    assert rewards.tolist() == [20.0, 10.0, 0.0]
    assert [info["turns"] for info in infos] == [1, 1, 1]
    assert ["end_reason" in info for info in infos] == [True, True, False]
