import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from agents.learning.advantages import (
    Scale,
    generalized_advantages,
    group_advantages,
    turn_advantages,
    whiten,
)
from rewards.credit import shaping
from videoseek_env.errors import ConfigError

REWARD = st.floats(-4, 4, width=32)


def test_a_reward_counts_by_how_far_it_is_from_its_groups_mean() -> None:
    # Group "a": 1, 3, 2: mean 2, variance (1 + 1 + 0) / 2 = 1. Group "b": 0, 4: mean 2, std sqrt 8.
    got = group_advantages([1, 0, 3, 4, 2], ["a", "b", "a", "b", "a"])
    b = 2 / (math.sqrt(8) + 1e-6)
    expected = [-1 / (1 + 1e-6), -b, 1 / (1 + 1e-6), b, 0]
    np.testing.assert_allclose(got.values, expected, rtol=1e-12)
    assert got.values.dtype == np.float64
    assert got.is_informative.tolist() == [True] * 5


def test_without_scaling_the_difference_to_the_mean_stays() -> None:
    got = group_advantages([1, 0, 3, 4, 2], [0, 1, 0, 1, 0], scale="none")
    assert got.values.tolist() == [-1, -2, 1, 2, 0]


def test_a_group_that_differs_by_rounding_alone_is_not_informative() -> None:
    noisy = 0.1 + 0.2  # 0.30000000000000004
    assert noisy != 0.3
    got = group_advantages([noisy, 0.3, 0.3, 0.0, 1.0], [0, 0, 0, 1, 1])
    assert got.is_informative.tolist() == [False, False, False, True, True]
    assert got.values[:3].tolist() == [0, 0, 0]


def test_the_tolerance_is_about_the_std() -> None:
    # Of 0 and d the std is d / sqrt 2: 1e-4 lies between d = 1.4e-4 and d = 1.5e-4.
    got = group_advantages([0, 1.4e-4, 0, 1.5e-4], [0, 0, 1, 1])
    assert got.is_informative.tolist() == [False, False, True, True]
    assert group_advantages([0, 1.4e-4], [0, 0], tolerance=1e-5).is_informative.all()


@pytest.mark.parametrize("scale", ["std", "none"])
def test_a_group_of_one_has_an_advantage_of_zero(scale: Scale) -> None:
    for got in (
        group_advantages([3.0], [5], scale=scale),
        turn_advantages([[3.0]], [5], scale=scale),
    ):
        assert got.values.ravel().tolist() == [0] and got.is_informative.tolist() == [False]


@st.composite
def groups_of_rewards(draw: st.DrawFn) -> tuple[npt.NDArray[np.float64], list[int]]:
    groups = draw(st.lists(st.integers(-2, 2), min_size=1, max_size=12))
    rewards = draw(st.lists(REWARD, min_size=len(groups), max_size=len(groups)))
    return np.array(rewards, np.float64), groups


def clearly_decided(rewards: npt.NDArray[np.float64], groups: Sequence[int]) -> bool:
    """Whether no group's std is so close to the tolerance that rounding decides."""
    deviations = [
        np.std(rewards[np.array(groups) == g], ddof=1) for g in set(groups) if groups.count(g) > 1
    ]
    return all(deviation < 1e-5 or deviation > 1e-2 for deviation in deviations)


@given(groups_of_rewards(), REWARD, st.sampled_from(["std", "none"]))
def test_a_shift_of_all_rewards_changes_nothing(
    case: tuple[npt.NDArray[np.float64], list[int]], shift: float, scale: Scale
) -> None:
    rewards, groups = case
    assume(clearly_decided(rewards, groups))
    before = group_advantages(rewards, groups, scale=scale)
    after = group_advantages(rewards + shift, groups, scale=scale)
    np.testing.assert_allclose(after.values, before.values, atol=1e-9)
    assert (after.is_informative == before.is_informative).all()


@given(groups_of_rewards(), st.floats(1, 10))
def test_with_scaling_the_unit_of_the_rewards_hardly_matters(
    case: tuple[npt.NDArray[np.float64], list[int]], unit: float
) -> None:
    rewards, groups = case
    assume(clearly_decided(rewards, groups))
    got = group_advantages(rewards * unit, groups)
    # An std of 0.01 beside an epsilon of 1e-6: a relative difference of 1e-4 at most.
    np.testing.assert_allclose(got.values, group_advantages(rewards, groups).values, rtol=2e-4)


@given(groups_of_rewards(), st.randoms(use_true_random=False))
def test_the_order_of_episodes_is_of_no_account(
    case: tuple[npt.NDArray[np.float64], list[int]], random: "np.random.Generator"
) -> None:
    rewards, groups = case
    assume(clearly_decided(rewards, groups))
    order = list(range(len(groups)))
    random.shuffle(order)
    got = group_advantages(rewards[order], np.array(groups)[order])
    expected = group_advantages(rewards, groups)
    np.testing.assert_allclose(got.values, expected.values[order], atol=1e-9)
    assert (got.is_informative == expected.is_informative[order]).all()


@given(groups_of_rewards())
def test_advantages_of_a_group_have_mean_zero_and_std_one(
    case: tuple[npt.NDArray[np.float64], list[int]],
) -> None:
    rewards, groups = case
    got = group_advantages(rewards, groups)
    for group in set(groups):
        of_group = np.array(groups) == group
        assert abs(got.values[of_group].mean()) < 1e-9
        if got.is_informative[of_group][0]:
            # std / (std + 1e-6), and the std is at least 1e-4.
            assert 0.99 < got.values[of_group].std(ddof=1) < 1 + 1e-9


@pytest.mark.parametrize(
    ("rewards", "groups", "complaint"),
    [
        ([1.0, math.nan], [0, 0], "finite, got nan at index 1"),
        ([math.inf, 1.0], [0, 0], "finite, got inf at index 0"),
        ([1.0], [0, 0], "each of 2 episodes, got 1"),
        ([[1.0, 2.0]], [0, 0], r"one dimension, got shape \(1, 2\)"),
        (["one", "two"], [0, 0], "must be numbers"),
        ([[1.0], [1.0, 2.0]], [0, 0], "must be numbers"),
        ([], [], "at least one episode"),
        ([1.0], [0.5], "integers or strings"),
        ([1.0], [[0]], "integers or strings"),
    ],
)
def test_rewards_that_are_none_are_refused(
    rewards: npt.ArrayLike, groups: npt.ArrayLike, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        group_advantages(rewards, groups)


@pytest.mark.parametrize("function", [group_advantages, turn_advantages])
def test_options_that_are_none_are_refused(function: Callable[..., object]) -> None:
    rewards = [[1.0]] if function is turn_advantages else [1.0]
    with pytest.raises(ConfigError, match="scale must be one of"):
        function(rewards, [0], scale="batch")
    for tolerance in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="tolerance must be above 0"):
            function(rewards, [0], tolerance=tolerance)


def test_a_turn_is_compared_with_the_others_returns_to_go() -> None:
    # Returns-to-go: [3, 2], [1], [2, 2, 1]. What is over counts as its whole return: the second as
    # 1 at turns 1 and 2, the first as 3 at turn 2.
    # Turn 0: 3 - 1.5, 1 - 2.5, 2 - 2. Turn 1: 2 - (1 + 2)/2, -, 2 - (2 + 1)/2.
    # Turn 2: 1 - (3 + 1)/2.
    got = turn_advantages([[1, 2], [1], [0, 1, 1]], [0, 0, 0], scale="none")
    assert got.values.tolist() == [[1.5, 0.5, 0], [-1.5, 0, 0], [0, 0.5, -1]]
    # Turn 0: 3, 1, 2, of std 1. Turn 1: 2, 1, 2. Turn 2: 3, 1, 1, of std 2 / sqrt(3): the largest.
    scaled = turn_advantages([[1, 2], [1], [0, 1, 1]], [0, 0, 0])
    expected = got.values / (2 / math.sqrt(3) + 1e-6)
    np.testing.assert_allclose(scaled.values, expected, rtol=1e-12)


def test_with_rewards_at_the_end_every_turn_has_its_episodes_advantage() -> None:
    # 3 - 1.5, 1 - 2.5, 2 - 2, at all turns.
    got = turn_advantages([[0, 3], [1], [0, 0, 2]], [0, 0, 0], scale="none")
    assert got.values.tolist() == [[1.5, 1.5, 0], [-1.5, 0, 0], [0, 0, 0]]


@given(groups_of_rewards())
def test_episodes_of_one_turn_have_the_groups_advantages(
    case: tuple[npt.NDArray[np.float64], list[int]],
) -> None:
    rewards, groups = case
    assume(clearly_decided(rewards, groups))
    turns = turn_advantages(rewards[:, None], groups, scale="none")
    whole = group_advantages(rewards, groups, scale="none")
    # Without oneself in the mean: n / (n - 1) times as far from it.
    sizes = np.array([groups.count(group) for group in groups])
    factor = sizes / np.maximum(sizes - 1, 1)
    np.testing.assert_allclose(turns.values[:, 0], whole.values * factor, atol=1e-9)
    assert (turns.is_informative == whole.is_informative).all()


def test_a_group_is_judged_by_the_turn_that_differs_most() -> None:
    rewards = [[1.0, 0.0], [0.0, 1.0]]
    unscaled = turn_advantages(rewards, [0, 0], scale="none")
    assert unscaled.is_informative.all()
    assert unscaled.values.tolist() == [[0, -1], [0, 1]]
    scaled = turn_advantages(rewards, [0, 0])
    np.testing.assert_allclose(scaled.values, unscaled.values * math.sqrt(2), rtol=1e-5)


def test_equal_rewards_at_the_end_are_not_informative_whenever_they_came() -> None:
    rewards = [[0.0, 1.0], [1.0]]
    assert not turn_advantages(rewards, [0, 0]).is_informative.any()


def test_groups_do_not_mix() -> None:
    together = turn_advantages([[1, 2], [9], [1], [0, 4]], [0, 1, 0, 1])
    for group in ([0, 2], [1, 3]):
        rewards = [[[1, 2], [9], [1], [0, 4]][at] for at in group]
        alone = turn_advantages(rewards, [0, 0])
        assert together.values[group].tolist() == alone.values.tolist()


def test_an_episode_without_a_turn_has_a_return_of_zero() -> None:
    assert turn_advantages([[], [2.0]], [0, 0], scale="none").values.tolist() == [[0], [2]]
    assert turn_advantages([[], []], [0, 0]).values.shape == (2, 0)


def test_rewards_of_turns_that_are_none_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="rewards of episode 1 must be finite, got nan at index 2"
    ):
        turn_advantages([[1.0], [0.0, 0.0, math.nan]], [0, 0])
    with pytest.raises(ConfigError, match="rewards of 2 episodes, got 1"):
        turn_advantages([[1.0]], [0, 0])


# A game of two turns. Turn 0: answer at once with probability P for a reward of 1, or crop for 0.
# Turn 1: answer right with probability Q for 3, or wrong for 0. Each probability is the sigmoid of
# a parameter: d log P / d theta = 1 - P, d log (1 - P) / d theta = -P.
P, Q = 0.3, 0.6
EPISODES = [
    # probability, rewards, and for each turn which parameter has which score
    (P, [1.0], [(0, 1 - P)]),
    ((1 - P) * Q, [0.0, 3.0], [(0, -P), (1, 1 - Q)]),
    ((1 - P) * (1 - Q), [0.0, 0.0], [(0, -P), (1, -Q)]),
]
# J = P + (1 - P) 3 Q: dJ/dtheta_0 = P (1 - P) (1 - 3 Q), dJ/dtheta_1 = (1 - P) 3 Q (1 - Q).
GRADIENT = [P * (1 - P) * (1 - 3 * Q), (1 - P) * 3 * Q * (1 - Q)]

Estimate = Callable[[list[list[float]]], npt.NDArray[np.float64]]


def moments(
    advantages: Estimate, *, members: int = 3, episodes: Any = EPISODES
) -> tuple[list[float], list[float]]:
    """Exact mean and variance of the policy gradient, over every group that can be drawn."""
    mean, square = np.zeros(2), np.zeros(2)
    for group in product(episodes, repeat=members):
        probability = math.prod(episode[0] for episode in group)
        values = advantages([episode[1] for episode in group])
        estimate = np.zeros(2)
        for row, (_, _, scores) in zip(values, group, strict=True):
            for turn, (parameter, score) in enumerate(scores):
                estimate[parameter] += row[turn] * score / members
        mean += probability * estimate
        square += probability * estimate**2
    return mean.tolist(), (square - mean**2).tolist()


def compared(rewards: list[list[float]]) -> npt.NDArray[np.float64]:
    return turn_advantages(rewards, [0] * len(rewards), scale="none").values


def against_zero(rewards: list[list[float]]) -> npt.NDArray[np.float64]:
    """What is over counts as nothing."""
    to_go = np.zeros((len(rewards), 2))
    for row, values in zip(to_go, rewards, strict=True):
        row[: len(values)] = np.cumsum(values[::-1])[::-1]
    return to_go - (to_go.sum(0) - to_go) / (len(rewards) - 1)


def survivors(rewards: list[list[float]]) -> npt.NDArray[np.float64]:
    """The naive baseline: the mean return-to-go of all that have the turn, oneself included."""
    to_go = [np.cumsum(row[::-1])[::-1] for row in rewards]
    values = np.zeros((len(rewards), 2))
    for turn in range(2):
        running = [i for i, row in enumerate(to_go) if len(row) > turn]
        for i in running:
            values[i, turn] = to_go[i][turn] - np.mean([to_go[j][turn] for j in running])
    return values


@pytest.mark.parametrize("estimate", [compared, against_zero])
def test_the_policy_gradient_is_unbiased_though_episodes_stop_at_different_turns(
    estimate: Estimate,
) -> None:
    mean, _ = moments(estimate)
    assert mean == pytest.approx(GRADIENT, abs=1e-12)


def test_the_gradient_varies_less_if_what_is_over_counts_as_its_return() -> None:
    (_, zero), (_, as_return) = moments(against_zero)[1], moments(compared)[1]
    assert as_return < 0.95 * zero


def test_the_mean_of_the_survivors_is_biased_in_direction() -> None:
    mean, _ = moments(survivors)
    # Turn 0: all three run, so 2/3 of the gradient. Turn 1: beside oneself 0, 1 or 2 others run,
    # with 0.3^2 = 0.09, 2 * 0.3 * 0.7 = 0.42 and 0.7^2 = 0.49: 0.42 / 2 + 0.49 * 2/3 = 0.536667.
    expected = [GRADIENT[0] * 2 / 3, GRADIENT[1] * (0.21 + 0.98 / 3)]
    assert mean == pytest.approx(expected, abs=1e-12)


def test_shaping_does_not_bias_the_gradient() -> None:
    # The crop shows all of the clue: potential 1 before turn 1.
    def estimate(rewards: list[list[float]]) -> npt.NDArray[np.float64]:
        shaped = [
            np.add(row, shaping([0.0, 1.0][: len(row)], gamma=1.0)).tolist() for row in rewards
        ]
        return turn_advantages(shaped, [0] * 3, scale="none").values

    assert moments(estimate)[0] == pytest.approx(GRADIENT, abs=1e-12)


def test_what_is_not_informative_may_be_dropped_without_bias() -> None:
    # Groups that are judged by their shaped turns teach nothing where they are dropped, so that
    # the rest holds all of the gradient. Judged by whole episodes it is another where a right
    # answer earns the same at once and after a crop.
    episodes = [
        (probability, [*rewards[:-1], min(rewards[-1], 1.0)], scores)
        for probability, rewards, scores in EPISODES
    ]
    gradient = [P * (1 - P) * (1 - Q), (1 - P) * Q * (1 - Q)]

    def shaped(rewards: list[list[float]]) -> list[list[float]]:
        return [np.add(row, shaping([0.0, 1.0][: len(row)], gamma=1.0)).tolist() for row in rewards]

    def kept(rewards: list[list[float]], *, whole: bool) -> npt.NDArray[np.float64]:
        found = turn_advantages(shaped(rewards), [0] * len(rewards), scale="none")
        judged = group_advantages([sum(row) for row in rewards], [0] * len(rewards))
        informative = judged.is_informative if whole else found.is_informative
        return found.values * informative[:, None]

    unbiased, _ = moments(lambda rewards: kept(rewards, whole=False), episodes=episodes)
    assert unbiased == pytest.approx(gradient, abs=1e-12)
    biased, _ = moments(lambda rewards: kept(rewards, whole=True), episodes=episodes)
    assert biased != pytest.approx(gradient, rel=0.05)


def rows(*values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_an_advantage_looks_ahead_by_gamma_and_lambda() -> None:
    # delta_2 = 4 - 3 = 1. delta_1 = 1 + 0.5*3 - 2 = 0.5, A_1 = 0.5 + 0.25*1 = 0.75.
    # delta_0 = 0 + 0.5*2 - 1 = 0, A_0 = 0.25*0.75 = 0.1875. gamma = lambda = 0.5.
    everywhere = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = generalized_advantages(
        rows([1, 2, 3]), rows([0, 1, 4]), everywhere, gamma=0.5, lam=0.5
    )
    assert advantages.tolist() == [[0.1875, 0.75, 1]]
    assert returns.tolist() == [[1.1875, 2.75, 4]]


def test_observations_are_passed_over_as_if_they_were_not_there() -> None:
    # The tokens of the test above with an observation before, between and behind.
    trained = torch.tensor([[False, True, False, False, True, True, False]])
    nan = math.nan
    advantages, returns = generalized_advantages(
        rows([nan, 1, nan, nan, 2, 3, nan]), rows([0, 0, 0, 0, 1, 4, 0]), trained,
        gamma=0.5, lam=0.5,
    )  # fmt: skip
    assert advantages.tolist() == [[0, 0.1875, 0, 0, 0.75, 1, 0]]
    assert returns.tolist() == [[0, 1.1875, 0, 0, 2.75, 4, 0]]


def test_a_truncated_episode_goes_on_with_its_bootstrap() -> None:
    # A_1 = 0 + 10 - 2 = 8; A_0 = (2 - 1) + 8 = 9, with gamma = lambda = 1. Row 1 is over: -2, -1.
    trained = torch.tensor([[True, True, False], [True, True, False]])
    advantages, returns = generalized_advantages(
        rows([1, 2, 0], [1, 2, 0]), torch.zeros(2, 3), trained, lam=1.0,
        bootstrap=torch.tensor([10.0, 0.0]),
    )  # fmt: skip
    assert advantages.tolist() == [[9, 8, 0], [-1, -2, 0]]
    assert returns.tolist() == [[10, 10, 0], [0, 0, 0]]


def test_a_row_without_a_trained_token_has_no_advantage() -> None:
    trained = torch.tensor([[False, False], [True, False]])
    advantages, returns = generalized_advantages(
        rows([1, 2], [1, 2]), rows([0, 0], [5, 0]), trained, bootstrap=torch.ones(2)
    )
    assert advantages.tolist() == [[0, 0], [5, 0]] and returns.tolist() == [[0, 0], [6, 0]]
    nowhere, _ = generalized_advantages(rows([1, 2]), rows([0, 0]), trained[:1])
    assert nowhere.tolist() == [[0, 0]]


@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(0, 999),
    st.floats(0.1, 1), st.floats(0, 1), st.booleans(),
)  # fmt: skip
def test_the_batch_is_what_each_row_is_alone_walking_backwards(
    batch: int, length: int, seed: int, gamma: float, lam: float, bootstrapped: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = {"size": (batch, length), "generator": generator, "dtype": torch.float64}
    values, rewards = torch.randn(**shape), torch.randn(**shape)
    trained = torch.rand(**shape) < 0.6
    rewards = rewards.masked_fill(~trained, 0.0)
    bootstrap = torch.randn(batch, generator=generator, dtype=torch.float64)
    expected = torch.zeros_like(values)
    for b in range(batch):
        after, advantage = float(bootstrap[b]) if bootstrapped else 0.0, 0.0
        for t in reversed(range(length)):
            if trained[b, t]:
                delta = float(rewards[b, t]) + gamma * after - float(values[b, t])
                advantage = delta + gamma * lam * advantage
                after = float(values[b, t])
                expected[b, t] = advantage
    advantages, returns = generalized_advantages(
        values,
        rewards,
        trained,
        gamma=gamma,
        lam=lam,
        bootstrap=bootstrap if bootstrapped else None,
    )
    torch.testing.assert_close(advantages, expected, rtol=1e-12, atol=1e-12)
    with_values = (expected + values).masked_fill(~trained, 0.0)
    torch.testing.assert_close(returns, with_values, rtol=1e-12, atol=1e-12)


def test_advantages_are_those_of_stable_baselines3() -> None:
    buffers = pytest.importorskip("stable_baselines3.common.buffers", reason="SB3 is an extra")
    from gymnasium import spaces

    steps, rows_ = 30, 4
    generator = torch.Generator().manual_seed(0)
    values, rewards = (torch.randn(rows_, steps, generator=generator) for _ in range(2))
    bootstrap = torch.randn(rows_, generator=generator)
    buffer = buffers.RolloutBuffer(
        steps, spaces.Discrete(2), spaces.Discrete(2), gae_lambda=0.9, gamma=0.97, n_envs=rows_
    )
    buffer.values[:], buffer.rewards[:] = values.T.numpy(), rewards.T.numpy()
    buffer.compute_returns_and_advantage(bootstrap, np.zeros(rows_))
    # Ours, spread over three times as many tokens.
    spread = torch.zeros(2, rows_, 3 * steps)
    spread[..., 1::3] = torch.stack([values, rewards])
    trained = (torch.arange(3 * steps) % 3 == 1).expand(rows_, -1)
    advantages, returns = generalized_advantages(
        spread[0], spread[1], trained, gamma=0.97, lam=0.9, bootstrap=bootstrap
    )
    np.testing.assert_allclose(advantages[:, 1::3].T, buffer.advantages, atol=1e-5)
    np.testing.assert_allclose(returns[:, 1::3].T, buffer.returns, atol=1e-5)


def test_no_gradient_goes_through_an_advantage() -> None:
    values = torch.ones(1, 2, requires_grad=True)
    trained = torch.ones(1, 2, dtype=torch.bool)
    advantages, returns = generalized_advantages(values, torch.zeros(1, 2), trained)
    assert not advantages.requires_grad and not returns.requires_grad


def test_input_of_another_shape_or_range_is_refused() -> None:
    values, trained = torch.zeros(2, 3), torch.tensor([[True, True, False]] * 2)
    with pytest.raises(ConfigError, match="rewards must have the shape of the mask"):
        generalized_advantages(values, torch.zeros(2), trained)
    with pytest.raises(ConfigError, match=r"bootstrap must have shape \(2,\)"):
        generalized_advantages(values, values, trained, bootstrap=torch.zeros(2, 1))
    for lost in (1.0, math.nan):
        with pytest.raises(ConfigError, match="a reward on a token that is not trained"):
            generalized_advantages(values, torch.tensor([[0, 0, lost]] * 2), trained)
    for options in ({"gamma": 0.0}, {"gamma": 1.1}, {"lam": -0.1}, {"lam": math.nan}):
        with pytest.raises(ConfigError, match=r"gamma in \(0, 1\] and lam in \[0, 1\]"):
            generalized_advantages(values, values, trained, **options)


def test_whitened_values_have_mean_zero_and_std_one() -> None:
    # 1, 3, 2: mean 2, std 1.
    mask = torch.tensor([[True, False], [True, True]])
    got = whiten(rows([1, math.nan], [3, 2]), mask)
    expected = rows([-1, 0], [1, 0]) / (1 + 1e-6)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_values_whiten_to_zero(count: int) -> None:
    mask = torch.arange(3)[None] < count
    assert whiten(rows([5, math.inf, 7]), mask).tolist() == [[0, 0, 0]]


def test_whitening_refuses_a_mask_of_numbers() -> None:
    with pytest.raises(ConfigError, match="expected a mask bool"):
        whiten(torch.zeros(1, 2), torch.ones(1, 2))
