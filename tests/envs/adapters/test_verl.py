import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from envs.adapters.verl import GuardedEpisode, compute_score, reply_of, rows, shared_cache, task_of
from tests.envs.adapters.same_episode import REWARD, RULES, make_task
from tests.envs.adapters.verl_engine import call_of
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.errors import TaskError
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason

TURNS = "<think>look</think>{call}\nuser\nCrop: 8 frames\nassistant\n<think>so</think>{answer}"
"""Two turns as verl decodes them, without special tokens."""


def test_rows_say_all_that_the_loop_needs_and_are_json(task: VideoTask) -> None:
    other = dataclasses.replace(task, id="other")
    [_, row] = json.loads(json.dumps(list(rows([task, other]))))
    assert task_of(row["extra_info"]) == other
    assert row["data_source"] == "clue_single_w_tool" and row["extra_info"]["index"] == 1
    truth = row["reward_model"]["ground_truth"]
    assert truth == {"answer": "B", "clue": [{"timestamp": [10.0, 20.0]}]}
    assert compute_score(row["data_source"], answer_reply("B"), truth)["score"] == 2.0


def test_a_row_of_other_data_is_an_error() -> None:
    with pytest.raises(TaskError, match=r"expected a field 'task', got \['index'\]; make the data"):
        task_of({"index": 3})


def test_a_solution_is_scored_with_the_crops_that_were_called(task: VideoTask) -> None:
    [row] = rows([task])
    truth = row["reward_model"]["ground_truth"]
    solution = TURNS.format(call=call_of(), answer="<answer>B</answer>")
    # Right, in form, and one call for exactly the clue: the whole bonus of 1.
    score = compute_score("clue_single_w_tool", solution, truth, extra_info={"num_turns": 4})
    assert score == {"score": 3.0, "acc": 1.0, "format": 1.0, "bonus": 1.0}
    wrong = TURNS.format(call=call_of(), answer="<answer>A</answer>")
    assert compute_score("clue_single_w_tool", wrong, truth)["score"] == 1.0


@pytest.mark.parametrize("call", [call_of(detail="sharp"), "<tool_call>no JSON</tool_call>"])
def test_a_call_that_makes_no_sense_costs_form(call: str, task: VideoTask) -> None:
    [row] = rows([task])
    solution = TURNS.format(call=call, answer="<answer>B</answer>")
    score = compute_score("clue_single_w_tool", solution, row["reward_model"]["ground_truth"])
    # One fault in two turns costs half of the form, and without it there is no bonus.
    assert score == {"score": 1.5, "acc": 1.0, "format": 0.5, "bonus": 0.0}


def test_a_solution_that_ends_with_a_call_has_no_answer(task: VideoTask) -> None:
    [row] = rows([task])
    truth = row["reward_model"]["ground_truth"]
    assert compute_score("clue_single_w_tool", f"<think>x</think>{call_of()}", truth)["acc"] == 0.0
    assert compute_score("clue_single_w_tool", "", truth)["score"] == 0.0


def test_an_unknown_data_source_is_an_error() -> None:
    with pytest.raises(TaskError, match="unknown data_source 'geo3k'"):
        compute_score("geo3k", "", {"answer": "B"})


@pytest.mark.parametrize("arguments", [None, "", [], {}, {"start": {}}, 7])
def test_any_arguments_make_a_reply(arguments: Any) -> None:
    assert reply_of(arguments).startswith("<think></think><grounding>")


def test_episodes_of_a_process_share_decoded_clips(task: VideoTask) -> None:
    clips = shared_cache(2**20)
    assert shared_cache(2**20) is clips
    for _ in range(2):
        assert GuardedEpisode(task, RULES, clips).start() is not None
    assert (clips.stats.misses, clips.stats.hits) == (1, 1)


def test_a_broken_video_ends_its_episode_and_raises_nothing(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    episode = GuardedEpisode(make_task(path), RULES, shared_cache())
    assert episode.start() is None and episode.reply(answer_reply("B")) is None
    episode.end()
    assert episode.trajectory.end_reason is EndReason.VIDEO_FAILED
    assert REWARD(episode.trajectory).value == 0.0


def test_a_video_that_fails_half_way_ends_its_episode(minute_video: Path, tmp_path: Path) -> None:
    path = tmp_path / "here_today.mp4"
    path.write_bytes(minute_video.read_bytes())
    episode = GuardedEpisode(make_task(path), RULES, shared_cache())
    assert episode.start() is not None
    path.unlink()
    assert episode.reply(crop_reply(10, 20)) is None
    assert episode.trajectory.end_reason is EndReason.VIDEO_FAILED
    assert len(episode.trajectory.turns) == 1
