from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseek_env.glyphs import draw_text, glyph, text_mask

PRINTABLE = "".join(map(chr, range(32, 127)))


def test_every_printable_ascii_character_has_its_own_glyph() -> None:
    masks = {glyph(char).tobytes() for char in PRINTABLE}
    assert len(masks) == 95
    assert all(glyph(char).shape == (7, 5) for char in PRINTABLE)
    assert not glyph(" ").any()


def test_digits_differ_from_each_other_in_at_least_six_pixels() -> None:
    assert min((glyph(a) ^ glyph(b)).sum() for a, b in combinations("0123456789", 2)) == 6


def test_unknown_characters_are_an_empty_box() -> None:
    assert glyph("é").sum() == 20  # the rim of 7 x 5: 2 * 5 + 2 * 5
    assert not glyph("é")[1:-1, 1:-1].any()


@pytest.mark.parametrize("text", ["", "ab"])
def test_a_glyph_is_of_one_character(text: str) -> None:
    with pytest.raises(ValueError, match="one character"):
        glyph(text)


def test_glyphs_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        glyph("A")[0, 0] = True


def test_text_is_glyphs_one_column_apart() -> None:
    mask = text_mask("A7")
    assert mask.shape == (7, 11)
    assert (mask[:, :5] == glyph("A")).all()
    assert not mask[:, 5].any()
    assert (mask[:, 6:] == glyph("7")).all()


def test_empty_text_has_no_columns() -> None:
    assert text_mask("").shape == (7, 0)


def test_drawing_scales_each_dot_and_leaves_the_rest_alone() -> None:
    canvas = np.full((30, 30, 3), 9, np.uint8)
    draw_text(canvas, "5", x=3, y=2, scale=2, colour=(1, 2, 3))
    drawn = (canvas == (1, 2, 3)).all(-1)
    assert (drawn[2:16:2, 3:13:2] == glyph("5")).all()
    assert drawn.sum() == 4 * glyph("5").sum()
    assert (canvas[~drawn] == 9).all()


@given(x=st.integers(-40, 40), y=st.integers(-40, 40), scale=st.integers(1, 4))
def test_drawing_over_the_edge_is_cut_off(x: int, y: int, scale: int) -> None:
    wide = np.zeros((160, 160, 3), np.uint8)
    draw_text(wide, "#8", x=x + 60, y=y + 60, scale=scale)
    canvas = np.zeros((20, 25, 3), np.uint8)
    draw_text(canvas, "#8", x=x, y=y, scale=scale)
    assert (canvas == wide[60:80, 60:85]).all()


def test_drawing_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="scale must be at least 1"):
        draw_text(np.zeros((9, 9, 3), np.uint8), "A", x=0, y=0, scale=0)
    with pytest.raises(ValueError, match=r"expected a canvas \[H, W, 3\]"):
        draw_text(np.zeros((9, 9), np.uint8), "A", x=0, y=0)


def test_letters_touch_no_neighbour() -> None:
    mask = text_mask(PRINTABLE)
    gaps = range(5, mask.shape[1], 6)
    assert all(not mask[:, gap].any() for gap in gaps)
    assert all(after - before == 6 for before, after in pairwise(gaps))
