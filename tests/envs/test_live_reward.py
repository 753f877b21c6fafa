from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.live_action import write_wait
from envs.live_reward import TimelyReward, timeliness
from envs.live_trajectory import LiveTrajectory, answerable_seconds
from rewards import Accuracy, Reward, TrajectoryGuidedReward
from rewards.testing import check_reward
from tests.envs.live_episodes import answered_at, make_session
from tests.sample_trajectories import answer_reply, crop_reply, make_trajectory
from videoseek_env.errors import ConfigError, TrajectoryError
from videoseek_env.trajectory import Trajectory


def test_timeliness_is_an_exponential_of_the_delay() -> None:
    # exp(0), exp(-1), exp(-2); then so late that nothing is left.
    values = [timeliness(delay, patience_seconds=30.0) for delay in (0, 30, 60, 1e9)]
    assert values == pytest.approx([1.0, 0.367879, 0.135335, 0.0], abs=1e-6)


def test_the_reward_fades_from_the_end_of_the_clue() -> None:
    reward = TimelyReward(patience_seconds=60.0)
    # A perfect crop and the right answer: 1 + 1 + 1.
    on_time, late = reward(answered_at(20.0)), reward(answered_at(50.0))
    assert on_time.value == 3.0
    # 30 s late: 3 * exp(-30 / 60) = 3 * 0.606531.
    assert late.value == pytest.approx(1.819592)
    assert late.parts["base"] == 3.0
    assert late.parts["timeliness"] == pytest.approx(0.606531)
    assert late.parts["delay_seconds"] == 30.0
    assert late.parts["acc"] == 1.0


def test_a_negative_base_reward_does_not_fade() -> None:
    reward = TimelyReward(base=lambda trajectory: Reward(-1.0))
    assert reward(answered_at(20.0)).value == reward(answered_at(500.0)).value == -1.0


@given(
    early=st.floats(0, 1e4),
    wait=st.floats(0, 1e4),
    base=st.floats(-10, 10),
    patience=st.floats(0.1, 1e4),
)
def test_the_same_reply_is_never_worth_more_later(
    early: float, wait: float, base: float, patience: float
) -> None:
    reward = TimelyReward(base=lambda trajectory: Reward(base), patience_seconds=patience)
    sooner, later = reward(answered_at(early)).value, reward(answered_at(early + wait)).value
    assert later <= sooner
    assert min(base, 0.0) <= later <= max(base, 0.0)


def test_guessing_before_the_clue_gains_nothing_over_guessing_when_it_is_over() -> None:
    reward = TimelyReward()
    for answer in "ABCD":
        assert reward(answered_at(1.0, answer)) == reward(answered_at(20.0, answer))


def test_waiting_to_be_sure_beats_guessing_up_to_patience_times_the_log_of_the_options() -> None:
    reward = TimelyReward(base=Accuracy(), patience_seconds=60.0)
    guess = np.mean([reward(answered_at(1.0, answer)).value for answer in "ABCD"])
    assert guess == 0.25
    # 60 * ln 4 = 83.18 s after the clue's end at 20 s.
    assert reward(answered_at(20 + 83.0)).value > guess > reward(answered_at(20 + 83.4)).value


def test_at_equal_delay_the_properties_of_the_base_reward_hold() -> None:
    reward = TimelyReward(base=TrajectoryGuidedReward.hardened())

    def late(trajectory: Trajectory) -> Reward:
        seconds = answerable_seconds(trajectory.task, 0.0) + 8.0
        times = (seconds,) * len(trajectory.turns)
        return reward(LiveTrajectory.of(trajectory, asked_seconds=0.0, reply_seconds=times))

    check_reward(late, low=0.0, high=3.0, max_examples=5)


def test_a_trajectory_without_times_is_an_error() -> None:
    with pytest.raises(TrajectoryError, match=r"LiveTrajectory\.from_dict"):
        TimelyReward()(make_trajectory([answer_reply("B")]))


@pytest.mark.parametrize("patience", [0.0, -1.0, math.nan])
def test_impatience_is_refused(patience: float) -> None:
    with pytest.raises(ConfigError, match="patience_seconds"):
        TimelyReward(patience_seconds=patience)


def test_the_base_reward_sees_no_waits_and_the_delay_counts_them(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    for reply in (write_wait("not yet", 23), crop_reply(10, 20), answer_reply("B")):
        session.reply(reply)
    # Replies at 1, 25 and 26 s: 6 s after the clue's end. Perfect without the wait: 1 + 1 + 1.
    score = TimelyReward(patience_seconds=10.0)(session.trajectory)
    assert (score.parts["base"], score.parts["delay_seconds"]) == (3.0, 6.0)
    assert score.value == pytest.approx(3 * math.exp(-0.6))


def test_a_wait_out_of_form_costs_the_format(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    for reply in ("<wait>9</wait>", crop_reply(1, 5), answer_reply("B")):
        session.reply(reply)
    assert TimelyReward()(session.trajectory).parts["format"] == 0.0
