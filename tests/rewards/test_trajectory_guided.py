import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import Reward, TrajectoryGuidedReward
from tests.sample_trajectories import answer_reply, crop_reply, make_task, make_trajectory
from videoseek_env.task import TaskKind
from videoseek_env.trajectory import EndReason

REWARD = TrajectoryGuidedReward()


def score(replies: list[str], kind: TaskKind, clues: list[tuple[float, float]]) -> Reward:
    return REWARD(make_trajectory(replies, make_task(kind, clues)))


# The crop equals the clue: g1 = (1 + 1 + 1 + (1 + 1)/2)/4 = 1, bonus (1 - 0)(1 + 1)/2 = 1; 1 + 1 +
# 1 = 3.
def test_the_gold_single_clue_trajectory_scores_three() -> None:
    reward = score([crop_reply(10, 20), answer_reply("B")], TaskKind.SINGLE_CLUE_TOOL, [(10, 20)])
    assert reward.value == 3.0
    assert reward.parts == {"acc": 1, "format": 1, "bonus": 1, "iou": 1, "tool_turns": 1}


# Crop [10, 20) of clue [15, 20): IoU 1/2, IoP 1/2, IoG 1; hulls' centres 15 and 17.5, joint hull
# 10: DIoU = 0.5 - 0.0625 = 0.4375, (DIoU + 1)/2 = 0.71875. g1 = (0.5 + 0.5 + 1 + 0.71875)/4 =
# 0.6796875; bonus = (0.6796875 + 1)/2 = 0.83984375.
def test_a_loose_single_clue_crop() -> None:
    reward = score([crop_reply(10, 20), answer_reply("B")], TaskKind.SINGLE_CLUE_TOOL, [(15, 20)])
    assert reward.parts["bonus"] == pytest.approx(0.83984375)
    assert reward.value == pytest.approx(2.83984375)


# Three calls: patience 1 - 0.05 * 2 = 0.9. All three equal the clue, so g1 = 1: bonus 0.9.
def test_each_further_call_of_a_single_clue_question_costs_five_percent() -> None:
    replies = [crop_reply(10, 20)] * 3 + [answer_reply("B")]
    assert score(replies, TaskKind.SINGLE_CLUE_TOOL, [(10, 20)]).parts["bonus"] == pytest.approx(
        0.9
    )


# Clues [10, 20) and [40, 50); crops [10, 20) and [40, 60): IoU 20/30, IoP 20/30, IoG 1.
# g2 = (2 * 2/3 + 2/3 + 1)/4 = 0.75; bonus (0.75 + 1)/2 = 0.875. Calls cost nothing here.
def test_a_multi_clue_trajectory() -> None:
    replies = [crop_reply(10, 20), crop_reply(40, 60), answer_reply("B")]
    reward = score(replies, TaskKind.MULTI_CLUE_TOOL, [(10, 20), (40, 50)])
    assert reward.parts["bonus"] == pytest.approx(0.875)


@pytest.mark.parametrize("kind", [TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL])
def test_tool_questions_pay_no_bonus_without_a_call(kind: TaskKind) -> None:
    assert score([answer_reply("B")], kind, [(10, 20)]).value == 2.0


# A crop that misses: g = 0 for several clues, bonus 1/2. For one clue DIoU still tells how far off:
# [60, 70) and [10, 20): centres 50 apart, hull 60: DIoU = -(5/6)^2, g1 = (1 - 25/36)/2/4 = 11/288.
def test_a_crop_that_misses_earns_about_half_the_bonus() -> None:
    replies = [crop_reply(60, 70), answer_reply("B")]
    assert score(replies, TaskKind.MULTI_CLUE_TOOL, [(10, 20)]).parts["bonus"] == 0.5
    single = score(replies, TaskKind.SINGLE_CLUE_TOOL, [(10, 20)]).parts["bonus"]
    assert single == pytest.approx((11 / 288 + 1) / 2)


def test_direct_multi_clue_questions_pay_half_whatever_the_calls() -> None:
    assert score([answer_reply("B")], TaskKind.MULTI_CLUE_DIRECT, [(1, 2)]).value == 2.5
    replies = [crop_reply(1, 2), answer_reply("B")]
    assert score(replies, TaskKind.MULTI_CLUE_DIRECT, [(1, 2)]).value == 2.5


# 0.75 (1 - 2 * 0.05 k): 0.75 without a call, 0.75 * 0.8 = 0.6 with two.
def test_direct_single_clue_questions_pay_less_for_each_call() -> None:
    assert score([answer_reply("B")], TaskKind.SINGLE_CLUE_DIRECT, [(1, 2)]).value == 2.75
    replies = [crop_reply(1, 2), crop_reply(1, 2), answer_reply("B")]
    reward = score(replies, TaskKind.SINGLE_CLUE_DIRECT, [(1, 2)])
    assert reward.parts["bonus"] == pytest.approx(0.6)


# Answer [10, 30) of clue [10, 20): IoU 1/2, format 1.
def test_temporal_grounding_scores_iou_and_format() -> None:
    task = make_task(TaskKind.TEMPORAL_GROUNDING, answer="")
    reply = answer_reply('{"temporal_segment": [10, 30]}')
    assert REWARD(make_trajectory([reply], task)).value == pytest.approx(1.5)
    exact = answer_reply('{"temporal_segment": [20, 10]}')  # reversed ends are swapped
    assert REWARD(make_trajectory([exact], task)).value == 2.0
    assert REWARD(make_trajectory([answer_reply("ten to twenty")], task)).value == 1.0


def test_open_ended_answers_compare_as_text() -> None:
    task = make_task(TaskKind.OPEN_ENDED, answer="Two red cards")
    assert REWARD(make_trajectory([answer_reply(" two  RED cards.")], task)).value == 2.0
    assert REWARD(make_trajectory([answer_reply("two")], task)).value == 1.0


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [("B", 1), (" B\n", 1), ("(B) two", 1), ("B. two", 1),
     ("b", 0), ("B)", 0), ("Option B", 0), ("A B", 0), ("", 0)],
)  # fmt: skip
def test_how_a_choice_may_be_written(answer: str, is_right: int) -> None:
    assert REWARD(make_trajectory([answer_reply(answer)])).parts["acc"] == is_right


def test_a_wrong_answer_has_no_bonus() -> None:
    reward = score([crop_reply(10, 20), answer_reply("C")], TaskKind.SINGLE_CLUE_TOOL, [(10, 20)])
    assert reward.value == 1.0


# One fault in two turns: format 1/2, so no bonus: 1 + 0.5.
def test_a_format_fault_takes_the_bonus_too() -> None:
    replies = [crop_reply(10, 20, "ultra"), answer_reply("B")]
    assert score(replies, TaskKind.SINGLE_CLUE_TOOL, [(10, 20)]).value == 1.5


def test_an_episode_without_an_answer_scores_zero() -> None:
    assert REWARD(make_trajectory([crop_reply(10, 20)] * 6)).value == 0.0
    assert REWARD(make_trajectory([])).value == 0.0


def test_a_cut_reply_is_no_answer_even_if_what_was_kept_reads_like_one() -> None:
    trajectory = make_trajectory([answer_reply("B") + "x"], end_reason=EndReason.REPLY_CUT)
    assert REWARD(trajectory).value == 0.0


# Published defect: the code tests the weighted parts for 1. 2 * 1 + 0.5 * 1 + 1 = 3.5.
def test_weights_other_than_one_keep_the_bonus() -> None:
    reward = TrajectoryGuidedReward(accuracy_weight=2.0, format_weight=0.5)
    trajectory = make_trajectory([crop_reply(10, 20), answer_reply("B")])
    assert reward(trajectory).value == 3.5
    assert reward(trajectory).parts["acc"] == 1.0


@given(
    st.lists(st.text() | st.builds(crop_reply, st.floats(), st.floats()), max_size=5),
    st.text() | st.builds(answer_reply, st.text()),
    st.sampled_from(list(TaskKind)),
)
def test_no_reply_leaves_the_range(replies: list[str], last: str, kind: TaskKind) -> None:
    reward = REWARD(make_trajectory([*replies, last], make_task(kind)))
    assert 0 <= reward.value <= 3
