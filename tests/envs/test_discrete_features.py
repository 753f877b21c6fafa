import hashlib
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.discrete_features import (
    CODE_BITS,
    contact_sheet,
    encode_words,
    evenly_picked,
    resize_by_area,
    sheet_grid,
    sheet_shape,
    split_sheet,
    times_as_shares,
)
from videoseek_env.budget import FrameSize
from videoseek_env.segment import Segment


def codes(text: str, words: int) -> npt.NDArray[np.float32]:
    return encode_words(text, words).reshape(words, CODE_BITS)


@given(frames=st.integers(1, 200))
def test_a_grid_holds_its_frames_without_an_empty_row(frames: int) -> None:
    rows, columns = sheet_grid(frames)
    assert (rows - 1) * columns < frames <= rows * columns
    assert rows <= columns


@settings(max_examples=50)
@given(
    count=st.integers(0, 12), spare=st.integers(0, 5), height=st.integers(1, 9),
    width=st.integers(1, 9), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_sheet_taken_apart_gives_its_frames_and_black(
    count: int, spare: int, height: int, width: int, seed: int
) -> None:
    cells, size = max(1, count + spare), FrameSize(height, width)
    rng = np.random.default_rng(seed)
    frames = rng.integers(1, 256, (count, height, width, 3), dtype=np.uint8)
    sheet = contact_sheet(frames, size, cells=cells)
    assert sheet.shape == sheet_shape(cells, size) and sheet.flags["C_CONTIGUOUS"]
    taken = split_sheet(sheet, size)
    np.testing.assert_array_equal(taken[:count], frames)
    assert not taken[count:].any()


def test_frames_fill_a_sheet_row_by_row() -> None:
    frames = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 3), np.uint8)
    # Five cells: two rows of three, each one pixel high and two wide.
    expected = [[1, 1, 2, 2, 3, 3], [4, 4, 5, 5, 0, 0]]
    for channel in contact_sheet(frames, FrameSize(1, 2), cells=5):
        np.testing.assert_array_equal(channel, expected)


def grey(rows: list[list[int]]) -> npt.NDArray[np.uint8]:
    return np.repeat(np.array(rows, np.uint8)[None, :, :, None], 3, axis=3)


@pytest.mark.parametrize(
    ("rows", "size", "expected"),
    [
        ([[0, 100], [20, 200]], (1, 1), [[80]]),
        # Half a pixel of the middle goes to either side: (30 + 60 / 2) / 1.5, (60 / 2 + 90) / 1.5.
        ([[30, 60, 90]], (1, 2), [[40, 80]]),
        ([[10, 20]], (2, 4), [[10, 10, 20, 20]] * 2),
        ([[255] * 7] * 7, (3, 3), [[255] * 3] * 3),
    ],
)
def test_a_new_pixel_is_the_mean_of_its_area(
    rows: list[list[int]], size: tuple[int, int], expected: list[list[int]]
) -> None:
    np.testing.assert_array_equal(resize_by_area(grey(rows), FrameSize(*size)), grey(expected))


def test_no_frames_resize_to_none() -> None:
    empty = np.zeros((0, 7, 5, 3), np.uint8)
    assert resize_by_area(empty, FrameSize(2, 3)).shape == (0, 2, 3, 3)


def test_words_stay_in_order_and_lose_their_case() -> None:
    np.testing.assert_array_equal(codes("The RED card?", 4), codes("the red card ?", 4))
    red_card, card_red = codes("red card", 2), codes("card red", 2)
    np.testing.assert_array_equal(red_card, card_red[::-1])
    assert not np.array_equal(red_card, card_red)


def test_what_is_missing_is_zero_and_what_is_too_long_is_cut() -> None:
    two = codes("red card", 4)
    assert set(np.unique(two[:2])) == {-1.0, 1.0} and not two[2:].any()
    np.testing.assert_array_equal(codes("red card and more", 2), two[:2])
    assert not encode_words("", 3).any()


@pytest.mark.parametrize("text", ["digit 7", "é🎬中 ?!", "\ud800 lone", "x" * 10_000, "\x00\n"])
def test_any_text_has_a_code_that_is_not_the_callers_to_write(text: str) -> None:
    encoded = encode_words(text, 3)
    assert encoded.shape == (96,) and encoded.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        encoded[0] = 5


def test_codes_of_many_words_differ() -> None:
    words = [*map(str, range(500)), "red", "blue", "card", "?"]
    assert len({codes(word, 1).tobytes() for word in words}) == len(words)


def test_a_code_is_the_same_in_every_process() -> None:
    program = (
        "from envs.discrete_features import encode_words\n"
        "print(*encode_words('red', 1).astype(int).tolist())"
    )
    # A saved policy depends on it: the bits of BLAKE2b's first four bytes, highest bit first.
    bits = f"{int.from_bytes(hashlib.blake2b(b'red', digest_size=4).digest()):032b}"
    expected = [2 * int(bit) - 1 for bit in bits]
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert list(map(int, printed.stdout.split())) == expected == codes("red", 1)[0].tolist()


def test_times_are_shares_of_the_video_from_its_start() -> None:
    late = Segment(10.0, 30.0)
    shares = times_as_shares(np.array([10.0, 25.0, 30.5]), late, cells=4)
    # (25 - 10) / 20; a time past the end counts as the end.
    assert shares.tolist() == [0.0, 0.75, 1.0, -1.0]


@given(count=st.integers(0, 300), most=st.integers(1, 300))
def test_places_are_picked_in_order_with_both_ends(count: int, most: int) -> None:
    places = evenly_picked(count, most).tolist()
    assert len(places) == min(count, most) and places == sorted(set(places))
    if len(places) > 1:
        assert (places[0], places[-1]) == (0, count - 1)
