import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.discrete_layout import DiscreteLayout
from rewards.format import check_format
from videoseek_env.action import parse_reply
from videoseek_env.budget import FrameSize
from videoseek_env.errors import ConfigError
from videoseek_env.segment import Segment


@pytest.mark.parametrize(
    "fields", [{"start_bins": 0}, {"clip_frames": -1}, {"overview_size": FrameSize(32, 0)}]
)
def test_a_layout_without_room_is_an_error(fields: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(fields))} must be at least 1"):
        DiscreteLayout(**fields)


def test_there_are_26_letters() -> None:
    assert DiscreteLayout(max_options=26).action_space().nvec.tolist() == [10, 3, 3, 27]
    with pytest.raises(ConfigError, match="at most 26, got 27"):
        DiscreteLayout(max_options=27)


@pytest.mark.parametrize(
    ("crop", "expected"),
    [
        ((10.0, 30.0), [1, 1, 0, 0]),
        ((15.0, 25.0), [0.5, 0.5, 0, 0]),
        ((49.0, 50.0), [0, 0, 0, 0.1]),
    ],
)
def test_the_share_of_each_part_that_a_crop_shows(
    crop: tuple[float, float], expected: list[float]
) -> None:
    # A video from 10 s to 50 s in four parts of 10 s.
    layout = DiscreteLayout(start_bins=4)
    shares = layout.shown_share(Segment(*crop), Segment(10.0, 50.0))
    np.testing.assert_allclose(shares, expected, atol=1e-6)


@given(
    start_bin=st.integers(0, 9), length_bin=st.integers(0, 4),
    start=st.floats(0, 1e5), seconds=st.floats(0.05, 1e5),
)  # fmt: skip
def test_every_crop_lies_in_the_video_and_is_long_enough(
    start_bin: int, length_bin: int, start: float, seconds: float
) -> None:
    video = Segment(start, start + seconds)
    segment = DiscreteLayout(length_bins=5).segment(start_bin, length_bin, video)
    assert video.start_seconds <= segment.start_seconds < segment.end_seconds <= video.end_seconds
    least = min(1.0, video.duration_seconds)
    assert segment.duration_seconds >= least - 1e-6


def test_every_answer_and_crop_is_strict_form() -> None:
    layout, video = DiscreteLayout(), Segment(0.0, 77.7)
    replies = [layout.reply([s, n, 2, 0], video) for s in range(10) for n in range(3)]
    assert check_format([*replies, layout.reply([0, 0, 0, 1], video)]).score == 1.0
    for reply in replies:
        assert parse_reply(reply, duration_seconds=77.7)
