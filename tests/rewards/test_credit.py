import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewards import CoverageShaping, TrajectoryGuidedReward
from rewards.credit import potentials, shaping
from rewards.testing import example_task, play, trajectories
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.task import TaskKind
from videoseek_env.trajectory import Trajectory

TASK = example_task(TaskKind.MULTI_CLUE_TOOL)  # clues [20, 30) and [60, 70) of 100 s
GAMMAS = (0.5, 0.9, 1.0)


# Shown before each turn: nothing; the first clue; that and half of the second: 0, 1/2, 3/4.
FOUND = play(TASK, [crop_reply(20, 30), crop_reply(60, 65), answer_reply("B")])


def test_potentials_are_the_coverage_before_each_turn() -> None:
    assert potentials(FOUND) == [0.0, 0.5, 0.75]
    assert potentials(play(TASK, [])) == []


# gamma 0.9, weight 2: 2 (0.9 * 0.5 - 0) = 0.9; 2 (0.9 * 0.75 - 0.5) = 0.35; 2 (0 - 0.75) = -1.5.
def test_shaping_pays_the_turn_that_finds_something() -> None:
    assert CoverageShaping()(FOUND) == [0.5, 0.25, -0.75]
    assert CoverageShaping(gamma=0.9, weight=2)(FOUND) == pytest.approx([0.9, 0.35, -1.5])
    assert shaping([], gamma=0.9) == []
    assert shaping([0.25], gamma=0.5) == [-0.25]


def test_refused_and_repeated_crops_pay_nothing() -> None:
    replies = [crop_reply(30, 20), crop_reply(20, 30), crop_reply(20, 30), answer_reply("B")]
    assert potentials(play(TASK, replies)) == [0.0, 0.0, 0.5, 0.5]
    assert CoverageShaping()(play(TASK, replies)) == [0.0, 0.5, 0.0, -0.5]


@pytest.mark.parametrize("gamma", [0.0, -0.5, 1.01, math.nan])
def test_gamma_is_above_zero_and_at_most_one(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"gamma must lie in \(0, 1\], got"):
        CoverageShaping(gamma=gamma)
    CoverageShaping(gamma=1.0)
    CoverageShaping(gamma=0.01)


def discounted(rewards: list[float], gamma: float) -> float:
    return sum(reward * gamma**turn for turn, reward in enumerate(rewards))


# The sum telescopes: gamma^T Phi(end) - Phi(start) = 0 - 0.
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trajectories(), st.floats(0.01, 1), st.floats(-10, 10))
def test_the_discounted_sum_is_zero(trajectory: Trajectory, gamma: float, weight: float) -> None:
    values = CoverageShaping(gamma=gamma, weight=weight)(trajectory)
    assert len(values) == len(trajectory.turns)
    assert discounted(values, gamma) == pytest.approx(0, abs=1e-9)
    assert all(0 <= potential <= 1 for potential in potentials(trajectory))


# --- policies ---


# Every way to spend three turns or fewer on four crops and two answers: the returns, and with them
# the best sequences, are the same with shaping and without.
@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_best_episodes_stay_the_best(gamma: float) -> None:
    crops = [crop_reply(*place) for place in ((20, 30), (60, 70), (0, 100), (80, 90))]
    looks = [sequence for k in range(3) for sequence in itertools.product(crops, repeat=k)]
    episodes = [
        play(TASK, [*sequence, answer_reply(letter)]) for sequence in looks for letter in "AB"
    ]
    reward, shaped = TrajectoryGuidedReward.hardened(), CoverageShaping(gamma=gamma, weight=3.0)
    plain_returns, shaped_returns = [], []
    for episode in episodes:
        rewards = [0.0] * (len(episode.turns) - 1) + [reward(episode).value]
        both = [own + extra for own, extra in zip(rewards, shaped(episode), strict=True)]
        plain_returns.append(discounted(rewards, gamma))
        shaped_returns.append(discounted(both, gamma))
    np.testing.assert_allclose(shaped_returns, plain_returns, atol=1e-12)
    assert len(episodes) == 2 * (1 + 4 + 16)
    assert best(shaped_returns) == best(plain_returns)


def best(returns: list[float]) -> set[int]:
    return {place for place, value in enumerate(returns) if value >= max(returns) - 1e-9}


# A random world of five states and three actions, each of which may end the episode. With shaping
# Q'(s, a) = Q(s, a) - w Phi(s), so the greedy actions coincide in every state.
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000), gamma=st.sampled_from([0.5, 0.9, 0.99]), weight=st.floats(-5, 5)
)
def test_the_optimal_policies_of_a_small_world_coincide(
    seed: int, gamma: float, weight: float
) -> None:
    rng = np.random.default_rng(seed)
    states, actions = 5, 3
    # The last state is the end: it pays nothing and its potential is 0.
    chances = rng.dirichlet(np.ones(states + 1), size=(states, actions))
    rewards = rng.normal(size=(states, actions, states + 1))
    potential = rng.random(states)
    extra = np.array(
        [
            [shaping([before, after], gamma=gamma, weight=weight)[0] for after in (*potential, 0.0)]
            for before in potential
        ]
    )
    plain = optimal_values(chances, rewards, gamma)
    shaped = optimal_values(chances, rewards + extra[:, None, :], gamma)
    np.testing.assert_allclose(shaped, plain - weight * potential[:, None], atol=1e-6)
    np.testing.assert_array_equal(shaped.argmax(1), plain.argmax(1))


def optimal_values(
    chances: npt.NDArray[np.float64], rewards: npt.NDArray[np.float64], gamma: float
) -> npt.NDArray[np.float64]:
    """Q [S, A] by value iteration; chances and rewards are [S, A, S + 1], the last one the end."""
    values = np.zeros(chances.shape[:2])
    for _ in range(3000):
        following = np.append(values.max(1), 0.0)
        updated = (chances * (rewards + gamma * following)).sum(2)
        if np.abs(updated - values).max() < 1e-12:
            break
        values = updated
    return values
