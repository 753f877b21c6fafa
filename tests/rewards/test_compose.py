import math
import pickle

import pytest

from rewards import Accuracy, Clipped, Format, Gate, Reward, WeightedSum
from tests.sample_trajectories import answer_reply, crop_reply, make_trajectory
from videoseek_env.trajectory import Trajectory

RIGHT = make_trajectory([crop_reply(10, 20), answer_reply("B")])
WRONG = make_trajectory([crop_reply(10, 20), answer_reply("C")])


def worth(value: float, **parts: float) -> object:
    def reward(trajectory: Trajectory, /) -> Reward:
        return Reward(value, parts)

    return reward


# 2 * 1 + 0.5 * 1; the format's own part counts one tool turn.
def test_a_weighted_sum_and_its_parts() -> None:
    reward = WeightedSum({"acc": (2.0, Accuracy()), "format": (0.5, Format())})
    assert reward(RIGHT) == Reward(2.5, {"acc": 1.0, "format": 1.0, "format/tool_turns": 1.0})
    assert reward(WRONG).value == 0.5


def test_weights_may_be_negative_and_terms_may_nest() -> None:
    inner = WeightedSum({"acc": (1.0, Accuracy())})
    outer = WeightedSum({"task": (1.0, inner), "cost": (-0.25, worth(2.0))})  # type: ignore[dict-item]
    assert outer(RIGHT) == Reward(0.5, {"task": 1.0, "task/acc": 1.0, "cost": 2.0})


def test_a_sum_keeps_its_own_terms_and_travels() -> None:
    terms = {"acc": (1.0, Accuracy())}
    reward = WeightedSum(terms)  # type: ignore[arg-type]
    terms["late"] = (1.0, Accuracy())
    assert list(reward.terms) == ["acc"]
    with pytest.raises(TypeError):
        reward.terms["late"] = (1.0, Accuracy())  # type: ignore[index]
    assert pickle.loads(pickle.dumps(reward)) == reward


def test_a_sum_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a weighted sum needs at least one term$"):
        WeightedSum({})


def test_a_gate_pays_where_its_condition_holds() -> None:
    gate = Gate(condition=Accuracy(), reward=Format(), otherwise=-1.0)
    assert gate(RIGHT) == Reward(1.0, {"tool_turns": 1.0, "gate": 1.0})
    assert gate(WRONG) == Reward(-1.0, {"gate": 0.0})


def test_a_gates_threshold_is_inclusive_and_one_by_default() -> None:
    paid = worth(7.0)
    for value, threshold, expected in ((0.5, 0.5, 7.0), (0.4, 0.5, 0.0), (0.6, 0.5, 7.0)):
        gate = Gate(condition=worth(value), reward=paid, threshold=threshold)  # type: ignore[arg-type]
        assert gate(RIGHT).value == expected
    assert Gate(condition=worth(0.99), reward=paid)(RIGHT).value == 0.0  # type: ignore[arg-type]
    assert Gate(condition=worth(math.nan), reward=paid)(RIGHT).value == 0.0  # type: ignore[arg-type]
    assert Gate(condition=worth(1.0), reward=paid)(RIGHT).value == 7.0  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "clipped"), [(-3, -1), (-1, -1), (0.5, 0.5), (2, 2), (9, 2)])
def test_a_clipped_reward_keeps_its_parts(value: float, clipped: float) -> None:
    reward = Clipped(worth(value, inner=5.0), -1, 2)  # type: ignore[arg-type]
    assert reward(RIGHT) == Reward(clipped, {"inner": 5.0})


def test_a_range_is_not_upside_down() -> None:
    with pytest.raises(ValueError, match=r"expected low <= high, got \[1, 0\]"):
        Clipped(Accuracy(), 1, 0)
    with pytest.raises(ValueError, match="expected low <= high"):
        Clipped(Accuracy(), math.nan, 0)
    assert Clipped(Accuracy(), 0.5, 0.5)(WRONG).value == 0.5
