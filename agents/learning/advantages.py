"""How much better an action was than expected: for episodes, for their turns, for their tokens.

Advantages over episodes and turns are numpy float64: they are a handful of numbers that are made
once, on the host, and a group whose rewards differ by little must not lose that to rounding.
Advantages over tokens are torch: they come from a value head, batch by batch, on its device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.learning.losses import check_tokens
from videoseek_env.errors import ConfigError, check_one_of

Scale = Literal["std", "none"]
""""std" divides by the group's standard deviation (GRPO); "none" does not (Dr.GRPO)."""

_EPSILON = 1e-6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class GroupAdvantages:
    """One number an episode."""

    values: Floats
    """float64 [B]; 0 in a group that is not informative."""
    is_informative: npt.NDArray[np.bool_]
    """bool [B]; False where the rewards of the episode's group are all but equal: learners drop
    such groups and play others in their place."""


@dataclass(frozen=True, slots=True, eq=False)
class TurnAdvantages:
    """One number a turn."""

    values: Floats
    """float64 [B, T], T the turns of the longest episode; 0 after an episode's end and in a group
    that is not informative."""
    is_informative: npt.NDArray[np.bool_]
    """bool [B], as in `GroupAdvantages`."""


def group_advantages(
    rewards: npt.ArrayLike, groups: npt.ArrayLike, *, scale: Scale = "std", tolerance: float = 1e-4
) -> GroupAdvantages:
    """A_i = (r_i - mean) / (std + 1e-6) over the group of i, the std unbiased.

    Source: GRPO, DeepSeekMath, arXiv 2402.03300, section 4.1; without the std Dr.GRPO,
    arXiv 2503.20783, section 3.2. That groups without a difference are dropped is DAPO,
    arXiv 2503.14476, section 3.2.

    Differs from the paper: a group is without a difference when its std is below a tolerance, since
    equal rewards that were summed in another order are not equal in floating point; its advantages
    are then 0 and not rounding noise divided by 1e-6.

    Exceeded episodes belong to mean and std like any other; that their tokens carry no loss is for
    `losses.token_weights` to say.

    >>> group_advantages([1.0, 0.0, 2.0, 2.0], [7, 7, 8, 8], scale="none").values.tolist()
    [0.5, -0.5, 0.0, 0.0]

    Args:
        rewards: Finite, [B].
        groups: Of which group each episode is: integers or strings, [B], in any order.
        scale: See `Scale`.
        tolerance: A group of a smaller std is not informative; above 0. A group of one never is.

    Raises:
        ConfigError: If a shape or value is none of these.
    """
    member = _members(groups)
    rewards = _finite(rewards, "rewards")
    if rewards.shape != member.shape:
        raise ConfigError(
            f"expected a reward for each of {len(member)} episodes, got {len(rewards)}"
        )
    check_options(scale, tolerance)
    centred = rewards - _group_sums(rewards, member) / _group_sizes(member)
    deviation = _deviation(rewards, member)
    is_informative = deviation >= tolerance
    divisor = deviation + _EPSILON if scale == "std" else 1.0
    return GroupAdvantages(np.where(is_informative, centred / divisor, 0.0), is_informative)


def turn_advantages(
    turn_rewards: Sequence[npt.ArrayLike],
    groups: npt.ArrayLike,
    *,
    scale: Scale = "std",
    tolerance: float = 1e-4,
) -> TurnAdvantages:
    """A_it = (G_it - b_it) / (std + 1e-6), G_it the rewards of episode i from turn t on.

    b_it is the mean of G_jt over the other members j of the group. An episode that is over by turn
    t stays in that mean with its whole return. No action of i enters b_it, so that without scaling
    the policy gradient is unbiased, although episodes stop at different turns. Where the reward
    comes at the end alone, every turn's advantage is that of its episode.

    What is over could count as nothing instead, since it gets nothing any more. That would be
    unbiased too, but varies more: a turn that few others reach is compared with zeros. A mean over
    those still running, oneself included, would not be unbiased: it multiplies turn t by the mean
    of (m_t - 1) / m_t, m_t of them running, which is another number at each turn.

    Source: leave-one-out, Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!", 2019,
    and arXiv 2402.14740; returns-to-go, Sutton et al., "Policy gradient methods", NeurIPS 1999.
    Differs from the paper: by turns, and the scaling, which is GRPO's: one std for all turns of a
    group, the largest of any. Where rewards of turns cancel over an episode, as shaping does, whole
    returns may hardly differ while returns-to-go do.

    >>> turn_advantages([[0.0, 1.0], [1.5, -1.0]], [0, 0], scale="none").values.tolist()
    [[0.5, 2.0], [-0.5, -2.0]]

    Args:
        turn_rewards: Finite; for each episode the reward of each of its turns.
        groups: As for `group_advantages`.
        scale: See `Scale`.
        tolerance: As for `group_advantages`, with the std above.

    Raises:
        ConfigError: If a shape or value is none of these.
    """
    member = _members(groups)
    rewards, is_running = _table(turn_rewards, len(member))
    check_options(scale, tolerance)
    to_go = rewards[:, ::-1].cumsum(axis=1)[:, ::-1]
    whole = rewards.sum(axis=1)
    counted = np.where(is_running, to_go, whole[:, None])
    others = _group_sums(counted, member) - counted
    centred = to_go - others / (_group_sizes(member)[:, None] - 1.0).clip(min=1.0)
    deviation = _deviation(counted, member).max(axis=1, initial=0.0)
    is_informative = deviation >= tolerance
    divisor = deviation[:, None] + _EPSILON if scale == "std" else 1.0
    values = np.where(is_running & is_informative[:, None], centred / divisor, 0.0)
    return TurnAdvantages(values, is_informative)


@torch.no_grad()
def generalized_advantages(
    values: Tensor,
    rewards: Tensor,
    trained: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A_t = delta_t + gamma lam A_t+1, delta_t = r_t + gamma V_t+1 - V_t; A + V are the returns.

    t counts trained tokens alone: from the last token of one reply the recursion goes on at the
    first of the next, over the observation in between as if it were not there. An observation is
    no action, and neither gamma nor lam pays for its length.

    Source: GAE, Schulman et al., arXiv 1506.02438, equation 16, a token a step.
    Differs from the paper: only in which tokens are steps.

    Args:
        values: V, float32 or float64 [B, L]; of the state before each token, on trained tokens;
            the others are not read.
        rewards: Of each token, [B, L]; 0 where not trained. An episode's reward belongs on its last
            trained token.
        trained: Whether the model wrote the token, bool [B, L].
        gamma: Discount of a token, in (0, 1].
        lam: In [0, 1]: 0 trusts the value after one token, 1 only the rewards.
        bootstrap: V after the last trained token, [B]; by default 0. For truncated episodes.

    Returns:
        Advantages and returns, of the type of the values, [B, L], 0 where not trained; without
        gradients.

    Raises:
        ConfigError: If a shape, type or value is none of these.
    """
    check_tokens(trained, values=values, rewards=rewards)
    if not (0 < gamma <= 1 and 0 <= lam <= 1):
        raise ConfigError(f"expected gamma in (0, 1] and lam in [0, 1], got {gamma} and {lam}")
    if bool((rewards[~trained] != 0).any()):
        raise ConfigError(
            "a reward on a token that is not trained would be lost: put it on the trained token "
            "before it, and 0 elsewhere"
        )
    last = values.new_zeros(len(values)) if bootstrap is None else bootstrap.to(values.dtype)
    if last.shape != values.shape[:1]:
        raise ConfigError(f"bootstrap must have shape {tuple(values.shape[:1])}, got {last.shape}")
    # Trained tokens to the front, in order, so that the loop is as long as the longest replies.
    order = (~trained).to(torch.uint8).argsort(dim=1, stable=True)
    order = order[:, : int(trained.sum(1).max())]
    steps = trained.gather(1, order)
    value = torch.where(steps, values.gather(1, order), last[:, None])
    after = torch.cat([value[:, 1:], last[:, None]], dim=1)[:, : value.shape[1]]
    delta = torch.where(steps, rewards.gather(1, order) + gamma * after - value, 0.0)
    packed = _discounted_sums(delta, gamma * lam)
    advantages = torch.zeros_like(values).scatter_(1, order, packed)
    return advantages, torch.where(trained, advantages + values, 0.0)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """(x - mean) / (std + 1e-6) over the tokens of the mask, the std unbiased.

    Of the whole batch at once: what is whitened piece by piece has another mean in each piece.

    Args:
        values: float32 or float64 [B, L]; what is outside the mask is not read.
        mask: bool [B, L].

    Returns:
        [B, L], 0 outside the mask, and everywhere if the mask holds fewer than two tokens.

    Raises:
        ConfigError: If a shape or type is none of these.
    """
    check_tokens(mask, values=values)
    count = mask.sum()
    mean = torch.where(mask, values, 0.0).sum() / count.clamp(min=1)
    centred = torch.where(mask, values - mean, 0.0)
    deviation = (centred.square().sum() / (count - 1).clamp(min=1)).sqrt()
    return centred / (deviation + _EPSILON)


def _discounted_sums(terms: Tensor, discount: float) -> Tensor:
    """S_t = x_t + discount S_t+1 along the last axis of [B, T]."""
    sums, carry = torch.empty_like(terms), torch.zeros_like(terms[:, :1])
    for t in reversed(range(terms.shape[1])):
        carry = terms[:, t : t + 1] + discount * carry
        sums[:, t : t + 1] = carry
    return sums


def _group_sums(values: Floats, member: npt.NDArray[np.intp]) -> Floats:
    """For each episode the sum over its group, of the shape of the values [B, ...]."""
    totals = np.zeros((int(member.max()) + 1, *values.shape[1:]))
    np.add.at(totals, member, values)
    sums: Floats = totals[member]
    return sums


def _group_sizes(member: npt.NDArray[np.intp]) -> Floats:
    return _group_sums(np.ones(len(member)), member)


def _deviation(values: Floats, member: npt.NDArray[np.intp]) -> Floats:
    """The unbiased standard deviation of each episode's group; 0 in a group of one."""
    sizes = _group_sizes(member).reshape(-1, *[1] * (values.ndim - 1))
    centred = values - _group_sums(values, member) / sizes
    variance = _group_sums(centred**2, member) / (sizes - 1.0).clip(min=1.0)
    deviation: Floats = np.sqrt(variance)
    return deviation


def _table(
    turn_rewards: Sequence[npt.ArrayLike], episodes: int
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Rewards [B, T], 0 after an episode's end, and whether an episode has that turn."""
    rows = [_finite(row, f"the rewards of episode {i}") for i, row in enumerate(turn_rewards)]
    if len(rows) != episodes:
        raise ConfigError(f"expected the rewards of {episodes} episodes, got {len(rows)}")
    turns = np.array([len(row) for row in rows])
    is_running = np.arange(turns.max()) < turns[:, None]
    table = np.zeros(is_running.shape)
    table[is_running] = np.concatenate(rows)
    return table, is_running


def _members(groups: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Groups as numbers from 0, [B]."""
    labels = np.asarray(groups)
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iuU":
        raise ConfigError(
            f"groups must be integers or strings, one for each of at least one episode, got "
            f"{labels.dtype} {labels.shape}"
        )
    return np.asarray(np.unique(labels, return_inverse=True)[1])


def _finite(rewards: npt.ArrayLike, name: str) -> Floats:
    try:
        values = np.asarray(rewards, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be numbers: {error}") from error
    if values.ndim != 1:
        raise ConfigError(f"{name} must have one dimension, got shape {values.shape}")
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ConfigError(
            f"{name} must be finite, got {values[at]} at index {at}: mend the reward function"
        )
    return values


def check_options(scale: str, tolerance: float) -> None:
    """Refuse what is no option of advantages over groups.

    Raises:
        ConfigError: If one is none.
    """
    check_one_of(Scale, scale=scale)
    if not tolerance > 0:
        raise ConfigError(f"tolerance must be above 0, got {tolerance}")
