from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.live_action import Wait, parse_live_reply, write_wait
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.action import Crop, Fault, FinalAnswer, Malformed
from videoseek_env.segment import Segment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("<think>x</think><wait>5</wait>", 5.0),
        ("<wait>\n 2.5 </wait>", 2.5),
        ("<wait>1</wait> no, <wait>7</wait>", 7.0),
        ("<wait>-3</wait>", -3.0),
        ("<wait>1e3</wait>", 1000.0),
        ("<grounding>{unfinished <wait>4</wait>", 4.0),
    ],
)
def test_a_wait_is_read_leniently(text: str, seconds: float) -> None:
    action = parse_live_reply(text, now_seconds=10.0)
    assert isinstance(action, Wait)
    assert action.seconds == seconds


@pytest.mark.parametrize(
    "content", ["", "soon", "nan", "inf", "5 s", "1 2", "9" * 5000, "9" * 400 + "e9", "{}"]
)
def test_a_wait_without_a_finite_number_is_an_error(content: str) -> None:
    action = parse_live_reply(f"<wait>{content}</wait>", now_seconds=10.0)
    assert type(action) is Malformed
    assert action.fault is Fault.BAD_SEGMENT
    assert "<wait>5</wait>" in action.message


def test_an_answer_wins_over_a_crop_and_a_crop_over_a_wait() -> None:
    wait, crop, answer = "<wait>5</wait>", crop_reply(1, 5), answer_reply("B")
    assert parse_live_reply(wait + crop + answer, now_seconds=9.0) == FinalAnswer("B")
    assert parse_live_reply(wait + crop, now_seconds=3.0) == Crop(Segment(1.0, 3.0), "fine")
    # A broken crop is an error, not a wait.
    broken = parse_live_reply("<grounding>{}</grounding>" + wait, now_seconds=9.0)
    assert isinstance(broken, Malformed) and broken.fault is Fault.MISSING_KEY


@pytest.mark.parametrize("text", ["", "<wait>5", "5</wait>", "wait 5"])
def test_no_complete_tag_is_no_action(text: str) -> None:
    action = parse_live_reply(text, now_seconds=9.0)
    assert type(action) is Malformed
    assert action.fault is Fault.NO_ACTION


@given(seconds=st.floats(0, 1e6))
def test_a_written_wait_is_read_back(seconds: float) -> None:
    action = parse_live_reply(write_wait("so", seconds), now_seconds=9.0)
    assert isinstance(action, Wait) and action.seconds == seconds


def test_a_long_reply_is_read_in_linear_time() -> None:
    for part in ("<wait>", "</wait>", "<wait>1</wait>", "</think><wait>", "<think>"):
        parse_live_reply(part * 200_000, now_seconds=9.0)
