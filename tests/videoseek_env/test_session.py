import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.sample_trajectories import answer_reply, crop_reply, make_task
from tests.synthetic_video import read_barcodes, write_video
from videoseek_env.action import Fault
from videoseek_env.budget import LAPTOP, TINY, Budget
from videoseek_env.errors import EpisodeError, VideoDecodeError, VideoSeekError
from videoseek_env.prompts import Prompts
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason
from videoseek_env.video import ClipCache, open_video


def task_for(path: Path, **changes: object) -> VideoTask:
    return dataclasses.replace(make_task(), video=str(path), **changes)  # type: ignore[arg-type]


def make_session(path: Path, budget: str | Budget = "tiny", **rules: object) -> VideoSession:
    config = SessionConfig(budget=budget, **rules)  # type: ignore[arg-type]
    reader = open_video(path)
    return VideoSession(task_for(path), reader, config, cache=ClipCache(2**24))


def small_context(tokens: int) -> Budget:
    return dataclasses.replace(TINY, name="small", context_tokens=tokens, reserve_tokens=0)


def test_the_first_observation_is_the_overview_and_the_question(minute_video: Path) -> None:
    session = make_session(minute_video)
    observation = session.start()
    assert observation.clip is not None
    assert observation.clip.strategy == "overview"
    assert observation.clip.frames.shape == (20, 32, 32, 3)
    for part in ("Which digit does the red card show?", "B. 2", "20 frames", "60.0 s"):
        assert part in observation.text


def test_a_crop_shows_frames_of_the_source_that_the_overview_does_not_have(
    minute_video: Path,
) -> None:
    session = make_session(minute_video)
    overview = session.start().clip
    crop = session.reply(crop_reply(10, 14))
    assert overview is not None and crop is not None and crop.clip is not None
    seen = set(read_barcodes(overview.frames))
    shown = read_barcodes(crop.clip.frames)
    # 4 s at 2 fps are 8 frames, evenly spaced over frames 100 to 140.
    assert shown == [100, 106, 111, 117, 123, 129, 134, 140]
    assert len(set(shown) - seen) >= 6
    assert crop.clip.frames.shape[1:3] > overview.frames.shape[1:3]
    np.testing.assert_allclose(crop.clip.timestamps_seconds, np.array(shown) / 10)


def test_times_of_a_second_crop_are_those_of_the_whole_video(minute_video: Path) -> None:
    session = make_session(minute_video, "laptop")
    session.start()
    session.reply(crop_reply(50, 55))
    second = session.reply(crop_reply(10, 12))
    assert second is not None and second.clip is not None
    assert read_barcodes(second.clip.frames) == [100, 107, 113, 120]


def test_an_answer_ends_the_episode(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    assert session.reply(answer_reply("B")) is None
    assert session.end_reason is EndReason.ANSWERED
    assert session.trajectory.answer == "B"


def test_a_malformed_grounding_is_an_error_observation_and_costs_a_turn(
    minute_video: Path,
) -> None:
    session = make_session(minute_video, max_turns=3)
    session.start()
    observation = session.reply("<grounding>{}</grounding>")
    assert observation is not None
    assert (observation.clip, observation.error) == (None, Fault.MISSING_KEY)
    assert "temporal_segment" in observation.text
    assert len(session.trajectory.turns) == 1
    assert session.reply(crop_reply(1, 5)) is not None
    assert session.reply(crop_reply(1, 5)) is None
    assert session.end_reason is EndReason.TURNS_EXHAUSTED


@pytest.mark.parametrize("last", [crop_reply(1, 5), "<grounding>{}</grounding>"])
def test_anything_but_an_answer_in_the_last_turn_exhausts_the_turns(
    minute_video: Path, last: str
) -> None:
    session = make_session(minute_video, max_turns=1)
    session.start()
    assert session.reply(last) is None
    assert session.end_reason is EndReason.TURNS_EXHAUSTED


def test_the_clip_limit_counts_the_overview(minute_video: Path) -> None:
    session = make_session(minute_video, max_clips=2)
    session.start()
    assert session.reply(crop_reply(1, 5)) is not None
    assert session.reply("<grounding>{}</grounding>") is not None
    assert session.reply(crop_reply(1, 5)) is None
    assert session.end_reason is EndReason.CLIPS_EXHAUSTED


def test_neither_tag_voids_the_episode(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    assert session.reply("I don't know.") is None
    assert session.end_reason is EndReason.NO_ACTION


def test_a_reply_over_the_limit_is_cut_and_voids_the_episode(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    assert session.reply(answer_reply("B") + "x" * 10_000_000) is None
    assert session.end_reason is EndReason.REPLY_CUT
    # 256 tokens of at most four characters.
    assert len(session.trajectory.turns[0].reply) == 1024
    assert session.trajectory.answer is None


def test_a_reply_is_cut_by_tokens_too(minute_video: Path) -> None:
    session = make_session(minute_video, count_text_tokens=len)
    session.start()
    assert session.reply("x" * 257) is None
    assert session.end_reason is EndReason.REPLY_CUT


def test_the_context_limit_rolls_the_observation_back_as_a_whole(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    before = session.context_tokens
    reply = crop_reply(1, 5)
    limit = before + len(reply) // 4 + 20  # room for the reply, not for the crop
    session = make_session(minute_video, small_context(limit))
    session.start()
    assert session.context_tokens == before
    assert session.reply(reply) is None
    assert session.end_reason is EndReason.CONTEXT_EXHAUSTED
    assert session.context_tokens == before + -(-len(reply) // 4)
    assert [clip.strategy for clip in session.trajectory.clips] == ["overview"]


def test_an_observation_that_fits_exactly_stays(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    session.reply(crop_reply(1, 5))
    exact = session.context_tokens
    for limit, reason in ((exact, None), (exact - 1, EndReason.CONTEXT_EXHAUSTED)):
        session = make_session(minute_video, small_context(limit))
        session.start()
        session.reply(crop_reply(1, 5))
        assert session.end_reason is reason


def test_a_context_that_overflows_decodes_nothing(minute_video: Path) -> None:
    cache = ClipCache(2**24)
    config = SessionConfig(budget=small_context(50))
    session = VideoSession(task_for(minute_video), open_video(minute_video), config, cache=cache)
    observation = session.start()
    assert session.end_reason is EndReason.PROMPT_TOO_LONG
    assert observation == Observation("The question and its first frames pass the context limit.")
    assert cache.stats.misses == 0
    with pytest.raises(EpisodeError, match="has ended"):
        session.reply(answer_reply("B"))


def test_context_tokens_add_up(minute_video: Path) -> None:
    session = make_session(minute_video, count_text_tokens=len)
    first = session.start()
    reply = crop_reply(1, 5)
    second = session.reply(reply)
    assert first.clip is not None and second is not None and second.clip is not None
    # The overview has 10 pairs of one token; 4 s at 2 fps are 8 frames, 4 pairs of 1 x 2 cells of
    # 32 px (16 // 4 = 4 tokens a pair; 96 x 128 pixels are 3 x 4 cells; b = sqrt(12288/4096) =
    # 1.73: 1 x 2).
    visual = 10 + 4 * 1 * 2
    text = sum(map(len, (Prompts().system_text(), first.text, reply, second.text)))
    assert session.context_tokens == text + visual
    assert session.visual_tokens == visual


def test_the_last_turn_asks_for_an_answer_only_if_it_is_forced(minute_video: Path) -> None:
    for force in (True, False):
        session = make_session(minute_video, max_turns=2, force_answer=force)
        last_turn = Prompts().last_turn_text()
        assert last_turn not in session.start().text
        observation = session.reply(crop_reply(1, 5))
        assert observation is not None
        assert (last_turn in observation.text) is force


def test_a_single_forced_turn_asks_at_once(minute_video: Path) -> None:
    session = make_session(minute_video, max_turns=1, force_answer=True)
    assert Prompts().last_turn_text() in session.start().text


def test_both_tags_mean_the_answer(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    assert session.reply(crop_reply(1, 5) + answer_reply("C")) is None
    assert session.trajectory.answer == "C"


def test_driving_a_session_out_of_order_is_an_error(minute_video: Path) -> None:
    session = make_session(minute_video)
    with pytest.raises(EpisodeError, match="not started"):
        session.reply(answer_reply("B"))
    session.start()
    with pytest.raises(EpisodeError, match="has started"):
        session.start()
    session.reply(answer_reply("B"))
    with pytest.raises(EpisodeError, match=r"has ended \(answered\)"):
        session.reply(answer_reply("B"))


def test_abandoning_names_the_end_and_never_renames_it(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    session.abandon()
    assert session.trajectory.end_reason is EndReason.ABANDONED
    session.abandon(EndReason.POLICY_FAILED)
    assert session.end_reason is EndReason.ABANDONED


def test_a_decoder_that_fails_midway_is_raised_and_the_trajectory_kept(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 100, fps=10)
    session = make_session(path)
    session.start()
    session._reader.close()
    path.write_bytes(b"")
    with pytest.raises(VideoDecodeError):
        session.reply(crop_reply(1, 5))
    assert session.end_reason is EndReason.VIDEO_FAILED
    assert len(session.trajectory.turns) == 1


def test_a_one_frame_video_plays(tmp_path: Path) -> None:
    session = make_session(write_video(tmp_path / "one.mp4", 1), "qwen3-vl")
    observation = session.start()
    assert observation.clip is not None
    assert read_barcodes(observation.clip.frames) == [0]
    error = session.reply(crop_reply(0, 1))
    assert error is not None and error.error is Fault.EMPTY_SEGMENT


def test_a_keyframe_overview_reports_the_times_of_the_frames_it_took(minute_video: Path) -> None:
    observation = make_session(minute_video, overview="keyframe").start()
    assert observation.clip is not None
    shown = read_barcodes(observation.clip.frames)
    np.testing.assert_allclose(observation.clip.timestamps_seconds, np.array(shown) / 10)
    keyframes = set(open_video(minute_video).keyframe_indices.tolist())
    assert len(keyframes & set(shown)) >= 10


@pytest.mark.parametrize("kind", [TaskKind.OPEN_ENDED, TaskKind.TEMPORAL_GROUNDING])
def test_the_question_says_what_an_answer_looks_like(minute_video: Path, kind: TaskKind) -> None:
    task = dataclasses.replace(make_task(kind), video=str(minute_video))
    session = VideoSession(task, open_video(minute_video), cache=ClipCache(2**24))
    expected = {
        TaskKind.OPEN_ENDED: "in a few words",
        TaskKind.TEMPORAL_GROUNDING: '{"temporal_segment": [start, end]}',
    }
    assert expected[kind] in session.start().text


def test_questions_and_messages_with_braces_are_shown_as_they_are(minute_video: Path) -> None:
    task = task_for(minute_video, question="What is {this} {0}?")
    session = VideoSession(task, open_video(minute_video), cache=ClipCache(2**24))
    assert "What is {this} {0}?" in session.start().text


def test_prompts_can_be_replaced(minute_video: Path) -> None:
    prompts = Prompts(question="Q: {question} ({sampling})", sampling="{frames}")
    assert make_session(minute_video, prompts=prompts).start().text == (
        "Q: Which digit does the red card show? (20 frames)"
    )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_turns": 0}, "at least one turn"),
        ({"max_clips": 0}, "at least one turn and one clip"),
        ({"budget": "none"}, "no budget is named"),
        ({"overview": "random"}, '"exact" or "keyframe"'),
    ],
)
def test_impossible_rules_are_refused(rules: dict[str, object], message: str) -> None:
    with pytest.raises(VideoSeekError, match=message):
        SessionConfig(**rules)  # type: ignore[arg-type]


def test_a_session_takes_no_new_memory_for_a_clip_in_the_cache(minute_video: Path) -> None:
    cache, reader = ClipCache(2**24), open_video(minute_video)
    config = SessionConfig(budget=LAPTOP)
    first = VideoSession(task_for(minute_video), reader, config, cache=cache).start()
    second = VideoSession(task_for(minute_video), reader, config, cache=cache).start()
    assert first.clip is not None and second.clip is not None
    assert np.shares_memory(first.clip.frames, second.clip.frames)
    assert not second.clip.frames.flags.writeable


def late_video(tmp_path: Path) -> Path:
    """100 frames from 30 s to 40 s."""
    return write_video(tmp_path / "late.mkv", 100, ticks=range(300, 400), ticks_per_second=10)


def test_a_video_that_starts_late_is_described_and_cropped_on_its_own_timeline(
    tmp_path: Path,
) -> None:
    session = make_session(late_video(tmp_path), "laptop")
    assert "64 frames from 30.0 s to 39.9 s, 6.44 frames per second" in session.start().text
    error = session.reply(crop_reply(0, 20))
    assert error is not None and error.error is Fault.EMPTY_SEGMENT
    assert "30.0 s to 39.9 s" in error.text
    crop = session.reply(crop_reply(0, 32))
    assert crop is not None and crop.clip is not None
    assert read_barcodes(crop.clip.frames) == [0, 7, 13, 20]
    assert crop.clip.segment.start_seconds == 30.0
    trajectory = session.trajectory
    assert type(trajectory).from_dict(trajectory.to_dict()) == trajectory


def test_only_the_first_observation_carries_the_system_prompt(minute_video: Path) -> None:
    session = make_session(minute_video)
    assert session.start().system == Prompts().system_text()
    crop = session.reply(crop_reply(1, 5))
    assert crop is not None and crop.system == ""


def test_a_reply_that_overruns_the_context_is_cut(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    tight = small_context(session.context_tokens + 10)
    session = make_session(minute_video, tight)
    session.start()
    assert session.reply("<think>" + "x" * 40 + "</think><answer>B</answer>") is None
    assert session.end_reason is EndReason.REPLY_CUT


def test_the_reserve_of_the_context_is_kept_free(minute_video: Path) -> None:
    session = make_session(minute_video)
    session.start()
    session.reply(crop_reply(1, 5))
    exact = session.context_tokens
    for reserve, reason in ((100, None), (101, EndReason.CONTEXT_EXHAUSTED)):
        budget = dataclasses.replace(small_context(exact + 100), reserve_tokens=reserve)
        session = make_session(minute_video, budget)
        session.start()
        session.reply(crop_reply(1, 5))
        assert session.end_reason is reason


def test_the_published_limits_are_the_defaults() -> None:
    config = SessionConfig()
    assert (config.max_turns, config.max_clips, config.force_answer) == (6, 12, False)


def test_an_extreme_aspect_ratio_ends_the_episode_by_name(tmp_path: Path) -> None:
    session = make_session(write_video(tmp_path / "strip.mp4", 4, height=16, width=3400))
    with pytest.raises(VideoDecodeError, match="aspect ratio"):
        session.start()
    assert session.end_reason is EndReason.VIDEO_FAILED
