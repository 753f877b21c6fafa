from collections import Counter

import pytest

from agents.learning.collecting import Collected, Experience
from agents.learning.episode_metrics import episode_metrics, speed_metrics
from rewards import Reward
from tests.agents.learning.samples import sample
from tests.sample_trajectories import answer_reply, crop_reply, make_trajectory
from videoseek_env.trajectory import EndReason

CROP, ANSWER = crop_reply(10, 20), answer_reply("B")


def experience(reward: Reward, *replies: str, end_reason: EndReason | None = None) -> Experience:
    return Experience(
        group=0,
        trajectory=make_trajectory(replies, end_reason=end_reason),
        reward=reward,
        seconds=1.0,
        samples=(sample(*replies),),
    )


ANSWERED = experience(Reward(3.0, {"accuracy": 1.0, "format": 2.0}), CROP, ANSWER)
EXCEEDED = experience(Reward(0.0, {"accuracy": 0.0}), CROP)
FAILED = Experience(
    group=1,
    trajectory=make_trajectory([], end_reason=EndReason.VIDEO_FAILED),
    reward=Reward(0.0),
    seconds=0.0,
    samples=(),
    error="gone",
)


def test_means_are_over_sound_episodes_and_failed_ones_are_counted() -> None:
    collected = Collected(
        all_played=[ANSWERED, FAILED, EXCEEDED],
        uninformative_groups=2,
        failed_groups=1,
        failures=Counter(video_failed=2),
        drawn=4,
    )
    metrics = episode_metrics(collected)
    written = (ANSWERED.samples[0].trained_tokens + EXCEEDED.samples[0].trained_tokens) / 2
    assert metrics == {
        "reward": 1.5,
        "reward_std": 1.5,
        "reward/accuracy": 0.5,
        "reward/format": 1.0,  # a part that an episode does not have is 0 there
        "calls": 1.0,
        "turns": 1.5,
        "reply_tokens": written,
        "end/answered": 0.5,
        "end/turns_exhausted": 0.5,
        "questions": 4.0,
        "uninformative_groups": 2.0,
        "failed_groups": 1.0,
        "failed/video_failed": 2.0,
    }


def test_without_a_sound_episode_there_are_counts_alone() -> None:
    metrics = episode_metrics(Collected(all_played=[FAILED], drawn=1))
    assert metrics == {"questions": 1.0, "uninformative_groups": 0.0, "failed_groups": 0.0}


def test_speed_is_all_tokens_over_all_seconds() -> None:
    collected = Collected(all_played=[ANSWERED, FAILED])
    metrics = speed_metrics(collected, rollout_seconds=1.5, learning_seconds=0.5)
    assert metrics["tokens_per_second"] == pytest.approx(len(ANSWERED.samples[0].tokens) / 2)
