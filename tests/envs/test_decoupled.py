import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.baselines import OraclePolicy
from agents.rollout import rollout
from envs.decoupled import (
    ANSWERER,
    ANSWERER_PROMPTS,
    SEEKER,
    SEEKER_PROMPTS,
    DecoupledSession,
    plan_found,
)
from rewards import TrajectoryGuidedReward
from tests.envs.decoupled_games import (
    DONE,
    Told,
    hand_over,
    make_arguments,
    make_game,
    play,
)
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from tests.synthetic_video import read_barcodes
from videoseek_env.budget import LAPTOP, TINY, Budget, clip_size, visual_tokens
from videoseek_env.errors import EpisodeError
from videoseek_env.prompts import Prompts
from videoseek_env.segment import Segment
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import ClipCache, VideoInfo, open_video
from videoseek_env.video.clip import STRATEGIES, ClipRef, Strategy

# What each agent sees


def test_the_seeker_sees_what_a_single_agent_sees(minute_video: Path) -> None:
    game = make_game(minute_video)
    single = VideoSession(
        game.seeker.task, open_video(minute_video), game.seeker.config, cache=ClipCache(2**24)
    )
    agent, observation = game.start()
    assert agent == SEEKER
    for expected, reply in (
        (single.start(), crop_reply(10, 14)),
        (single.reply(crop_reply(10, 14)), "<grounding>{}</grounding>"),
        (single.reply("<grounding>{}</grounding>"), ""),
    ):
        assert expected is not None and agent == SEEKER
        assert (observation.text, observation.error) == (expected.text, expected.error)
        assert observation.system == expected.system
        if expected.clip is None:
            assert observation.clip is None
        else:
            assert observation.clip is not None
            assert np.array_equal(observation.clip.frames, expected.clip.frames)
        turn = game.reply(reply)
        assert turn is not None
        agent, observation = turn


def test_the_answerer_sees_the_frames_of_the_crops_and_no_other(minute_video: Path) -> None:
    found = hand_over(make_game(minute_video), [crop_reply(50, 54), crop_reply(10, 14), DONE]).clip
    assert found is not None
    # 4 s at 2 fps are 8 frames of 10 a second, evenly spaced over 40 frames: every 40/7 frames.
    crops = [[10 * start + round(i * 40 / 7) for i in range(8)] for start in (10, 50)]
    assert read_barcodes(found.frames) == crops[0] + crops[1]
    np.testing.assert_allclose(found.timestamps_seconds, np.array(crops[0] + crops[1]) / 10)


def test_a_frame_of_two_crops_is_shown_once(minute_video: Path) -> None:
    found = hand_over(make_game(minute_video), [crop_reply(10, 14), crop_reply(12, 16), DONE]).clip
    assert found is not None
    # As above; the second crop starts at 120 and shares no frame with the first but the one at 140,
    # which is no multiple of 40/7 away from 120: 120, 126, 131, 137, 143, 149, 154, 160.
    first = [100, 106, 111, 117, 123, 129, 134, 140]
    second = [120, 126, 131, 137, 143, 149, 154, 160]
    assert read_barcodes(found.frames) == sorted({*first, *second})
    again = hand_over(make_game(minute_video), [crop_reply(10, 14)] * 3 + [DONE]).clip
    once = hand_over(make_game(minute_video), [crop_reply(10, 14), DONE]).clip
    assert again is not None and once is not None
    assert read_barcodes(again.frames) == first
    assert np.array_equal(again.frames, once.frames)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_single_crop_found_is_that_crop_and_decodes_nothing(
    minute_video: Path, strategy: str
) -> None:
    cache = ClipCache(2**26)
    game = make_game(minute_video, cache=cache, budget="laptop")
    game.start()
    turn = game.reply(crop_reply(10, 20, strategy))
    assert turn is not None
    crop = turn[1].clip
    decoded = cache.stats.misses
    turn = game.reply(DONE)
    assert turn is not None
    found = turn[1].clip
    assert crop is not None and found is not None
    assert np.shares_memory(crop.frames, found.frames)
    assert (found.segment, found.strategy) == (crop.segment, crop.strategy)
    assert cache.stats.misses == decoded


def test_no_overview_frame_reaches_the_answerer_through_the_environment(
    minute_video: Path,
) -> None:
    pytest.importorskip("pettingzoo", reason="PettingZoo is an extra")
    from envs import seeker_answerer

    env = seeker_answerer.env(**make_arguments(minute_video))
    env.reset(seed=0)
    overview = set(read_barcodes(env.last()[0]["frames"]))
    for reply in (crop_reply(10, 14), "<grounding>{}</grounding>", crop_reply(50, 54), DONE):
        assert env.agent_selection == SEEKER
        assert env.observe(ANSWERER)["frames"].shape == (0, 0, 0, 3)
        assert "digit" not in env.observe(ANSWERER)["text"]
        env.step(reply)
    seen = read_barcodes(env.observe(ANSWERER)["frames"])
    assert all(100 <= index <= 140 or 500 <= index <= 540 for index in seen)
    assert len(overview) == 20 and len(overview - set(seen)) >= 18
    assert env.observe(SEEKER)["frames"].shape == (0, 0, 0, 3)


def test_the_answerer_reads_the_question_and_the_crops_but_no_word_of_the_seeker(
    minute_video: Path,
) -> None:
    replies = [crop.replace("look", "SECRET") for crop in (crop_reply(50, 54), crop_reply(10, 14))]
    observation = hand_over(make_game(minute_video), [*replies, answer_reply("SECRET")])
    assert observation.text == (
        "Which digit does the red card show?\nA. 1\nB. 2\nC. 3\nD. 4\n"
        "Answer with the letter of the right option.\n"
        "Crop: 8 frames from 10.0 s to 14.0 s, 2.00 frames per second.\n"
        "Crop: 8 frames from 50.0 s to 54.0 s, 2.00 frames per second."
    )
    assert "someone else cropped" in observation.system and "SECRET" not in observation.system


def test_a_seeker_that_never_crops_leaves_the_answerer_to_guess(minute_video: Path) -> None:
    game = make_game(minute_video)
    observation = hand_over(game, [DONE])
    assert observation.clip is None
    assert "Which digit does the red card show?" in observation.text
    assert "Crop" not in observation.text
    assert game.reply(answer_reply("B")) is None
    reward = TrajectoryGuidedReward()(game.trajectory)
    # Right and in good form; but a tool question pays no bonus without a crop.
    assert (reward.value, reward.parts["bonus"]) == (2.0, 0.0)


def test_a_forced_answer_asks_both_agents(minute_video: Path) -> None:
    game = make_game(minute_video, max_turns=2, force_answer=True)
    game.start()
    turn = game.reply(crop_reply(1, 5))
    assert turn is not None and turn[1].text.endswith("finish now.")
    turn = game.reply(crop_reply(1, 5))
    assert turn is not None and turn[0] == ANSWERER
    assert turn[1].text.endswith("give your final answer now.")


# How a game passes on and ends


@pytest.mark.parametrize(
    ("rules", "reply", "reason"),
    [
        ({}, DONE, EndReason.ANSWERED),
        ({}, "I am done.", EndReason.NO_ACTION),
        ({}, "", EndReason.NO_ACTION),
        ({}, "x" * 10_000, EndReason.REPLY_CUT),
        ({"max_turns": 2}, crop_reply(1, 5), EndReason.TURNS_EXHAUSTED),
        ({"max_turns": 2}, "<grounding>{}</grounding>", EndReason.TURNS_EXHAUSTED),
        ({"max_clips": 2}, crop_reply(1, 5), EndReason.CLIPS_EXHAUSTED),
    ],
)
def test_whatever_ends_the_seekers_episode_hands_over_what_was_shown(
    minute_video: Path, rules: dict[str, Any], reply: str, reason: EndReason
) -> None:
    game = make_game(minute_video, **rules)
    found = hand_over(game, [crop_reply(10, 20), reply]).clip
    assert game.seeker.end_reason is reason
    assert game.end_reason is None
    assert found is not None
    # 10 s have more frames than a tiny crop may: 8, evenly spaced over frames 100 to 200.
    assert read_barcodes(found.frames) == [round(100 + i * 100 / 7) for i in range(8)]
    assert game.reply(answer_reply("B")) is None
    # A crop that was refused is not scored: with [10, 20] alone the crop is perfect.
    assert TrajectoryGuidedReward()(game.trajectory).value == 3.0
    assert len(game.trajectory.turns) == 2


def test_a_seeker_out_of_context_hands_over(minute_video: Path) -> None:
    def tight(tokens: int) -> Budget:
        return dataclasses.replace(TINY, name="tight", context_tokens=tokens, reserve_tokens=0)

    trial = make_game(minute_video)
    trial.start()
    trial.reply(crop_reply(10, 20))
    game = make_game(minute_video, budget=tight(trial.seeker.context_tokens + 40))
    found = hand_over(game, [crop_reply(10, 20), crop_reply(30, 40)]).clip
    assert game.seeker.end_reason is EndReason.CONTEXT_EXHAUSTED
    assert found is not None and max(read_barcodes(found.frames)) <= 200


def test_a_malformed_grounding_uses_a_turn_and_costs_the_form(minute_video: Path) -> None:
    game = make_game(minute_video, max_turns=3)
    hand_over(game, ["<grounding>{}</grounding>", crop_reply(10, 20), crop_reply(10, 20)])
    assert game.seeker.end_reason is EndReason.TURNS_EXHAUSTED
    game.reply(answer_reply("B"))
    assert TrajectoryGuidedReward()(game.trajectory).parts["format"] == 0.0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer_reply("C"), EndReason.ANSWERED),
        ("B", EndReason.NO_ACTION),
        ("x" * 10_000, EndReason.REPLY_CUT),
        (crop_reply(10, 20), EndReason.TURNS_EXHAUSTED),
        ("<grounding>{}</grounding>", EndReason.TURNS_EXHAUSTED),
    ],
)
def test_the_answerers_only_reply_ends_the_game(
    minute_video: Path, reply: str, reason: EndReason
) -> None:
    game = make_game(minute_video)
    hand_over(game, [crop_reply(10, 20), DONE])
    assert game.reply(reply) is None
    assert game.end_reason is game.trajectory.end_reason is reason
    with pytest.raises(EpisodeError, match="has ended"):
        game.reply(reply)


def test_a_question_over_the_context_limit_ends_the_game_at_once(minute_video: Path) -> None:
    budget = dataclasses.replace(TINY, name="small", context_tokens=60, reserve_tokens=0)
    game = make_game(minute_video, budget=budget)
    assert game.start()[0] == SEEKER
    assert game.end_reason is EndReason.PROMPT_TOO_LONG
    assert game.trajectory.turns == ()


def test_an_answerer_without_room_for_the_crops_ends_the_game(minute_video: Path) -> None:
    game = make_game(minute_video, answerer_prompts=Prompts(system="x" * 4096))
    game.start()
    game.reply(crop_reply(10, 20))
    assert game.reply(DONE) is None
    assert game.end_reason is game.trajectory.end_reason is EndReason.PROMPT_TOO_LONG
    assert [turn.reply for turn in game.trajectory.turns] == [crop_reply(10, 20)]
    assert TrajectoryGuidedReward()(game.trajectory).value == 0.0


def test_abandoning_names_the_end_of_the_running_agent(minute_video: Path) -> None:
    for replies in ([], [DONE]):
        game = make_game(minute_video)
        game.start()
        for reply in replies:
            game.reply(reply)
        game.abandon(EndReason.POLICY_FAILED)
        game.abandon()
        assert game.end_reason is game.trajectory.end_reason is EndReason.POLICY_FAILED


def test_driving_a_game_out_of_order_is_an_error(minute_video: Path) -> None:
    game = make_game(minute_video)
    with pytest.raises(EpisodeError, match="not started"):
        game.reply(DONE)
    game.start()
    with pytest.raises(EpisodeError, match="has started"):
        game.start()


# What a game is worth, and what it cost


def test_the_scored_trajectory_is_that_of_one_agent_with_the_answerers_reply(
    minute_video: Path,
) -> None:
    game = make_game(minute_video)
    observation = hand_over(game, [crop_reply(1, 5), crop_reply(10, 20), DONE])
    game.reply(answer_reply("B"))
    trajectory = game.trajectory
    assert trajectory.replies == (crop_reply(1, 5), crop_reply(10, 20), answer_reply("B"))
    assert trajectory.answer == "B"
    assert trajectory.turns[-1].observation == observation.text
    assert [clip.strategy for clip in trajectory.clips] == ["overview", "fine", "fine"]
    assert trajectory.context_tokens == sum(
        session.context_tokens for session in game.sessions.values()
    )
    assert Trajectory.from_dict(trajectory.to_dict()) == trajectory


def test_each_agent_pays_for_what_it_saw_and_wrote_itself(minute_video: Path) -> None:
    roomy = dataclasses.replace(TINY, name="roomy", context_tokens=8192)
    game = make_game(minute_video, budget=roomy, count_text_tokens=len)
    seen = {SEEKER: [game.start()[1]], ANSWERER: []}
    replies = {SEEKER: [crop_reply(10, 14), crop_reply(50, 54), DONE], ANSWERER: ["B"]}
    for reply in replies[SEEKER]:
        turn = game.reply(reply)
        assert turn is not None
        seen[turn[0]].append(turn[1])
    assert game.reply("B") is None
    # The overview is 10 pairs of a token. 8 frames are 4 pairs; of 16 // 4 = 4 tokens a pair,
    # 96 x 128 pixels take 1 x 2 cells of 32 px (they would be 3 x 4): 8 tokens a crop. 16 frames at
    # twice the quota are 8 pairs of the same size: 16 tokens.
    visual_tokens = {SEEKER: 10 + 8 + 8, ANSWERER: 16}
    for agent, session in game.sessions.items():
        texts = [seen[agent][0].system, *(observation.text for observation in seen[agent])]
        assert session.visual_tokens == visual_tokens[agent]
        assert (
            session.context_tokens == sum(map(len, texts + replies[agent])) + (visual_tokens[agent])
        )
        assert list(session.trajectory.replies) == replies[agent]


@pytest.mark.parametrize(
    ("kind", "clues", "best"),
    [
        # Accuracy 1 + format 1 + the bonus of the kind: (1 + 1) / 2, (1 + 1) / 2, 0.75, 0.5.
        (TaskKind.SINGLE_CLUE_TOOL, [(10, 20)], 3.0),
        (TaskKind.MULTI_CLUE_TOOL, [(10, 20), (30, 42)], 3.0),
        (TaskKind.SINGLE_CLUE_DIRECT, [(10, 20)], 2.75),
        (TaskKind.MULTI_CLUE_DIRECT, [(10, 20), (30, 42)], 2.5),
    ],
)
def test_a_perfect_pair_earns_what_a_perfect_single_agent_does(
    minute_video: Path, kind: TaskKind, clues: list[tuple[float, float]], best: float
) -> None:
    trajectory = play(make_game(minute_video, make_task(kind, clues)), OraclePolicy(), Told())
    assert TrajectoryGuidedReward()(trajectory).value == pytest.approx(best)
    if kind in (TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL):
        assert TrajectoryGuidedReward.hardened()(trajectory).value == pytest.approx(3.0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    crops=st.lists(st.sampled_from([crop_reply(10, 20), crop_reply(8, 31), "<grounding>{}"]))
    .map(lambda replies: [reply for reply in replies if reply.endswith(">")])
    .map(lambda replies: replies[:5]),
    answer=st.sampled_from("ABX"),
)
def test_a_pair_earns_what_a_single_agent_with_its_crops_and_answer_does(
    minute_video: Path, crops: list[str], answer: str
) -> None:
    game = make_game(minute_video)
    single = VideoSession(
        game.seeker.task, open_video(minute_video), game.seeker.config, cache=ClipCache(2**24)
    )
    hand_over(game, [*crops, DONE])
    game.reply(answer_reply(answer))
    single.start()
    for reply in [*crops, answer_reply(answer)]:
        single.reply(reply)
    for reward in (TrajectoryGuidedReward(), TrajectoryGuidedReward.hardened()):
        assert reward(game.trajectory) == reward(single.trajectory)
    assert game.trajectory.clips == single.trajectory.clips


# The clip of what was found


SOURCE = VideoInfo(
    frame_count=600,
    duration_seconds=60.0,
    start_seconds=0.0,
    height=360,
    width=640,
    fps=10.0,
    codec="h264",
)


def make_crop(first: int, count: int, strategy: Strategy = "fine") -> ClipRef:
    indices = range(first, first + count)
    quota = LAPTOP.crops[strategy]
    size = clip_size(SOURCE.height, SOURCE.width, count, quota=quota, grid_px=LAPTOP.grid_px)
    return ClipRef(
        video="v.mp4",
        indices=tuple(indices),
        timestamps_seconds=tuple(index / 10 for index in indices),
        height=size.height,
        width=size.width,
        segment=Segment(first / 10, (first + count) / 10),
        strategy=strategy,
        visual_tokens=visual_tokens(count, size, grid_px=LAPTOP.grid_px),
    )


CROPS = st.builds(make_crop, st.integers(0, 500), st.integers(1, 32), st.sampled_from(STRATEGIES))


@given(crops=st.lists(CROPS, min_size=1, max_size=6))
def test_what_was_found_is_the_union_of_the_crops_within_the_sum_of_their_quotas(
    crops: list[ClipRef],
) -> None:
    found = plan_found(crops, SOURCE, LAPTOP)
    assert found is not None
    assert found.indices == tuple(sorted({index for crop in crops for index in crop.indices}))
    assert found.timestamps_seconds == tuple(index / 10 for index in found.indices)
    assert found.segment.start_seconds == min(crop.segment.start_seconds for crop in crops)
    assert found.segment.end_seconds == max(crop.segment.end_seconds for crop in crops)
    # A strategy's quota: 256, 512 or 1024 tokens.
    assert found.visual_tokens <= sum(
        {"coarse": 256, "medium": 512, "fine": 1024}[crop.strategy] for crop in crops
    )
    assert found.height * found.width <= max(crop.height * crop.width for crop in crops)
    assert found == plan_found(crops[::-1], SOURCE, LAPTOP)


@given(crop=CROPS, times=st.integers(1, 5))
def test_what_was_found_by_one_crop_is_that_crop_however_often_it_was_asked_for(
    crop: ClipRef, times: int
) -> None:
    assert plan_found([crop] * times, SOURCE, LAPTOP) == crop


def test_nothing_is_found_without_crops() -> None:
    overview = dataclasses.replace(make_crop(0, 20), strategy="overview")
    assert plan_found([], SOURCE, LAPTOP) is None
    assert plan_found([overview], SOURCE, LAPTOP) is None
    assert plan_found([overview, make_crop(5, 8)], SOURCE, LAPTOP) == make_crop(5, 8)


class BothRoles:
    """Crops, hands over, and answers what it was told."""

    def reset(self, *, seed: int | None = None) -> None:
        self.systems: list[str] = []
        self.seen: list[Observation] = []

    def reveal(self, task: VideoTask) -> None:
        self.answer = task.answer

    def act(self, observation: Observation) -> str:
        self.seen.append(observation)
        if observation.system:
            self.systems.append(observation.system)
        if len(self.systems) == 2:
            return answer_reply(self.answer)
        return crop_reply(10, 14) if len(self.seen) == 1 else DONE


def test_one_policy_plays_both_roles_in_a_rollout(minute_video: Path) -> None:
    policies: list[BothRoles] = []

    def make() -> BothRoles:
        policies.append(BothRoles())
        return policies[-1]

    task = dataclasses.replace(make_task(), video=str(minute_video))
    rules = SessionConfig(budget="tiny", prompts=SEEKER_PROMPTS)
    (episode,) = rollout(make, [task], session=rules, make_session=DecoupledSession)
    assert episode.error is None and episode.reward.parts["acc"] == 1
    (policy,) = policies
    assert policy.systems == [SEEKER_PROMPTS.system_text(), ANSWERER_PROMPTS.system_text()]
    found = policy.seen[-1].clip
    assert found is not None
    assert all(100 <= index <= 140 for index in read_barcodes(found.frames))
    assert [type(turn.action).__name__ for turn in episode.trajectory.turns] == [
        "Crop",
        "FinalAnswer",
    ]
