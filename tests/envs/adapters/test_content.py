from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from envs.adapters.content import crop_reply
from videoseek_env.action import STRATEGIES, Crop, Fault, Malformed, parse_reply, write_crop
from videoseek_env.segment import Segment

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
"""What JSON can hold, and what a parser makes of NaN."""


@given(anything, anything, anything)
def test_no_argument_of_a_crop_is_anything_but_a_crop_or_a_fault_of_one(
    start: object, end: object, detail: object
) -> None:
    action = parse_reply(crop_reply(start, end, detail), duration_seconds=60.0)
    if isinstance(action, Malformed):
        assert action.fault in (Fault.BAD_SEGMENT, Fault.EMPTY_SEGMENT, Fault.BAD_STRATEGY)
    else:
        assert isinstance(action, Crop)


@given(st.floats(0, 1e6), st.floats(1, 1e6), st.sampled_from(STRATEGIES))
def test_a_good_crop_is_written_in_the_strict_form(
    start: float, length: float, detail: Any
) -> None:
    segment = Segment(start, start + length)
    assert crop_reply(start, start + length, detail) == write_crop("", segment, detail)
