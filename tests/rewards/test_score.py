from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewards import TrajectoryGuidedReward, compute_score
from rewards.testing import play, replies, tasks, trajectories
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.errors import TaskError
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason, Trajectory

PUBLISHED = [kind for kind in TaskKind if kind is not TaskKind.OPEN_ENDED]
KINDS = (
    "clue_single_w_tool, clue_multi_w_tool, clue_single_wo_tool, clue_multi_wo_tool, "
    "temporal_grounding"
)
GOLD = {"answer": "B", "clue": [{"timestamp": [10, 20]}]}


def ground_truth(task: VideoTask) -> dict[str, Any]:
    clues = [{"timestamp": [clue.start_seconds, clue.end_seconds]} for clue in task.clues]
    return {"answer": task.answer, "clue": clues}


def scored_as_texts(trajectory: Trajectory) -> dict[str, float]:
    task = trajectory.task
    return compute_score(task.kind.value, trajectory.replies, ground_truth(task))


def scored_as_trajectory(trajectory: Trajectory) -> dict[str, float]:
    reward = TrajectoryGuidedReward()(trajectory)
    return {"score": reward.value} | {
        part: reward.parts[part] for part in ("acc", "format", "bonus")
    }


# A cut reply is the one thing that texts don't tell.
@pytest.mark.parametrize("kind", PUBLISHED)
def test_texts_score_as_their_trajectory_to_the_last_digit(kind: TaskKind) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(trajectories(kinds=[kind]))
    def check(trajectory: Trajectory) -> None:
        if trajectory.end_reason is not EndReason.REPLY_CUT:
            assert scored_as_texts(trajectory) == scored_as_trajectory(trajectory)

    check()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_malformed_turns_score_as_their_trajectory(data: st.DataObject) -> None:
    task = data.draw(tasks(kinds=PUBLISHED, hostile=True))
    trajectory = play(task, data.draw(st.lists(replies(task), max_size=6)))
    assert scored_as_texts(trajectory) == scored_as_trajectory(trajectory)


def test_a_single_text_is_a_single_turn() -> None:
    reply = answer_reply("B")
    whole = {"score": 2.75, "acc": 1.0, "format": 1.0, "bonus": 0.75}
    assert compute_score("clue_single_wo_tool", reply, GOLD) == whole
    assert compute_score("clue_single_wo_tool", (reply,), GOLD) == whole
    assert compute_score("clue_single_wo_tool", [reply], GOLD, {"index": 3}) == whole


# The crop equals the clue: 1 + 1 + 1.
def test_turns_in_order() -> None:
    turns = [crop_reply(10, 20), answer_reply("B")]
    expected = {"score": 3.0, "acc": 1.0, "format": 1.0, "bonus": 1.0}
    assert compute_score("clue_single_w_tool", turns, GOLD) == expected


def test_no_turns_score_nothing() -> None:
    nothing = {"score": 0.0, "acc": 0.0, "format": 0.0, "bonus": 0.0}
    assert compute_score("clue_single_w_tool", [], GOLD) == nothing
    assert compute_score("clue_single_w_tool", "", GOLD) == nothing


# Answer [10, 30) of [10, 20): 1/2 + 1; the ground truth's answer is not read.
@pytest.mark.parametrize("answer", ["", None, 7])
def test_temporal_grounding_needs_no_answer_in_the_ground_truth(answer: object) -> None:
    told = answer_reply('{"temporal_segment": [10, 30]}')
    gold = GOLD | {"answer": answer}
    assert compute_score("temporal_grounding", told, gold)["score"] == 1.5


def test_an_expected_letter_may_stand_in_white_space() -> None:
    assert compute_score("clue_multi_wo_tool", answer_reply("B"), GOLD | {"answer": " B\n"})[
        "score"
    ] == pytest.approx(2.5)


@pytest.mark.parametrize(
    "clues",
    [
        None, [], [{"timestamp": [20, 10]}], [{"timestamp": [10, 10]}], [{"timestamp": [10]}],
        [{"timestamp": "ab"}], [{"timestamp": [None, 2]}], [{}], [None], ["text"], [[10, 20]],
        [{"timestamp": [10, float("inf")]}],
    ],
)  # fmt: skip
def test_a_clue_that_is_no_interval_is_skipped(clues: object) -> None:
    turns = [crop_reply(10, 20), answer_reply("B")]
    # Without clues g = 0: half the bonus is left.
    assert compute_score("clue_multi_w_tool", turns, {"answer": "B", "clue": clues})["bonus"] == 0.5


def test_sound_clues_beside_broken_ones_count() -> None:
    gold = {"answer": "B", "clue": [None, {"timestamp": [20, 10]}, {"timestamp": (10, 20)}]}
    turns = [crop_reply(10, 20), answer_reply("B")]
    assert compute_score("clue_multi_w_tool", turns, gold)["bonus"] == 1.0


@pytest.mark.parametrize("kind", ["open_ended", "clue", "", "CLUE_SINGLE_W_TOOL"])
def test_an_unknown_kind_is_told(kind: str) -> None:
    with pytest.raises(TaskError, match=f"unknown data_source '{kind}'; choose one of {KINDS}$"):
        compute_score(kind, answer_reply("B"), GOLD)


@pytest.mark.parametrize("gold", [{}, {"answer": None}, {"answer": " "}, {"answer": 1}, None, "B"])
def test_a_missing_answer_is_told(gold: Any) -> None:
    with pytest.raises(TaskError, match=r'expected ground_truth\["answer"\] to be a letter, got'):
        compute_score("clue_single_w_tool", answer_reply("B"), gold)


@pytest.mark.parametrize("clues", ["[1, 2]", 7, {"timestamp": [1, 2]}])
def test_clues_are_a_list(clues: object) -> None:
    with pytest.raises(TaskError, match=r'expected ground_truth\["clue"\] to be a list, got'):
        compute_score("clue_single_w_tool", answer_reply("B"), {"answer": "B", "clue": clues})


def test_a_ground_truth_that_is_no_mapping_has_no_clues() -> None:
    told = answer_reply('{"temporal_segment": [10, 30]}')
    assert compute_score("temporal_grounding", told, None)["score"] == 1.0  # type: ignore[arg-type]
