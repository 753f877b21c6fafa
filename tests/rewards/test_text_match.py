import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import Numeric, exact, token_f1
from rewards.text_match import read_number
from tests.sample_trajectories import make_task
from videoseek_env.task import TaskKind, VideoTask


def expecting(answer: str) -> VideoTask:
    return make_task(TaskKind.OPEN_ENDED, answer=answer)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Two red cards", 1.0), (" two\n RED   cards. ", 1.0), ("two red cards.", 1.0),
        ("two red cards..", 0.0), ("two red card", 0.0), ("tworedcards", 0.0), ("", 0.0),
    ],
)  # fmt: skip
def test_exact_forgives_case_space_and_a_full_stop(answer: str, score: float) -> None:
    assert exact(answer, expecting("Two red cards")) == score
    assert exact(answer, expecting("two red  cards.")) == score


def test_exact_folds_what_lower_case_does_not() -> None:
    assert exact("STRASSE", expecting("Straße")) == 1.0


def test_exact_forgives_a_space_before_the_full_stop() -> None:
    assert exact("blue .", expecting("blue")) == 1.0


# --- numbers ---


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7.0), ("-7.5 degrees", -7.5), ("+.5", 0.5), ("about 1,250.5 metres", 1250.5),
        ("1e3", 1000.0), ("2.5E-1", 0.25), ("3.", 3.0), ("1,2,3", 123.0), ("12th", 12.0),
        ("3 or 4", None), ("many", None), ("", None), ("1e999", None), ("3-4", None),
        ("9" * 100, float("9" * 100)), ("9" * 101, None),
        ("x" * 999 + "7", 7.0), ("x" * 1000 + "7", None),  # no further than 1000 characters
    ],
)  # fmt: skip
def test_reading_the_only_number(text: str, number: float | None) -> None:
    assert read_number(text) == number


@settings(deadline=None)
@given(st.text())
def test_reading_any_text_gives_a_finite_number_or_none(text: str) -> None:
    number = read_number(text)
    assert number is None or math.isfinite(number)


@pytest.mark.parametrize(
    ("answer", "score"),
    [("40", 1.0), ("40.0 km", 1.0), ("4e1", 1.0), ("41", 0.0), ("39 or 40", 0.0), ("forty", 0.0)],
)
def test_a_number_is_right_or_wrong(answer: str, score: float) -> None:
    assert Numeric()(answer, expecting("40 km")) == score


# Slack max(2, 0.1 * 40) = 4: 36 to 44, both included. Of -40 the same.
def test_the_larger_tolerance_counts_and_is_inclusive() -> None:
    numeric = Numeric(absolute_tolerance=2, relative_tolerance=0.1)
    for sign in ("", "-"):
        task = expecting(f"{sign}40")
        assert [numeric(f"{sign}{n}", task) for n in (35, 36, 44, 45)] == [0, 1, 1, 0]
    # Slack max(2, 0.1 * 5) = 2.
    assert [numeric(answer, expecting("5")) for answer in ("2.9", "3", "7", "7.1")] == [0, 1, 1, 0]


def test_the_usual_tolerance_is_a_rounding() -> None:
    assert Numeric()("0.30000000000000004", expecting("0.3")) == 1.0
    assert Numeric()("0.300001", expecting("0.3")) == 0.0


def test_an_expected_answer_without_a_number_matches_nothing() -> None:
    assert Numeric()("40", expecting("forty")) == 0.0
    assert Numeric()("forty", expecting("forty")) == 0.0


@pytest.mark.parametrize("tolerance", [-1.0, math.inf, math.nan])
def test_tolerances_are_finite_and_not_negative(tolerance: float) -> None:
    told = "tolerances must be finite and at least 0, got Numeric"
    with pytest.raises(ValueError, match=told):
        Numeric(absolute_tolerance=tolerance)
    with pytest.raises(ValueError, match=told):
        Numeric(relative_tolerance=tolerance)
    Numeric(absolute_tolerance=0.0, relative_tolerance=0.0)


# --- words ---


# "the red card": red, card. "a red, red dog": red, red, dog. One red in common: 2 * 1 / (2 + 3).
def test_token_f1_counts_words_with_repeats_and_without_articles() -> None:
    assert token_f1("a red, red dog", expecting("the red card")) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("answer", "score"),
    [("RED card!", 1.0), ("card red", 1.0), ("red", 2 / 3), ("blue", 0.0), ("", 0.0), ("the", 0.0)],
)
def test_token_f1_of_two_words(answer: str, score: float) -> None:
    assert token_f1(answer, expecting("a red card")) == pytest.approx(score)


def test_token_f1_of_nothing_but_articles() -> None:
    assert token_f1("an", expecting("card")) == 0.0
    assert token_f1("a.", expecting("A")) == 1.0
    for answer in ("", "the", "a an"):
        assert token_f1(answer, expecting("A")) == 0.0


@settings(deadline=None)
@given(st.text(), st.text(min_size=1))
def test_matchers_stay_in_range_and_take_the_answer_itself(answer: str, expected: str) -> None:
    task = expecting(expected)
    assert exact(answer, task) in (0, 1)
    assert 0 <= token_f1(answer, task) <= 1
    assert Numeric()(answer, task) in (0, 1)
    assert exact(expected, task) == 1
    assert token_f1(expected, task) == 1
