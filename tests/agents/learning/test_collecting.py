import dataclasses
import itertools
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agents.learning.collecting import (
    Collected,
    Collector,
    CollectorConfig,
    Experience,
    NothingPlayedError,
)
from agents.learning.episode_metrics import episode_metrics
from agents.llm.generation import Sampling
from agents.llm.hf_policy import HFPolicy
from agents.llm.model import VisionLanguageModel
from rewards import Reward
from tests.agents.hanging_video import hanging_frames
from tests.agents.learning.learners import SHORT, fresh_model, make_tasks, vowels
from videoseek_env.budget import TINY
from videoseek_env.errors import ConfigError, VideoDecodeError
from videoseek_env.session import Observation, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import ClipCache
from videoseek_env.video import cache as cache_module

MODEL = fresh_model()


class Fragile(HFPolicy):
    """Fails where its question says so, as often as told."""

    words = "nowhere"
    left = 0
    seeds: ClassVar[list[int | None]] = []

    def reset(self, *, seed: int | None = None) -> None:
        self.seeds.append(seed)
        super().reset(seed=seed)

    def act_together(
        self, policies: Sequence[Any], observations: Sequence[Observation]
    ) -> list[str]:
        is_met = any(self.words in observation.text for observation in observations)
        if is_met and type(self).left > 0:
            type(self).left -= len(observations) == 1
            raise RuntimeError("out of luck")
        return super().act_together(policies, observations)


def collector(
    tasks: Sequence[VideoTask], policy: Any = HFPolicy, **options: Any
) -> tuple[Collector, VisionLanguageModel]:
    fields = {"questions": 2, "group_size": 2, "batch_size": 8}
    names = ("process", "processes", "seed", "teaches", "make_session")
    others = {name: options.pop(name) for name in names if name in options}
    reward, session = options.pop("reward", vowels), options.pop("session", SHORT)
    found = Collector(
        lambda: policy(MODEL, sampling=Sampling(max_tokens=9)),
        tasks,
        CollectorConfig(**{**fields, **options}),
        session=MODEL.counting(session),
        reward=reward,
        cache=ClipCache(2**24),
        **others,
    )
    return found, MODEL


def questions(found: Collected) -> list[str]:
    return [one.trajectory.task.id for one in found.all_played]


def test_every_question_is_played_once_before_any_is_played_again(minute_video: Path) -> None:
    player, _ = collector(make_tasks(minute_video, 3), questions=6, group_size=1)
    first = player.collect(0, 0)
    second = player.collect(1, first.drawn)
    order = questions(first) + questions(second)
    assert first.drawn == second.drawn == 6
    epochs = [tuple(order[start : start + 3]) for start in range(0, 12, 3)]
    assert all(sorted(epoch) == ["task-0", "task-1", "task-2"] for epoch in epochs)
    assert len(set(epochs)) > 1  # each in another order


def test_a_step_is_played_the_same_again(minute_video: Path) -> None:
    (task,) = make_tasks(minute_video, 1)

    def play(step: int, first: int = 0, seed: int = 0) -> list[str]:
        player, _ = collector([task], seed=seed)
        return [one.trajectory.turns[0].reply for one in player.collect(step, first).all_played]

    assert play(0) == play(0)
    replies = [*play(0), *play(1), *play(0, first=2), *play(0, seed=1)]
    assert len(set(replies)) == len(replies) == 16


def test_groups_that_teach_nothing_are_replaced_by_other_questions(minute_video: Path) -> None:
    tasks = make_tasks(minute_video, 6)

    def teaches(group: Sequence[Experience]) -> bool:
        return group[0].trajectory.task.id in ("task-4", "task-5")

    player, _ = collector(tasks, teaches=teaches)
    found = player.collect(0, 0)
    # The two that differ are drawn among the first six.
    assert len({one.group for one in found.experiences}) == 2
    assert {one.trajectory.task.id for one in found.experiences} == {"task-4", "task-5"}
    assert found.drawn == 2 + found.uninformative_groups <= 6
    assert len(found.all_played) == 2 * found.drawn
    dropped = [one for one in found.all_played if one not in found.experiences]
    assert all(sample.clips for one in found.experiences for sample in one.samples)
    assert not any(sample.clips for one in dropped for sample in one.samples)


@pytest.mark.parametrize(
    ("teaching", "drawn"), [({0, 1, 2}, 3), ({0, 3, 4}, 5), ({0, 5}, 6), (set(), 6)]
)
def test_what_is_missing_is_drawn_again_up_to_the_limit(
    minute_video: Path, teaching: set[int], drawn: int
) -> None:
    player, _ = collector(
        make_tasks(minute_video),
        teaches=lambda group: group[0].group in teaching,
        questions=3,
        group_size=1,
        max_draws=2,
    )
    found = player.collect(0, 0)
    assert {one.group for one in found.experiences} == teaching
    assert len(found.all_played) == found.drawn == drawn
    assert found.uninformative_groups == drawn - len(teaching)


def test_an_episode_that_fails_once_is_played_again_with_another_seed(minute_video: Path) -> None:
    Fragile.words, Fragile.left = "red", 1
    Fragile.seeds.clear()
    player, _ = collector(make_tasks(minute_video, 2), Fragile)
    found = player.collect(0, 0)
    assert len(set(Fragile.seeds)) == len(Fragile.seeds) == 5
    assert found.failures == {"policy_failed": 1} and found.failed_groups == 0
    assert len(found.experiences) == 4 and all(len(one.samples) == 1 for one in found.experiences)


def test_an_episode_that_fails_twice_costs_its_group_and_is_counted(minute_video: Path) -> None:
    Fragile.words, Fragile.left = "red", 1000
    player, _ = collector(make_tasks(minute_video, 2), Fragile, max_draws=1)
    found = player.collect(0, 0)
    # Two episodes about something red, twice each.
    assert found.failures == {"policy_failed": 4} and found.failed_groups == 1
    assert {one.trajectory.task.id for one in found.experiences} == {"task-1"}
    failed = [one for one in found.all_played if one.error]
    assert {one.error for one in failed} == {"RuntimeError: out of luck"}
    assert {one.reward.value for one in failed} == {0.0}
    metrics = episode_metrics(found)
    assert metrics["failed/policy_failed"] == 4 and metrics["end/reply_cut"] == 1.0


def test_one_episode_that_fails_twice_costs_its_whole_group(minute_video: Path) -> None:
    begun = itertools.count()

    def make_session(*arguments: Any, cache: ClipCache) -> VideoSession:
        if next(begun) in (0, 3):  # one of three, and that one again
            raise VideoDecodeError("torn.mp4", "opencv", "it is torn", "Mend it.")
        return VideoSession(*arguments, cache=cache)

    player, _ = collector(
        make_tasks(minute_video, 1),
        make_session=make_session,
        questions=1,
        group_size=3,
        max_draws=1,
    )
    found = player.collect(0, 0)
    assert found.failures == {"video_failed": 2} and found.failed_groups == 1
    assert [one.error for one in found.all_played].count(None) == 2 and found.experiences == []


def test_a_reward_is_not_asked_about_episodes_that_failed(minute_video: Path) -> None:
    Fragile.words, Fragile.left = "red", 1000
    asked: list[EndReason | None] = []

    def reward(trajectory: Trajectory) -> Reward:
        asked.append(trajectory.end_reason)
        return vowels(trajectory)

    collector(make_tasks(minute_video, 2), Fragile, reward=reward)[0].collect(0, 0)
    assert asked and EndReason.POLICY_FAILED not in asked


def test_a_step_in_which_everything_fails_ends_the_run(minute_video: Path, tmp_path: Path) -> None:
    gone = [
        dataclasses.replace(task, video=str(tmp_path / "gone.mp4"))
        for task in make_tasks(minute_video)
    ]
    player, _ = collector(gone, max_draws=1)
    with pytest.raises(NothingPlayedError, match=r"each of 4 episodes of step 7 failed.*gone\.mp4"):
        player.collect(7, 0)


def test_a_budget_without_room_for_a_reply_ends_the_run(minute_video: Path) -> None:
    budget = dataclasses.replace(TINY, context_tokens=70)  # 64 are kept free
    session = dataclasses.replace(SHORT, budget=budget)
    player, _ = collector(make_tasks(minute_video), session=session, max_draws=1)
    with pytest.raises(NothingPlayedError, match="leave no room for a reply"):
        player.collect(0, 0)


def test_a_video_that_hangs_costs_its_group_and_the_step_goes_on(
    minute_video: Path, tmp_path: Path
) -> None:
    tasks = make_tasks(minute_video, 2)
    with hanging_frames(tmp_path / "frames") as folder:
        tasks[0] = dataclasses.replace(tasks[0], video=str(folder), frame_fps=2.0)
        player, _ = collector(tasks, timeout_seconds=2.0, max_draws=1)
        found = player.collect(0, 0)
    # Two episodes, played twice.
    assert found.failures == {"abandoned": 4} and found.failed_groups == 1
    assert {one.trajectory.task.id for one in found.experiences} == {"task-1"}
    assert all(
        "the video's first frames took" in one.error for one in found.all_played if one.error
    )


def test_a_video_that_hangs_takes_no_longer_for_a_large_group(
    minute_video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hanging_frames(tmp_path / "frames") as folder:
        task = dataclasses.replace(make_tasks(minute_video)[0], video=str(folder), frame_fps=2.0)
        player, _ = collector([task], timeout_seconds=0.5, max_draws=1, group_size=9, questions=1)
        with pytest.raises(NothingPlayedError, match="took too long for another episode"):
            player.collect(0, 0)
    waited = [one for one in caplog.messages if "took longer than 0.5 s" in one]
    assert len(waited) <= 4  # of 18: one for each of two threads, twice


def test_a_video_that_hangs_once_is_decoded_the_next_time(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, hang, calls = cache_module._decode, threading.Event(), itertools.count()

    def decode_later(*arguments: Any) -> Any:
        if next(calls) == 0:
            hang.wait()
        return decode(*arguments)

    monkeypatch.setattr(cache_module, "_decode", decode_later)
    player, _ = collector(
        make_tasks(minute_video, 1), timeout_seconds=1.0, questions=1, max_draws=1
    )
    try:
        found = player.collect(0, 0)
    finally:
        hang.set()
    assert found.failures["abandoned"] > 0 == found.failed_groups
    assert not any(one.error for one in found.all_played)


def test_a_reward_that_is_no_number_names_its_task(minute_video: Path) -> None:
    player, _ = collector(make_tasks(minute_video, 1), reward=lambda trajectory: Reward(math.nan))
    with pytest.raises(ConfigError, match=r"task task-0: the reward must be finite, got nan"):
        player.collect(0, 0)


def test_two_processes_share_the_questions_of_one(minute_video: Path) -> None:
    tasks = make_tasks(minute_video)

    def played(process: int, processes: int) -> dict[int, list[str]]:
        player, _ = collector(tasks, process=process, processes=processes, max_draws=1)
        groups: dict[int, list[str]] = {}
        for one in player.collect(0, 0).all_played:
            groups.setdefault(one.group, []).append(one.trajectory.turns[-1].reply)
        return groups

    # Alone, each is content with its own half only at the limit of draws; here that is one draw.
    assert played(0, 2) | played(1, 2) == played(0, 1)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"questions": 0}, "at least 1"),
        ({"workers": 0}, "at least 1"),
        ({"group_size": 0}, "at least 1"),
        ({"timeout_seconds": 0.0}, "timeout_seconds must be above 0"),
    ],
)
def test_impossible_numbers_are_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        CollectorConfig(**fields)


def test_there_has_to_be_something_to_play() -> None:
    with pytest.raises(ConfigError, match="there are no tasks"):
        collector([])
