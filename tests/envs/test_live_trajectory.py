from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.live_action import Wait, parse_live_reply, write_wait
from envs.live_reward import TimelyReward
from envs.live_session import LiveConfig
from envs.live_trajectory import LiveTrajectory, answerable_seconds, without_waits
from tests.envs.live_episodes import answered_at, make_session
from tests.hostile_replies import hostile_replies
from tests.sample_trajectories import answer_reply, crop_reply, make_task, make_trajectory
from videoseek_env.action import Fault
from videoseek_env.errors import TrajectoryError
from videoseek_env.trajectory import EndReason, Trajectory, Turn


def test_a_question_can_be_answered_when_it_is_asked_and_its_last_clue_is_over() -> None:
    two_clues = make_task(clues=[(30.0, 40.0), (10.0, 20.0)])
    no_clue = make_task(clues=[])
    assert answerable_seconds(two_clues, 0.0) == 40.0
    assert answerable_seconds(two_clues, 55.0) == 55.0
    assert answerable_seconds(no_clue, 7.0) == 7.0
    known = dataclasses.replace(two_clues, metadata={"answerable_seconds": 60})
    assert answerable_seconds(known, 0.0) == 60.0


def test_delay_counts_from_then_and_is_never_below_zero() -> None:
    # The clue ends at 20 s.
    assert [answered_at(t).delay_seconds for t in (5.0, 20.0, 50.0)] == [0.0, 0.0, 30.0]
    silent = LiveTrajectory.of(make_trajectory([]), asked_seconds=3.0, reply_seconds=())
    assert silent.delay_seconds == 0.0


@settings(max_examples=30)
@given(replies=hostile_replies(), waits=st.lists(st.text(max_size=8), max_size=4))
def test_any_episode_survives_its_replies_and_reads_back(
    minute_video: Path, replies: list[str], waits: list[str]
) -> None:
    session = make_session(minute_video, budget="tiny")
    session.start()
    for reply in [*(f"<wait>{text}</wait>" for text in ("3.5", *waits)), *replies]:
        if session.end_reason is None:
            session.reply(reply)
    trajectory = session.trajectory
    text = json.dumps(trajectory.to_dict())
    assert LiveTrajectory.from_dict(json.loads(text)) == trajectory
    assert math.isfinite(TimelyReward()(trajectory).value)


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (write_wait("", 5), EndReason.TURNS_EXHAUSTED),
        (crop_reply(50, 90), EndReason.TURNS_EXHAUSTED),
        (write_wait("", 5) + "x" * 100_000, EndReason.REPLY_CUT),
        ("<wait>soon</wait>" + "x" * 100_000, EndReason.REPLY_CUT),
    ],
)
def test_a_last_reply_that_no_longer_counts_reads_back_too(
    minute_video: Path, last: str, reason: EndReason
) -> None:
    # Answers count until 61 s. The last reply comes at 61.5 s: late, unless it is too long anyway.
    session = make_session(minute_video, LiveConfig(grace_seconds=1.0, thinking_seconds=1.5))
    session.start()
    session.reply(write_wait("", 60))
    assert session.now_seconds == 60.0
    session.reply(last)
    assert session.end_reason is reason
    trajectory = session.trajectory
    assert LiveTrajectory.from_dict(trajectory.to_dict()) == trajectory


def test_without_waits_an_episode_is_an_ordinary_one(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    for reply in (
        write_wait("not yet", 10),
        write_wait("not yet", 12),
        crop_reply(10, 20),
        write_wait("why not", 3),
        answer_reply("B"),
    ):
        session.reply(reply)
    assert session.trajectory.reply_seconds == (1.0, 12.0, 25.0, 26.0, 30.0)
    assert len(session.trajectory.clips) == 5
    ordinary = without_waits(session.trajectory)
    assert type(ordinary) is Trajectory
    assert ordinary.replies == (crop_reply(10, 20), answer_reply("B"))
    # The overview came before the first wait, the crop before the last.
    assert [turn.clip.strategy for turn in ordinary.turns if turn.clip] == ["overview", "fine"]


def test_a_wait_out_of_form_stays() -> None:
    replies = ("<wait>5</wait>", "so <think>x</think><wait>5</wait>", write_wait("x", 5))
    turns = tuple(
        Turn("", None, reply, parse_live_reply(reply, now_seconds=9.0)) for reply in replies
    )
    assert without_waits(Trajectory(make_task(), turns, None, 9.0)).replies == replies[:2]


def test_waits_are_left_out_in_linear_time() -> None:
    for part in ("<wait>", "</wait>", "<wait>1</wait>", "</think><wait>", "<think>"):
        turn = Turn("", None, part * 200_000, Wait(Fault.NO_ACTION, ""))
        assert len(without_waits(Trajectory(make_task(), (turn,), None, 9.0)).turns) == 1


def test_a_broken_live_trajectory_is_named(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    session.reply(answer_reply("B"))
    fields = session.trajectory.to_dict()
    for change in ({"reply_seconds": [1.0, 2.0]}, {"asked_seconds": "x"}, {"reply_seconds": None}):
        with pytest.raises(TrajectoryError, match="not a saved live trajectory"):
            LiveTrajectory.from_dict(fields | change)
    del fields["asked_seconds"]
    with pytest.raises(TrajectoryError, match="asked_seconds"):
        LiveTrajectory.from_dict(fields)
