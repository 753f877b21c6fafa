import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewards import Gate, Reward, TrajectoryGuidedReward, score_batch
from rewards.testing import trajectories
from tests.sample_trajectories import answer_reply, crop_reply, make_trajectory
from videoseek_env.trajectory import Trajectory

RIGHT = make_trajectory([crop_reply(10, 20), answer_reply("B")])
WRONG = make_trajectory([crop_reply(10, 20), answer_reply("C")])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(trajectories(), max_size=4))
def test_a_batch_equals_single_scores(batch: list[Trajectory]) -> None:
    reward = TrajectoryGuidedReward()
    scored = score_batch(reward, iter(batch))
    single = [reward(trajectory) for trajectory in batch]
    assert scored.values.dtype == np.float64
    assert scored.values.tolist() == [one.value for one in single]
    for name, column in scored.parts.items():
        assert column.dtype == np.float64
        assert column.tolist() == [one.parts[name] for one in single]


def test_a_part_that_is_missing_is_nan() -> None:
    gate = Gate(
        condition=TrajectoryGuidedReward(), reward=lambda _: Reward(2.0, {"paid": 5.0}), threshold=3
    )
    scored = score_batch(gate, [WRONG, RIGHT])
    assert scored.values.tolist() == [0.0, 2.0]
    assert list(scored.parts) == ["gate", "paid"]
    np.testing.assert_array_equal(scored.parts["gate"], [0.0, 1.0])
    np.testing.assert_array_equal(scored.parts["paid"], [np.nan, 5.0])


def test_whole_numbers_become_floats() -> None:
    scored = score_batch(lambda _: Reward(2, {"calls": 3}), [WRONG, RIGHT])
    assert (scored.values.dtype, scored.parts["calls"].dtype) == (np.float64, np.float64)


def test_no_trajectories_make_an_empty_batch() -> None:
    scored = score_batch(TrajectoryGuidedReward(), [])
    assert (scored.values.shape, scored.values.dtype, dict(scored.parts)) == ((0,), np.float64, {})
