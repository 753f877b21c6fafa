import dataclasses

import pytest

from rewards import TrajectoryGuidedReward, token_f1
from rewards.testing import example_task, play
from tests.sample_trajectories import answer_reply, crop_reply, make_trajectory
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind, VideoTask

REWARD = TrajectoryGuidedReward.hardened()
SINGLE = example_task(TaskKind.SINGLE_CLUE_TOOL)  # clue [40, 50) of 100 s: s = 0.1
MULTI = example_task(TaskKind.MULTI_CLUE_TOOL)  # clues [20, 30) and [60, 70): s = 0.2
DIRECT = example_task(TaskKind.SINGLE_CLUE_DIRECT)
SEGMENT = example_task(TaskKind.TEMPORAL_GROUNDING)


def bonus(
    task: VideoTask, *crops: tuple[float, float], reward: TrajectoryGuidedReward = REWARD
) -> float:
    replies = [*(crop_reply(*place) for place in crops), answer_reply("B")]
    scored = reward(play(task, replies))
    assert scored.value == pytest.approx(2 + scored.parts["bonus"])
    return scored.parts["bonus"]


CROPS_AND_BONUS = [
    ((40, 50), 1),
    ((40, 60), 4 / 9),
    ((40, 45), 4 / 9),
    ((0, 100), 0),
    ((35, 85), 1 / 9),
    ((0, 20), 0),
]


# IoU of the crop with [40, 50), beyond s = 0.1: (10/20 - 0.1)/0.9 = 4/9; (5/10 - 0.1)/0.9 too;
# [0, 100) has 0.1; [35, 85) has 0.2, 1/9; [0, 20) has 0 and would be below zero.
@pytest.mark.parametrize(
    ("crop", "paid"),
    [
        ((40, 50), 1),
        ((40, 60), 4 / 9),
        ((40, 45), 4 / 9),
        ((0, 100), 0),
        ((35, 85), 1 / 9),
        ((0, 20), 0),
    ],
)
def test_a_single_crop_is_paid_beyond_showing_everything(
    crop: tuple[float, float], paid: float
) -> None:
    assert bonus(SINGLE, crop) == pytest.approx(paid)


# The written crop passes the end; [40, 100) is what was shown: IoU 10/60, (1/6 - 0.1)/0.9 = 2/27.
def test_crops_count_as_they_were_carried_out() -> None:
    assert bonus(SINGLE, (40, 900)) == pytest.approx(2 / 27)


# One call a clue is free: 1, 0.95, 0.9 of the bonus.
def test_calls_beyond_one_a_clue_cost() -> None:
    clue = (40, 50)
    assert [bonus(SINGLE, *[clue] * k) for k in (1, 2, 3)] == pytest.approx([1, 0.95, 0.9])
    first, second = (20, 30), (60, 70)
    assert bonus(MULTI, first, second) == pytest.approx(1)
    assert bonus(MULTI, first, second, first) == pytest.approx(0.95)
    # One of two clues: IoU 1/2, (0.5 - 0.2)/0.8 = 0.375, with a call to spare.
    assert bonus(MULTI, first) == pytest.approx(0.375)
    assert bonus(MULTI, first, first) == pytest.approx(0.375)


# lambda 0.6: 1 - 0.6 * 2 < 0.
def test_patience_is_never_below_zero() -> None:
    strict = TrajectoryGuidedReward.hardened(turn_penalty=0.6)
    assert bonus(SINGLE, (40, 50), (40, 50), reward=strict) == pytest.approx(0.4)
    assert bonus(SINGLE, *[(40, 50)] * 3, reward=strict) == 0.0


def test_tool_questions_need_a_crop() -> None:
    assert bonus(SINGLE) == bonus(MULTI) == 0.0


def test_a_task_without_clues_has_no_bonus() -> None:
    task = dataclasses.replace(SINGLE, clues=())
    assert bonus(task, (40, 50)) == 0.0


# 0.75 (1 - 2 * 0.05 k); lambda 0.4: 0.75 * 0.2, then never below zero.
def test_direct_questions_pay_less_for_each_call() -> None:
    assert [bonus(DIRECT, *[(1, 5)] * k) for k in (0, 1, 2)] == pytest.approx([0.75, 0.675, 0.6])
    strict = TrajectoryGuidedReward.hardened(turn_penalty=0.4)
    assert bonus(DIRECT, (1, 5), reward=strict) == pytest.approx(0.15)
    assert bonus(DIRECT, (1, 5), (1, 5), reward=strict) == 0.0
    assert bonus(example_task(TaskKind.MULTI_CLUE_DIRECT)) == 0.5


# The published single-clue bonus does fall below zero: 0.75 (1 - 2 * 0.4 * 2) = -0.45.
def test_the_published_bonus_has_no_such_floor() -> None:
    published = TrajectoryGuidedReward(turn_penalty=0.4)
    assert bonus(DIRECT, (1, 5), (1, 5), reward=published) == pytest.approx(-0.45)


# Clues that are the whole video: showing everything is right, and tells nothing apart.
def test_clues_that_fill_the_video_pay_no_bonus() -> None:
    task = dataclasses.replace(SINGLE, clues=(Segment(0.0, 100.0),))
    assert bonus(task, (0, 100)) == 0.0
    past_the_end = dataclasses.replace(SINGLE, clues=(Segment(0.0, 130.0),))
    assert bonus(past_the_end, (0, 100)) == 0.0


# [60, 160) of 100 s: what can be shown of it is [60, 100], 0.4 of the video; (0.5 - 0.4)/0.6.
def test_clues_count_as_far_as_the_video_goes() -> None:
    task = dataclasses.replace(SINGLE, clues=(Segment(60.0, 160.0),))
    assert bonus(task, (60, 100)) == pytest.approx(1)
    assert bonus(task, (60, 80)) == pytest.approx(1 / 6)


# An answer is held against the annotation as it is: 40 of 100 s in common.
def test_an_answered_stretch_is_compared_with_all_of_the_clue() -> None:
    task = dataclasses.replace(SEGMENT, clues=(Segment(60.0, 160.0),))
    answer = '<think>There.</think><answer>{"temporal_segment": [60, 100]}</answer>'
    assert REWARD(play(task, [answer])).parts["acc"] == pytest.approx(0.4)


# 100 s of video from 900 s on: s = 10/100, not 10/1000.
def test_a_late_clock_does_not_change_the_share() -> None:
    task = dataclasses.replace(SINGLE, clues=(Segment(940.0, 950.0),))
    for crop, paid in (((900, 1000), 0.0), ((940, 960), 4 / 9)):
        trajectory = play(task, [crop_reply(*crop), answer_reply("B")], start_seconds=900.0)
        assert REWARD(trajectory).parts["bonus"] == pytest.approx(paid)


def test_a_video_of_unknown_length_pays_no_bonus() -> None:
    trajectory = make_trajectory([crop_reply(10, 20), answer_reply("B")])
    assert REWARD(dataclasses.replace(trajectory, duration_seconds=0.0)).value == 2.0


# --- temporal grounding ---


def segment_score(told: str, task: VideoTask = SEGMENT) -> float:
    return REWARD(play(task, [answer_reply(told)])).value


# IoU beyond s = 0.1, plus 1 for the form: [40, 60) has 0.5, (0.5 - 0.1)/0.9 = 4/9.
@pytest.mark.parametrize(
    ("told", "paid"),
    [([40, 50], 1), ([40, 60], 4 / 9), ([0, 100], 0), ([0, 20], 0), ([0, 90], 1 / 81)],
)
def test_a_segment_is_paid_beyond_the_whole_video(told: list[float], paid: float) -> None:
    assert segment_score(f'{{"temporal_segment": {told}}}') == pytest.approx(1 + paid)


# The whole video is the right answer, half of it has IoU 1/2.
def test_a_segment_that_fills_the_video_scores_its_iou() -> None:
    task = dataclasses.replace(SEGMENT, clues=(Segment(0.0, 100.0),))
    assert segment_score('{"temporal_segment": [0, 100]}', task) == 2.0
    assert segment_score('{"temporal_segment": [0, 50]}', task) == 1.5


# A video of one second, clue [0, 0.5): s = 0.5; [0, 0.75) has IoU 2/3, (2/3 - 1/2)/(1/2) = 1/3.
def test_a_video_may_be_a_second_long() -> None:
    task = dataclasses.replace(SEGMENT, clues=(Segment(0.0, 0.5),), duration_seconds=1.0)
    assert segment_score('{"temporal_segment": [0, 0.75]}', task) == pytest.approx(4 / 3)


# --- answers ---


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (answer_reply("B"), 2.75),
        (answer_reply("B. blue"), 2.75),
        (answer_reply("(B) Blue"), 2.75),
        (answer_reply("B. or C."), 1.0),
        (answer_reply("(B)(A)(C)(D)"), 1.0),
        (answer_reply("C"), 1.0),
        (answer_reply("C") + "<answer>B</answer>", 0.0),  # two answers: wrong, and no form
        (answer_reply("B") + "<answer>B</answer>", 0.0),
        ("<think><answer>A</answer></think><answer>B</answer>", 0.0),
        ("<think><grounding>{}</grounding></think><answer>B</answer>", 1.0),  # no form
        ("I say <answer>B</answer>", 1.0),
        ("B", 0.0),
    ],
)
def test_answers_that_hedge_are_wrong(reply: str, value: float) -> None:
    assert REWARD(play(DIRECT, [reply])).value == value


def test_free_text_is_left_to_the_matcher() -> None:
    task = example_task(TaskKind.OPEN_ENDED)  # a blue card
    assert REWARD(play(task, [answer_reply("A blue card.")])).value == 2.0
    lenient = TrajectoryGuidedReward.hardened(open_ended=token_f1)
    # Words red, card of blue, card: 2 * 1 / (2 + 2).
    assert lenient(play(task, [answer_reply("a red card")])).value == 1.5
    assert lenient(play(task, [answer_reply("x") + "<answer>a blue card</answer>"])).value == 0.0


def test_tags_inside_a_thought_break_the_form_of_the_episode() -> None:
    looked = crop_reply(40, 50).replace("look", "<answer>")
    assert REWARD(play(SINGLE, [looked, answer_reply("B")])).value == 1.0


# 2 * 1 + 0.5 * 1 + 1.
def test_weights_leave_the_bonus_alone() -> None:
    reward = TrajectoryGuidedReward.hardened(accuracy_weight=2, format_weight=0.5)
    trajectory = play(SINGLE, [crop_reply(40, 50), answer_reply("B")])
    assert reward(trajectory).value == 3.5
    expected = {"acc": 1, "format": 1, "bonus": 1, "iou": 1, "tool_turns": 1}
    assert reward(trajectory).parts == expected


def test_unknown_rules_are_told() -> None:
    with pytest.raises(ValueError, match='rules must be "published" or "hardened", got \'soft\''):
        TrajectoryGuidedReward(rules="soft")  # type: ignore[arg-type]
    assert REWARD.rules == "hardened"
    assert TrajectoryGuidedReward().rules == "published"
    assert TrajectoryGuidedReward.hardened() == dataclasses.replace(
        TrajectoryGuidedReward(), rules="hardened"
    )
