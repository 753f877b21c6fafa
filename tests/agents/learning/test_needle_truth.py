from __future__ import annotations

from dataclasses import replace

import pytest

from agents.learning.needle_truth import Seen, describe_pairs, name_of
from tests.sample_trajectories import make_task
from videoseek_env.errors import ConfigError
from videoseek_env.segment import Segment
from videoseek_env.task import VideoTask
from videoseek_env.video.clip import ClipRef

EVENTS = [
    {"kind": "card", "colour": "red", "symbol": "5", "span": [2.0, 9.0], "reveal": [4.0, 6.0]},
    {"kind": "banner", "colour": "blue", "symbol": "K", "span": [12.0, 14.0], "reveal": None},
    {"kind": "shape", "colour": "green", "symbol": "star", "span": [20.0, 22.0], "reveal": None},
]


def clip(times: list[float], strategy: str = "overview") -> ClipRef:
    segment = Segment(times[0], times[-1] + 1)
    return ClipRef("v", tuple(range(len(times))), tuple(times), 32, 32, segment, strategy, 1)  # type: ignore[arg-type]


def needle_task(**metadata: object) -> VideoTask:
    known = {"template": "card_digit", "events": EVENTS, "clue_events": [0]}
    return replace(make_task(), metadata=known | metadata)


def test_a_pair_is_described_by_what_either_of_its_frames_shows() -> None:
    # Spans are half-open: the card is gone at 9.0, the banner there at 12.0.
    times = [0.0, 1.0, 1.9, 2.0, 8.9, 9.0, 9.0, 10.0, 11.0, 12.0, 21.0, 22.0]
    expected = [
        Seen(None, "none"), Seen(0, "red card"), Seen(0, "red card"), Seen(None, "none"),
        Seen(1, "blue banner K"), Seen(2, "green star"),
    ]  # fmt: skip
    assert describe_pairs(clip(times), needle_task()) == expected


def test_a_face_is_told_before_a_back_and_an_odd_last_frame_is_a_pair() -> None:
    seen = describe_pairs(clip([3.0, 4.0, 5.9, 6.0, 6.0]), needle_task())
    assert [pair.text for pair in seen] == ["red 5", "red 5", "red card"]


def test_events_are_named_as_they_look() -> None:
    card, banner, star = EVENTS
    assert [name_of(event) for event in EVENTS] == ["red card", "blue banner K", "green star"]
    assert name_of(card, is_face=True) == "red 5"
    assert name_of(banner, is_face=True) == name_of(banner)
    assert name_of(star, is_face=True) == name_of(star)


def test_a_task_of_another_kind_or_dataset_is_refused() -> None:
    for task in (needle_task(template="when"), replace(make_task(), metadata={})):
        with pytest.raises(ConfigError, match="no demonstration"):
            describe_pairs(clip([0.0, 1.0]), task)
