import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agents.baselines import OraclePolicy, RandomPolicy
from agents.episode import Episode, read_episodes
from agents.rollout import RolloutConfig, rollout
from rewards import Reward
from tests.agents.hanging_video import hanging_frames
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from tests.synthetic_video import write_video
from videoseek_env.action import Crop
from videoseek_env.errors import TrajectoryError, VideoDecodeError
from videoseek_env.segment import Segment
from videoseek_env.session import Observation, SessionConfig
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason, Trajectory, append_jsonl
from videoseek_env.video import ClipCache

TINY = SessionConfig(budget="tiny")


def make_tasks(path: Path, count: int = 3) -> list[VideoTask]:
    return [
        dataclasses.replace(make_task(), id=f"task-{number}", video=str(path))
        for number in range(count)
    ]


class Fixed:
    """Crops once, then answers B."""

    def reset(self, *, seed: int | None = None) -> None:
        self.turn = 0

    def act(self, observation: Observation) -> str:
        self.turn += 1
        return crop_reply(10, 20) if self.turn == 1 else answer_reply("B")


class Fragile(Fixed):
    """Fails on the first task it is made for, and on no other."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.fails = type(self).made == 1

    def act(self, observation: Observation) -> str:
        if self.fails:
            raise RuntimeError("out of luck")
        return super().act(observation)


def test_every_task_is_played_in_order(minute_video: Path) -> None:
    episodes = list(rollout(Fixed, make_tasks(minute_video), session=TINY))
    assert [episode.trajectory.task.id for episode in episodes] == ["task-0", "task-1", "task-2"]
    assert {episode.reward.value for episode in episodes} == {3.0}
    assert {episode.policy for episode in episodes} == {"Fixed"}
    assert all(episode.seconds > 0 and episode.error is None for episode in episodes)


def test_groups_share_a_task_and_differ_in_their_seeds(minute_video: Path) -> None:
    config = RolloutConfig(episodes_per_task=4)
    episodes = list(rollout(RandomPolicy, make_tasks(minute_video, 2), config, session=TINY))
    tasks = [episode.trajectory.task.id for episode in episodes]
    assert tasks == ["task-0"] * 4 + ["task-1"] * 4
    assert len({episode.seed for episode in episodes}) == 8


def played(episodes: list[Episode]) -> list[tuple[int, Trajectory, float]]:
    return [(episode.seed, episode.trajectory, episode.reward.value) for episode in episodes]


def test_the_same_seed_plays_the_same_on_any_number_of_threads(minute_video: Path) -> None:
    tasks = make_tasks(minute_video, 4)

    def play(seed: int, workers: int) -> list[tuple[int, Trajectory, float]]:
        config = RolloutConfig(seed=seed, workers=workers, episodes_per_task=3)
        return played(list(rollout(RandomPolicy, tasks, config, session=TINY)))

    assert play(1, 1) == play(1, 1) == play(1, 4)
    assert play(1, 1) != play(2, 1)


def test_a_policy_that_raises_ends_its_own_episode_only(minute_video: Path) -> None:
    Fragile.made = 0
    episodes = list(rollout(Fragile, make_tasks(minute_video), session=TINY))
    endings = [episode.trajectory.end_reason for episode in episodes]
    assert endings == [EndReason.POLICY_FAILED, EndReason.ANSWERED, EndReason.ANSWERED]
    assert episodes[0].error == "RuntimeError: out of luck"
    assert episodes[0].reward.value == 0.0


def test_a_broken_video_ends_its_own_episode_only(minute_video: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    tasks = make_tasks(minute_video)
    tasks[1] = dataclasses.replace(tasks[1], video=str(broken))
    episodes = list(rollout(Fixed, tasks, RolloutConfig(workers=2), session=TINY))
    assert episodes[1].trajectory.end_reason is EndReason.VIDEO_FAILED
    assert episodes[1].error is not None and "broken.mp4" in episodes[1].error
    assert [episode.reward.value for episode in episodes] == [3.0, 0.0, 3.0]


def test_clips_are_decoded_once_for_the_whole_group(minute_video: Path) -> None:
    cache = ClipCache(2**24)
    config = RolloutConfig(episodes_per_task=8, workers=4)
    list(rollout(Fixed, make_tasks(minute_video, 1), config, session=TINY, cache=cache))
    assert cache.stats.misses == 2  # the overview and one crop


def test_an_abandoned_rollout_plays_no_further_episode(minute_video: Path) -> None:
    started: list[int] = []

    class Counted(Fixed):
        def reset(self, *, seed: int | None = None) -> None:
            started.append(1)
            time.sleep(0.01)
            super().reset(seed=seed)

    tasks = make_tasks(minute_video, 200)
    episodes = rollout(Counted, tasks, RolloutConfig(workers=2), session=TINY)
    next(episodes)
    episodes.close()  # type: ignore[attr-defined]
    played = len(started)
    assert played < 200
    time.sleep(0.1)
    assert len(started) == played
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollout")]


def test_a_policy_that_writes_no_text_fails_by_name(minute_video: Path) -> None:
    class Mute(Fixed):
        def act(self, observation: Observation) -> str:
            return None  # type: ignore[return-value]

    (episode,) = rollout(Mute, make_tasks(minute_video, 1), session=TINY)
    assert episode.trajectory.end_reason is EndReason.POLICY_FAILED
    assert episode.error == "TypeError: a policy returns text, got NoneType"


def test_a_policy_that_raises_a_decode_error_is_still_the_policys_fault(
    minute_video: Path,
) -> None:
    class Confused(Fixed):
        def act(self, observation: Observation) -> str:
            raise VideoDecodeError("x.mp4", "mine", "no luck", "None.")

    (episode,) = rollout(Confused, make_tasks(minute_video, 1), session=TINY)
    assert episode.trajectory.end_reason is EndReason.POLICY_FAILED


def test_an_error_of_the_reward_is_the_hosts(minute_video: Path) -> None:
    def broken(trajectory: Trajectory) -> Reward:
        raise ZeroDivisionError("my reward")

    with pytest.raises(ZeroDivisionError, match="my reward"):
        list(rollout(Fixed, make_tasks(minute_video), session=TINY, reward=broken))


def test_episodes_tell_the_rules_that_they_were_played_by(minute_video: Path) -> None:
    (episode,) = rollout(Fixed, make_tasks(minute_video, 1), session=TINY)
    assert episode.settings == {
        "budget": "tiny",
        "overview": "exact",
        "max_turns": 6,
        "max_clips": 12,
        "force_answer": False,
    }


def test_the_baselines_play_videos_too_short_to_crop(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", 10, fps=25)
    tasks = [
        dataclasses.replace(make_task(kind), id=kind.value, video=str(path)) for kind in TaskKind
    ]
    for policy in (RandomPolicy, OraclePolicy):
        for episode in rollout(policy, tasks, RolloutConfig(episodes_per_task=5), session=TINY):
            assert episode.error is None


@pytest.mark.parametrize(
    ("clue", "crop"),
    [
        ((10.0, 10.5), (9.75, 10.75)),
        ((0.0, 0.5), (0.0, 1.0)),
        ((59.5, 60.0), (59.0, 60.0)),
        ((59.25, 60.5), (59.0, 60.0)),  # the annotation passes the end
    ],
)
def test_the_oracle_widens_clues_that_are_too_short_to_crop(
    minute_video: Path, clue: tuple[float, float], crop: tuple[float, float]
) -> None:
    task = dataclasses.replace(make_task(clues=[clue]), video=str(minute_video))
    (episode,) = rollout(OraclePolicy, [task], session=TINY)
    assert episode.trajectory.crops == (Crop(Segment(*crop), "fine"),)
    assert len(episode.trajectory.clips) == 2


def test_the_oracle_is_told_the_task_and_scores_the_maximum(minute_video: Path) -> None:
    tasks = [
        dataclasses.replace(make_task(kind), id=kind.value, video=str(minute_video))
        for kind in TaskKind
    ]
    best = {
        TaskKind.SINGLE_CLUE_TOOL: 3.0,
        TaskKind.MULTI_CLUE_TOOL: 3.0,
        TaskKind.SINGLE_CLUE_DIRECT: 2.75,
        TaskKind.MULTI_CLUE_DIRECT: 2.5,
        TaskKind.OPEN_ENDED: 2.0,
        TaskKind.TEMPORAL_GROUNDING: 2.0,
    }
    for episode in rollout(OraclePolicy, tasks, session=TINY):
        assert episode.reward.value == best[episode.trajectory.task.kind]


def test_the_random_policy_always_ends_with_an_answer_or_a_limit(minute_video: Path) -> None:
    tasks = [
        dataclasses.replace(make_task(kind), id=kind.value, video=str(minute_video))
        for kind in TaskKind
    ]
    config = RolloutConfig(episodes_per_task=20)
    for episode in rollout(RandomPolicy, tasks, config, session=TINY):
        assert episode.error is None
        reason = episode.trajectory.end_reason
        assert reason is EndReason.ANSWERED or (reason is not None and reason.is_exceeded)


@pytest.mark.parametrize("fields", [{"workers": 0}, {"episodes_per_task": 0}])
def test_impossible_counts_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RolloutConfig(**fields)  # type: ignore[arg-type]


def test_episodes_round_trip_through_json_lines(minute_video: Path, tmp_path: Path) -> None:
    episodes = list(rollout(Fixed, make_tasks(minute_video), session=TINY, name="fixed"))
    path = tmp_path / "episodes.jsonl"
    append_jsonl(path, (episode.to_dict() for episode in episodes))
    assert list(read_episodes(path)) == episodes
    path.write_text('{"policy": "x"}\n')
    with pytest.raises(TrajectoryError, match=r"episodes\.jsonl:1: not a saved episode"):
        list(read_episodes(path))


def test_another_reward_plugs_in(minute_video: Path) -> None:
    def constant(trajectory: Trajectory) -> Reward:
        return Reward(7.0)

    episodes = rollout(Fixed, make_tasks(minute_video, 1), session=TINY, reward=constant)
    assert next(episodes).reward == Reward(7.0)


def test_a_policy_that_hangs_ends_its_own_episode_only(minute_video: Path) -> None:
    forever = threading.Event()
    made = iter(range(100))

    class Hanging(Fixed):
        def __init__(self) -> None:
            self.hangs = next(made) == 1

        def act(self, observation: Observation) -> str:
            if self.hangs and observation.clip is not None and observation.clip.strategy == "fine":
                forever.wait()
            return super().act(observation)

    config = RolloutConfig(workers=2, timeout_seconds=1.5)
    episodes = list(rollout(Hanging, make_tasks(minute_video), config, session=TINY))
    forever.set()
    endings = [episode.trajectory.end_reason for episode in episodes]
    assert endings.count(EndReason.ABANDONED) == 1 and endings.count(EndReason.ANSWERED) == 2
    (hung,) = (episode for episode in episodes if episode.error)
    assert hung.error == (
        "a reply of the policy and the frames it asked for took longer than 1.5 s"
    )
    # The crop before is kept; what the policy wrote too late is not.
    assert len(hung.trajectory.turns) == 1 and hung.reward.value == 0.0 and hung.seconds > 1.5


def test_a_video_that_hangs_ends_its_own_episode_only(minute_video: Path, tmp_path: Path) -> None:
    tasks = make_tasks(minute_video)
    with hanging_frames(tmp_path / "frames") as folder:
        tasks[1] = dataclasses.replace(tasks[1], video=str(folder), frame_fps=2.0)
        episodes = list(rollout(Fixed, tasks, RolloutConfig(timeout_seconds=1.5), session=TINY))
        assert episodes[1].trajectory.end_reason is EndReason.ABANDONED
        assert episodes[1].error == "the video's first frames took longer than 1.5 s"
        assert [episode.reward.value for episode in episodes] == [3.0, 0.0, 3.0]
    # Set free, the thread closes what it holds and ends.
    for thread in [thread for thread in threading.enumerate() if thread.name == "timed"]:
        thread.join(10)
        assert not thread.is_alive()


def test_what_hangs_does_not_keep_the_interpreter_from_ending(tmp_path: Path) -> None:
    script = """
import sys, time
from agents.rollout import RolloutConfig, rollout
from tests.agents.test_rollout import TINY, Fixed, make_tasks
from pathlib import Path

class Sleeper(Fixed):
    def act(self, observation):
        time.sleep(600)

config = RolloutConfig(timeout_seconds=0.5)
(episode,) = rollout(Sleeper, make_tasks(Path(sys.argv[1]), 1), config, session=TINY)
print(episode.trajectory.end_reason)
"""
    video = write_video(tmp_path / "short.mp4", 50, fps=5)
    done = subprocess.run(
        [sys.executable, "-c", script, video], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "abandoned\n"), done.stderr


@pytest.mark.parametrize("timeout_seconds", [0.0, -1.0, float("nan")])
def test_a_time_limit_is_above_zero(timeout_seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout_seconds must be above 0"):
        RolloutConfig(timeout_seconds=timeout_seconds)
