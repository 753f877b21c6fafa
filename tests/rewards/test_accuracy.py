import dataclasses

import pytest

from rewards import Accuracy, accuracy, token_f1
from rewards.accuracy import answer_score, is_choice, is_only_choice
from tests.sample_trajectories import answer_reply, crop_reply, make_task, make_trajectory
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason

CHOICE = make_task()  # options 1, 2, 3, 4; B is right
UNLISTED = dataclasses.replace(CHOICE, options=())


@pytest.mark.parametrize(
    ("answer", "is_b"),
    [
        ("B", True), ("  B\n", True), ("(B)", True), ("(B) 2", True), ("B.", True), ("B. 2", True),
        ("(B)(C)", True), ("B. or C.", True),  # a prefix is all that is read
        ("b", False), ("B)", False), ("Option B", False), ("B 2", False), ("B, (B), B.", False),
        ("A", False), ("", False), ("BB", False), ("( B )", False),
    ],
)  # fmt: skip
def test_how_a_choice_is_written(answer: str, is_b: bool) -> None:
    assert is_choice(answer, "B") is is_b


@pytest.mark.parametrize(
    ("answer", "is_only_b"),
    [
        ("B", True), (" B ", True), ("(B)", True), ("B.", True),
        ("B. 2", True), ("(B) 2", True), ("B 2", True), ("B.  2 ", True),
        ("B. 3", False), ("B. 2 or 3", False), ("B. or C.", False), ("(B)(C)", False),
        ("B, (B), B.", False), ("B C", False), ("A", False), ("", False), ("A. 2", False),
    ],
)  # fmt: skip
def test_only_the_right_option_and_its_own_text(answer: str, is_only_b: bool) -> None:
    assert is_only_choice(answer, CHOICE) is is_only_b


def test_the_case_of_an_options_text_does_not_matter() -> None:
    task = dataclasses.replace(CHOICE, options=("Red", " Blue "))
    assert is_only_choice("B. blue", task)
    assert is_only_choice("B. BLUE", task)
    assert not is_only_choice("B. red", task)


@pytest.mark.parametrize(
    ("answer", "is_only_b"),
    [
        ("B", True), ("(B)", True), ("B.", True), ("B. a blue card", True), ("(B) Vitamin C", True),
        ("B. A man", True), ("B. or so", True),
        ("B. or C.", False), ("(B)(C)", False), ("(B) or (C)", False), ("B. blue, C. green", False),
        ("B. C", False), ("B. C D", False), ("(B) or C or D", False), ("B. C, D!", False),
        ("B and C", False), ("B blue", False), ("Bob", False), ("C", False), ("", False),
    ],
)  # fmt: skip
def test_where_the_options_are_unknown_no_further_letter_may_stand(
    answer: str, is_only_b: bool
) -> None:
    assert is_only_choice(answer, UNLISTED) is is_only_b


# Without options the answer may be any text; "yes" has no place in the alphabet.
@pytest.mark.parametrize("expected", ["yes", "b", "AB", "1"])
def test_an_answer_that_is_no_letter_is_compared_as_it_is(expected: str) -> None:
    task = dataclasses.replace(UNLISTED, answer=expected)
    assert is_only_choice(expected, task)
    assert is_only_choice(f"({expected})", task)
    assert not is_only_choice("no", task)


def test_the_first_option_is_known_too() -> None:
    task = dataclasses.replace(CHOICE, answer="A")
    assert is_only_choice("A. 1", task)
    assert not is_only_choice("A. 2", task)


# --- the score ---


def score(answer: str, task: VideoTask, open_ended: Accuracy = Accuracy()) -> float:  # noqa: B008
    return open_ended(make_trajectory([answer_reply(answer)], task)).value


@pytest.mark.parametrize("kind", [kind for kind in TaskKind if kind.is_multiple_choice])
def test_a_choice_is_right_or_wrong(kind: TaskKind) -> None:
    assert score("B", make_task(kind)) == 1.0
    assert score("C", make_task(kind)) == 0.0


def test_free_text_is_the_matchers_business() -> None:
    task = make_task(TaskKind.OPEN_ENDED, answer="two red cards")
    assert score("Two red cards.", task) == 1.0
    assert score("two cards", task) == 0.0
    # Two of two words right, two of three found: 2 * 1 * 2/3 / (1 + 2/3) = 0.8.
    assert score("two cards", task, Accuracy(open_ended=token_f1)) == pytest.approx(0.8)


# Answer [10, 30) of clue [10, 20): 10 / 20. Of clues [10, 20) and [40, 50): 10 / 30.
def test_a_segment_scores_its_iou() -> None:
    told = '{"temporal_segment": [10, 30]}'
    assert score(told, make_task(TaskKind.TEMPORAL_GROUNDING, answer="")) == 0.5
    several = make_task(TaskKind.TEMPORAL_GROUNDING, ((10, 20), (40, 50)), answer="")
    assert score(told, several) == pytest.approx(1 / 3)


@pytest.mark.parametrize("told", ["", "10 to 20", "[10, 20]", '{"temporal_segment": [10, 10]}'])
def test_what_is_no_segment_scores_nothing(told: str) -> None:
    assert score(told, make_task(TaskKind.TEMPORAL_GROUNDING, answer="")) == 0.0
    assert answer_score(told, "", TaskKind.TEMPORAL_GROUNDING, [(10, 20)]) == 0.0


@pytest.mark.parametrize("kind", TaskKind)
def test_no_answer_scores_nothing(kind: TaskKind) -> None:
    task = make_task(kind, answer="" if kind is TaskKind.TEMPORAL_GROUNDING else "B")
    assert accuracy(make_trajectory([crop_reply(10, 20)], task)) == 0.0
    assert accuracy(make_trajectory([], task)) == 0.0
    cut = make_trajectory([answer_reply("B")], task, end_reason=EndReason.REPLY_CUT)
    assert accuracy(cut) == 0.0


def test_a_rewards_value_has_no_parts() -> None:
    reward = Accuracy()(make_trajectory([answer_reply("B")]))
    assert (reward.value, reward.parts) == (1.0, {})
    assert accuracy(make_trajectory([answer_reply("B")])) == 1.0
