from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.live_action import write_wait
from envs.live_session import LiveConfig
from envs.live_trajectory import LiveTrajectory
from tests.envs.live_episodes import expect, indices_of, make_session
from tests.sample_trajectories import answer_reply, crop_reply
from tests.synthetic_video import read_barcodes, write_video
from videoseek_env.action import Crop, Fault
from videoseek_env.budget import LAPTOP
from videoseek_env.errors import ConfigError
from videoseek_env.prompts import Prompts
from videoseek_env.segment import Segment
from videoseek_env.session import Observation
from videoseek_env.trajectory import EndReason

INSTANT = LiveConfig(thinking_seconds=0.0)


def test_waiting_shows_what_is_new_and_says_what_time_it_is(minute_video: Path) -> None:
    session = make_session(minute_video)
    first = session.start()
    assert indices_of(first) == [0]
    assert "Overview: 1 frame from 0.0 s" in first.text
    assert first.text.endswith("It is 0.0 s now.")
    assert "<wait>5</wait>" in first.system
    update = expect(session.reply(write_wait("not yet", 9)))
    # One second of thinking, nine of waiting.
    assert indices_of(update) == [25, 50, 75, 100]
    assert update.text.startswith("Update: 4 frames from 0.0 s to 10.0 s, 0.40 frames per second.")
    assert update.text.endswith("It is 10.0 s now.")
    again = session.reply(write_wait("not yet", 9))
    assert indices_of(again) == [125, 150, 175, 200]
    assert session.waited_seconds == 18.0


def test_a_crop_looks_back_at_full_detail_and_is_clamped_to_now(minute_video: Path) -> None:
    session = make_session(minute_video, INSTANT)
    session.start()
    session.reply(write_wait("", 20))
    crop = session.reply(crop_reply(15, 50))
    # 5 s at 2 fps over frames 150 to 200.
    assert indices_of(crop) == [150, 156, 161, 167, 172, 178, 183, 189, 194, 200]
    assert session.trajectory.turns[-1].action == Crop(Segment(15.0, 20.0), "fine")
    assert "Crop: 10 frames from 15.0 s to 20.0 s" in expect(crop).text


def test_a_crop_of_the_future_is_an_error_and_costs_a_turn(minute_video: Path) -> None:
    session = make_session(minute_video, INSTANT, max_turns=3)
    session.start()
    session.reply(write_wait("", 20))
    error = expect(session.reply(crop_reply(20, 30)))
    assert (error.clip, error.error) == (None, Fault.EMPTY_SEGMENT)
    assert "(0.0 s to 20.0 s)" in error.text
    assert error.text.endswith("It is 20.0 s now.")
    assert len(session.trajectory.turns) == 2


@settings(max_examples=12)
@given(
    steps=st.lists(st.tuples(st.floats(-5, 40), st.floats(-10, 100), st.floats(0, 80)), max_size=6),
    thinking=st.floats(0, 5),
)
def test_nothing_that_an_agent_sees_comes_from_the_future(
    minute_video: Path, steps: list[tuple[float, float, float]], thinking: float
) -> None:
    session = make_session(minute_video, LiveConfig(thinking_seconds=thinking))
    seen = [session.start()]
    for wait, start, span in steps:
        for reply in (write_wait("", wait), crop_reply(start, start + span)):
            if session.end_reason is None and (observation := session.reply(reply)) is not None:
                seen.append(observation)
                now = session.now_seconds
                assert session.duration_seconds <= now
                if observation.clip is not None:
                    assert max(indices_of(observation)) <= now * 10
                    assert observation.clip.segment.end_seconds <= max(now, 0.1)
    action_ends = [crop.segment.end_seconds for crop in session.trajectory.crops]
    assert all(end <= session.now_seconds for end in action_ends)


def test_updates_never_repeat_a_frame_and_never_miss_the_newest(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    seen: list[int] = []
    for wait in (1, 2, 30, 1, 1, 7):
        update = session.reply(write_wait("", wait))
        seen += indices_of(update)
        assert seen[-1] == round(session.now_seconds * 10)
        session.reply(crop_reply(0, 2))  # looking back changes nothing about what is new
    assert seen == sorted(set(seen))


def test_waits_are_clamped_to_their_range(minute_video: Path) -> None:
    session = make_session(
        minute_video,
        LiveConfig(thinking_seconds=0.0, min_wait_seconds=2.0, max_wait_seconds=10.0),
    )
    session.start()
    times = []
    for seconds in (0, -1e300, 5, 1e300):
        session.reply(write_wait("", seconds))
        times.append(session.now_seconds)
    # 2, 2 more, 5 more, 10 more.
    assert times == [2.0, 4.0, 9.0, 19.0]


def test_thinking_takes_time_by_the_reply_and_by_the_token(minute_video: Path) -> None:
    config = LiveConfig(thinking_seconds=2.0, seconds_per_token=0.5)
    session = make_session(minute_video, config, count_text_tokens=lambda text: len(text.split()))
    session.start()
    session.reply("<grounding>{}</grounding> one two three")
    # Four words: 2 + 4 / 2.
    assert session.now_seconds == 4.0
    assert session.trajectory.reply_seconds == (4.0,)


def test_a_question_may_come_later(minute_video: Path) -> None:
    session = make_session(minute_video, LiveConfig(question_seconds=30.0))
    first = session.start()
    assert session.now_seconds == session.trajectory.asked_seconds == 30.0
    assert max(indices_of(first)) == 300
    assert len(indices_of(first)) == 64
    session.reply(answer_reply("B"))
    # The clue was over at 20 s; thinking takes a second.
    assert session.trajectory.delay_seconds == 1.0


def test_a_question_after_the_end_is_asked_at_the_end(minute_video: Path) -> None:
    session = make_session(minute_video, LiveConfig(question_seconds=100.0, grace_seconds=5.0))
    first = session.start()
    assert max(indices_of(first)) == 599
    assert first.text.endswith("It is 60.0 s now. The video has ended: answer before 65.0 s.")


def test_an_answer_in_the_grace_period_counts_and_a_later_one_does_not(minute_video: Path) -> None:
    for thinking, reason in ((2.0, EndReason.ANSWERED), (6.0, EndReason.TURNS_EXHAUSTED)):
        config = LiveConfig(thinking_seconds=thinking, grace_seconds=5.0)
        session = make_session(minute_video, config)
        session.start()
        last = expect(session.reply(write_wait("", 60)))
        assert max(indices_of(last)) == 599
        assert "answer before 65.0 s" in last.text
        assert session.reply(answer_reply("B")) is None
        assert session.end_reason is reason
        assert session.trajectory.answer == ("B" if reason is EndReason.ANSWERED else None)


def test_a_wait_that_passes_the_grace_period_ends_the_episode(minute_video: Path) -> None:
    session = make_session(minute_video, LiveConfig(grace_seconds=5.0))
    session.start()
    session.reply(write_wait("", 60))
    still = expect(session.reply(write_wait("", 3)))
    assert still.clip is None and still.error is None
    assert still.text.startswith("Nothing new has arrived.")
    assert session.now_seconds == 64.0
    assert session.reply(write_wait("", 3)) is None
    assert session.end_reason is EndReason.TURNS_EXHAUSTED


def test_a_wait_never_passes_an_end_that_the_agent_was_not_told_of(minute_video: Path) -> None:
    session = make_session(minute_video, LiveConfig(grace_seconds=5.0))
    session.start()
    session.reply(write_wait("", 58.5))
    assert session.now_seconds == 59.5
    # The video ends at 60 s, while the agent writes.
    last = expect(session.reply(write_wait("", 30)))
    assert session.now_seconds == 60.5
    assert max(indices_of(last)) == 599
    assert last.text.endswith("The video has ended: answer before 65.0 s.")
    session.reply(answer_reply("B"))
    assert session.end_reason is EndReason.ANSWERED


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("max_turns", EndReason.TURNS_EXHAUSTED), ("max_clips", EndReason.CLIPS_EXHAUSTED)],
)
def test_a_wait_is_a_turn_and_its_update_a_clip(
    minute_video: Path, limit: str, reason: EndReason
) -> None:
    rules: dict[str, Any] = {limit: 2}
    session = make_session(minute_video, **rules)
    session.start()
    assert session.reply(write_wait("", 5)) is not None
    assert session.reply(write_wait("", 5)) is None
    assert session.end_reason is reason
    assert session.now_seconds == 7.0  # the second one was not carried out


def test_the_context_counts_updates_and_ends_before_it_overflows(minute_video: Path) -> None:
    session = make_session(minute_video, count_text_tokens=len)
    first = session.start()
    before = session.context_tokens
    reply = write_wait("", 9)
    update = expect(session.reply(reply))
    # The overview's one frame is enlarged to 64 tokens at least, 7 x 10 cells: sqrt(64 / 12) = 2.3
    # times 96 x 128 pixels. Then four frames of 3 x 4 cells: 24 tokens.
    assert session.context_tokens == before + len(reply) + len(update.text) + 24
    assert session.visual_tokens == 70 + 24
    assert first.clip is not None
    budget = dataclasses.replace(
        LAPTOP, name="tight", context_tokens=session.context_tokens - 1, reserve_tokens=0
    )
    tight = make_session(minute_video, budget=budget, count_text_tokens=len)
    tight.start()
    assert tight.reply(reply) is None
    assert tight.end_reason is EndReason.CONTEXT_EXHAUSTED
    assert tight.context_tokens == before + len(reply)


def test_an_unreadable_wait_is_an_error_that_costs_a_turn(minute_video: Path) -> None:
    session = make_session(minute_video, max_turns=2)
    session.start()
    error = expect(session.reply("<wait>soon</wait>"))
    assert (error.clip, error.error) == (None, Fault.BAD_SEGMENT)
    assert session.now_seconds == 1.0
    assert session.reply("<wait>soon</wait>") is None
    assert session.end_reason is EndReason.TURNS_EXHAUSTED


def test_other_endings_are_those_of_an_ordinary_episode(minute_video: Path) -> None:
    for reply, reason in (
        ("nothing", EndReason.NO_ACTION),
        (write_wait("x" * 100_000, 5), EndReason.REPLY_CUT),
        (answer_reply("B"), EndReason.ANSWERED),
    ):
        session = make_session(minute_video)
        session.start()
        assert session.reply(reply) is None
        assert session.end_reason is reason


def test_a_forced_answer_is_asked_for_with_the_last_update(minute_video: Path) -> None:
    session = make_session(minute_video, max_turns=2, force_answer=True)
    session.start()
    assert "last turn" in expect(session.reply(write_wait("", 5))).text


def test_the_same_replies_give_the_same_episode(minute_video: Path) -> None:
    def play() -> tuple[LiveTrajectory, list[Observation]]:
        session = make_session(minute_video, LiveConfig(thinking_seconds=0.7))
        seen = [session.start()]
        for reply in (write_wait("", 9.3), crop_reply(1, 30), write_wait("", 60)):
            seen.append(expect(session.reply(reply)))
        session.reply(answer_reply("B"))
        return session.trajectory, seen

    (first, seen), (second, seen_again) = play(), play()
    assert first == second
    for one, other in zip(seen, seen_again, strict=True):
        assert one.text == other.text and one.clip is not None and other.clip is not None
        np.testing.assert_array_equal(one.clip.frames, other.clip.frames)


def test_a_late_video_has_its_own_timeline(tmp_path: Path) -> None:
    # 100 frames from 30 s to 39.9 s.
    path = write_video(tmp_path / "late.mkv", 100, ticks=range(300, 400), ticks_per_second=10)
    session = make_session(path, INSTANT)
    assert "from 30.0 s" in session.start().text
    session.reply(write_wait("", 5))
    assert session.now_seconds == 35.0
    assert expect(session.reply(crop_reply(0, 20))).error is Fault.EMPTY_SEGMENT
    crop = expect(session.reply(crop_reply(0, 33)))
    assert crop.clip is not None and max(read_barcodes(crop.clip.frames)) == 30


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"thinking_seconds": -1.0}, "at least 0"),
        ({"grace_seconds": math.inf}, "finite"),
        ({"update_fps": 0.0}, "update_fps > 0"),
        ({"min_wait_seconds": 9.0, "max_wait_seconds": 8.0}, "min_wait_seconds <= max"),
    ],
)
def test_impossible_times_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LiveConfig(**fields)


def test_prompts_have_to_explain_waiting(minute_video: Path) -> None:
    with pytest.raises(ConfigError, match="must be LivePrompts"):
        make_session(minute_video, prompts=Prompts(crop="{sampling}"))
    # The ordinary ones make way, also those that were copied.
    assert "<wait>" in make_session(minute_video, prompts=Prompts()).start().system
