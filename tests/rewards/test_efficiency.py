import pytest

from rewards import OverlongPenalty, Reward, TokenEfficiency, TurnEfficiency
from rewards.testing import example_task, play
from tests.sample_trajectories import answer_reply, crop_reply, make_trajectory
from videoseek_env.task import TaskKind


# k calls, the first free: 1, 1, 0.95, 0.9.
@pytest.mark.parametrize(("calls", "value"), [(0, 1.0), (1, 1.0), (2, 0.95), (3, 0.9)])
def test_each_call_beyond_the_free_one_costs(calls: int, value: float) -> None:
    trajectory = make_trajectory([*[crop_reply(1, 5)] * calls, answer_reply("B")])
    reward = TurnEfficiency()(trajectory)
    assert reward.value == pytest.approx(value)
    assert reward.parts == {"calls": calls}


# 1 - 0.4 * (5 - 2) < 0.
def test_efficiency_is_never_below_zero() -> None:
    trajectory = make_trajectory([*[crop_reply(1, 5)] * 5, answer_reply("B")])
    assert TurnEfficiency(penalty=0.4, free_calls=2)(trajectory).value == 0.0
    assert TurnEfficiency(penalty=0.2, free_calls=2)(trajectory).value == pytest.approx(0.4)
    assert TurnEfficiency(penalty=0.2, free_calls=0)(trajectory).value == 0.0


def test_an_empty_episode_made_no_call() -> None:
    assert TurnEfficiency()(make_trajectory([])) == Reward(1.0, {"calls": 0.0})


# The overview costs 10 tokens, a fine crop 16 at most: 2 pairs of 8 cells or fewer.
def test_visual_tokens_use_up_the_budget() -> None:
    task = example_task(TaskKind.SINGLE_CLUE_TOOL)
    blind = play(task, [answer_reply("B")])
    assert TokenEfficiency(budget_tokens=40)(blind) == Reward(0.75, {"visual_tokens": 10.0})
    assert TokenEfficiency(budget_tokens=10)(blind).value == 0.0
    assert TokenEfficiency(budget_tokens=9)(blind).value == 0.0
    looked = play(task, [crop_reply(40, 50), answer_reply("B")])
    tokens = looked.visual_tokens
    assert tokens > 10
    assert TokenEfficiency(budget_tokens=2 * tokens)(looked).value == 0.5


@pytest.mark.parametrize("budget", [0, -1])
def test_a_token_budget_is_above_zero(budget: int) -> None:
    with pytest.raises(ValueError, match=f"budget_tokens must be above zero, got {budget}"):
        TokenEfficiency(budget_tokens=budget)
    TokenEfficiency(budget_tokens=1)


# Limit 100, buffer 40: nothing up to 60, then -1/40 a token, -1 at the limit and on beyond it.
@pytest.mark.parametrize(
    ("lengths", "value"),
    [
        ([], 0.0),
        ([60], 0.0),
        ([30, 30], 0.0),
        ([61], -0.025),
        ([50, 30], -0.5),
        ([100], -1.0),
        ([140], -2.0),
    ],
)
def test_the_overlong_slope(lengths: list[int], value: float) -> None:
    trajectory = make_trajectory(["x" * length for length in lengths])
    penalty = OverlongPenalty(limit_tokens=100, buffer_tokens=40, count_tokens=len)
    reward = penalty(trajectory)
    assert reward.value == pytest.approx(value)
    assert reward.parts == {"reply_tokens": sum(lengths)}


# Four bytes are a token: 240 bytes are 60.
def test_tokens_are_approximate_unless_a_tokenizer_counts() -> None:
    penalty = OverlongPenalty(limit_tokens=60, buffer_tokens=1)
    assert penalty(make_trajectory(["x" * 240])).value == -1.0
    assert penalty(make_trajectory(["x" * 236])).value == 0.0


@pytest.mark.parametrize(("limit", "buffer"), [(10, 0), (10, -1), (10, 11), (0, 0)])
def test_the_buffer_lies_within_the_limit(limit: int, buffer: int) -> None:
    with pytest.raises(ValueError, match="expected 0 < buffer_tokens <= limit_tokens, got Over"):
        OverlongPenalty(limit_tokens=limit, buffer_tokens=buffer)
    OverlongPenalty(limit_tokens=10, buffer_tokens=10)
