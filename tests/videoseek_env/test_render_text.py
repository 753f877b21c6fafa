import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseek_env.render import clock, printable, shorten
from videoseek_env.render.timeline import spread, tick_seconds

ALL_UNICODE = st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF, categories=None))


# text


@given(ALL_UNICODE)
def test_printable_text_encodes_and_has_no_control_character(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert len(shown) == len(text)
    assert not any(ord(char) < 0x20 and char not in "\t\n" for char in shown)
    assert not any(0x7F <= ord(char) <= 0x9F for char in shown)


def test_printable_keeps_ordinary_text() -> None:
    text = "Schöne Grüße, 世界\n\tüber <b>alles</b>"
    assert printable(text) == text


@given(ALL_UNICODE, st.integers(1, 40))
def test_a_shortened_text_is_one_line_of_at_most_the_limit(text: str, limit: int) -> None:
    line = shorten(text, max_characters=limit)
    assert len(line) <= limit
    assert "\n" not in line


def test_shorten_keeps_the_start_and_the_end() -> None:
    line = shorten("a" * 10_000_000 + "<answer>B</answer>", max_characters=60)
    assert line.startswith("aaa")
    assert line.endswith("<answer>B</answer>")


def test_shorten_leaves_a_text_at_the_limit_alone() -> None:
    assert shorten("12345", max_characters=5) == "12345"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, "0:00"), (59.99, "0:59"), (60.0, "1:00"), (3599.9, "59:59"), (3600.0, "1:00:00")],
)
def test_clock_counts_whole_seconds(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


def test_clock_with_tenths_rounds_into_the_next_minute() -> None:
    assert clock(59.96, tenths=True) == "1:00.0"


# timeline


@given(st.floats(0.1, 1e6), st.integers(2, 12))
def test_ticks_start_at_zero_and_stay_inside(duration: float, limit: int) -> None:
    ticks = tick_seconds(duration, max_ticks=limit)
    assert ticks[0] == 0
    assert len(ticks) <= limit
    assert ticks[-1] <= duration


def test_few_frames_are_all_picked() -> None:
    assert spread(3, max_count=8).tolist() == [0, 1, 2]


def test_one_frame_is_picked_of_one() -> None:
    assert spread(1, max_count=8).tolist() == [0]
