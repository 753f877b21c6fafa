from __future__ import annotations

from functools import cache

import pytest

from agents.learning.decoupled_demonstrations import HAND_OVER
from agents.learning.from_nothing.imagined import NoPixels, PlannedVideo
from agents.learning.from_nothing.settings import TOOL_KINDS, needle_config
from agents.learning.from_nothing.ways import DECOUPLED, GUESSING, NATIVE, SINGLE_TURN, Way
from agents.learning.needle_truth import describe_pairs, name_of
from agents.llm.tiny_tokenizer import byte_fallbacks, tiny_tokenizer
from envs.decoupled import ANSWERER, SEEKER, DecoupledSession
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.datasets.needle import plan_tasks
from videoseek_env.session import Observation
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory

CONFIG = needle_config("baselines", 20)


@cache
def tasks() -> list[VideoTask]:
    return plan_tasks(CONFIG)


def play(
    way: Way, task: VideoTask, slip_probability: float = 0.0, seed: int = 0
) -> DecoupledSession:
    """The finished session, whose class differs with the way."""
    session = way.make_session(task, PlannedVideo(task, CONFIG), way.rules, cache=NoPixels())
    demonstrator = way.demonstrator(slip_probability=slip_probability)
    demonstrator.reset(seed=seed)
    demonstrator.reveal(task)
    observation: Observation | None = session.start()
    while observation is not None:
        observation = session.reply(demonstrator.act(observation))
    return session  # type: ignore[return-value]


def trajectories(way: Way, slip_probability: float = 0.0) -> list[Trajectory]:
    return [play(way, task, slip_probability, seed).trajectory for seed, task in enumerate(tasks())]


@pytest.mark.parametrize("way", [GUESSING, SINGLE_TURN, DECOUPLED])
@pytest.mark.parametrize("slip_probability", [0.0, 0.5])
def test_every_demonstration_is_right_and_in_tokens_of_its_own(
    way: Way, slip_probability: float
) -> None:
    tokenizer = tiny_tokenizer()
    for trajectory in trajectories(way, slip_probability):
        parts = TrajectoryGuidedReward()(trajectory).parts
        assert parts["acc"] == parts["format"] == 1
        assert trajectory.end_reason is EndReason.ANSWERED
        for turn in trajectory.turns:
            assert byte_fallbacks(tokenizer, turn.observation + turn.reply) == []


@pytest.mark.parametrize("way", [NATIVE, GUESSING, SINGLE_TURN, DECOUPLED])
def test_no_face_is_told_before_it_is_shown(way: Way) -> None:
    told = 0
    for seed, task in enumerate(tasks()):
        events = [one for one in task.metadata["events"] if one["kind"] == "card"]
        faces = {name_of(event, is_face=True) for event in events}
        shown: set[str] = set()
        session = play(way, task, 0.5, seed)
        parts = session.game.sessions.values() if way is DECOUPLED else [session]
        for turn in (turn for part in parts for turn in part.trajectory.turns):
            if turn.clip is not None:
                shown |= {pair.text for pair in describe_pairs(turn.clip, task)}
            said = {face for face in faces if face in turn.reply}
            assert said <= shown
            told += len(said)
    assert (told > 0) == (way is not SINGLE_TURN)


def test_a_single_turn_thinks_like_the_native_way_about_what_needs_no_crop() -> None:
    for task in tasks():
        (turn,) = play(SINGLE_TURN, task).trajectory.turns
        first = play(NATIVE, task).trajectory.turns[0]
        if "<answer>" in first.reply:
            assert turn.reply == first.reply
        else:
            scan = turn.reply.partition(". A ")[0]
            assert first.reply.startswith(scan)


def test_half_of_the_guessing_demonstrations_guess_and_the_others_are_native() -> None:
    guesses = 0
    for seed, task in enumerate(tasks()):
        found = play(GUESSING, task, seed=seed).trajectory.replies
        native = play(NATIVE, task, seed=seed).trajectory.replies
        is_guess = len(native) > 1 and len(found) == 1
        assert found == (play(SINGLE_TURN, task).trajectory.replies if is_guess else native)
        guesses += is_guess
    crops = sum(task.kind in TOOL_KINDS for task in tasks())
    assert 0.3 * crops < guesses < 0.7 * crops


def test_the_answerer_sees_everything_that_the_question_is_about_but_landmarks() -> None:
    for task in tasks():
        session = play(DECOUPLED, task)
        (answered,) = session.game.sessions[ANSWERER].trajectory.turns
        assert answered.clip is not None
        shown = {pair.text for pair in describe_pairs(answered.clip, task)}
        events = task.metadata["events"]
        clues = [events[place] for place in task.metadata["clue_events"]]
        if task.metadata["template"].startswith("hop"):
            clues = [clue for clue in clues if clue["kind"] != "shape"]
        assert {name_of(clue, is_face=clue["kind"] == "card") for clue in clues} <= shown


def test_the_seeker_hands_over_and_tells_no_answer() -> None:
    for task in tasks():
        *crops, last = play(DECOUPLED, task).game.sessions[SEEKER].trajectory.replies
        assert last.endswith(f"<answer>{HAND_OVER}</answer>")
        assert crops and all("<grounding>" in reply for reply in crops)
        assert not any(". A " in reply for reply in (*crops, last))  # no option is restated
