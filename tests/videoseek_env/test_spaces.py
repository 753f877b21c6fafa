import copy
import pickle

import numpy as np
import pytest
from gymnasium.spaces import Text
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from hypothesis import given
from hypothesis import strategies as st

from videoseek_env.spaces import ClipSpace, UnicodeText

FRAMES = ClipSpace((8, 64, 64, 3), np.uint8)
TIMES = ClipSpace((8,), np.float64)


@given(st.text(max_size=100))
def test_unicode_text_holds_any_characters(text: str) -> None:
    space = UnicodeText(100)
    assert text in space
    assert (text in Text(100)) is False or text.isalnum()


def test_unicode_text_is_bounded_and_holds_strings_only() -> None:
    space = UnicodeText(3)
    assert "" in space and "🎬🎬🎬" in space and "\ud800" in space
    assert "four" not in space and 3 not in space and b"abc" not in space


@pytest.mark.parametrize("space", [UnicodeText(10**9), UnicodeText(1), FRAMES, TIMES])
def test_samples_are_members_small_and_seeded(space: UnicodeText | ClipSpace) -> None:
    space.seed(3)
    first = [space.sample() for _ in range(20)]
    space.seed(3)
    second = [space.sample() for _ in range(20)]
    for a, b in zip(first, second, strict=True):
        assert a in space
        np.testing.assert_array_equal(a, b)
        assert np.size(a) <= 8 * 8 * 8 * 3 and (not isinstance(a, str) or len(a) <= 64)


@pytest.mark.parametrize(
    ("array", "is_member"),
    [
        (np.zeros((8, 64, 64, 3), np.uint8), True),
        (np.zeros((0, 0, 0, 3), np.uint8), True),
        (np.zeros((9, 64, 64, 3), np.uint8), False),
        (np.zeros((8, 65, 64, 3), np.uint8), False),
        (np.zeros((8, 64, 64, 1), np.uint8), False),
        (np.zeros((8, 64, 64, 3), np.float32), False),
        (np.zeros((8, 64, 64), np.uint8), False),
        ([[[[0, 0, 0]]]], False),
    ],
)
def test_membership_of_frames(array: object, is_member: bool) -> None:
    assert (array in FRAMES) is is_member


@pytest.mark.parametrize("space", [UnicodeText(7), FRAMES, TIMES])
def test_spaces_copy_pickle_and_compare(space: UnicodeText | ClipSpace) -> None:
    assert pickle.loads(pickle.dumps(space)) == space
    assert copy.deepcopy(space) == space
    assert hash(copy.deepcopy(space)) == hash(space)
    assert space not in (UnicodeText(8), ClipSpace((9,), np.float64), ClipSpace((8,), np.uint8))
    assert str(space)


@pytest.mark.parametrize("space", [UnicodeText(7), FRAMES, TIMES])
def test_spaces_batch_for_vector_environments(space: UnicodeText | ClipSpace) -> None:
    batched = batch_space(space, 2)
    items = [space.sample(), space.sample()]
    out = concatenate(space, items, create_empty_array(space, 2))
    for item, expected in zip(iterate(batched, out), items, strict=True):
        np.testing.assert_array_equal(item, expected)
