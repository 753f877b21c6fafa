import re
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import Format, Reward
from rewards.format import (
    FormatCheck,
    check_format,
    json_faults,
    strict_content,
    trajectory_format,
    unnested_format,
)
from tests.sample_trajectories import answer_reply, crop_reply, make_trajectory
from videoseek_env.trajectory import EndReason


def test_a_clean_trajectory_scores_one_and_counts_its_tool_turns() -> None:
    replies = [crop_reply(1, 5), crop_reply(6, 9), answer_reply("B")]
    assert check_format(replies) == FormatCheck(1.0, 2)


@pytest.mark.parametrize(
    "reply",
    [
        "<think>a</think><answer>B</answer>",
        "\n<think>a</think>\n<answer>B</answer>\n",
        "<think></think><answer></answer>",
        "<think>a\n\nb</think><answer>B\n</answer>",
        "<think>a</think></think><answer>B</answer>",  # a lazy match takes the longer thought
    ],
)
def test_forms_that_pass(reply: str) -> None:
    assert check_format([reply]) == FormatCheck(1.0, 0)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "<answer>B</answer>",
        " <think>a</think><answer>B</answer>",
        "\n\n<think>a</think><answer>B</answer>",
        "<think>a</think>\n\n<answer>B</answer>",
        "<think>a</think> <answer>B</answer>",
        "<think>a</think><answer>B</answer>.",
        "<think>a</think><answer>B</answer>\n\n",
        "<think>a<answer>B</answer>",
        "<Think>a</Think><answer>B</answer>",
        "<think>a</think><answer></answer",
        crop_reply(1, 5),
    ],
)
def test_forms_that_fail_take_the_tool_turns_with_them(reply: str) -> None:
    assert check_format([crop_reply(1, 5), reply]) == FormatCheck(0.0, 0)


def test_an_answer_before_the_last_turn_has_no_form() -> None:
    assert check_format([answer_reply("A"), answer_reply("B")]) == FormatCheck(0.0, 0)


def test_no_turns_have_no_form() -> None:
    assert check_format([]) == FormatCheck(0.0, 0)


# Three turns; one fault costs a third.
def test_a_json_fault_costs_one_over_the_turns() -> None:
    replies = [crop_reply(1, 5, "ultra"), crop_reply(6, 9), answer_reply("B")]
    assert check_format(replies).score == pytest.approx(2 / 3)
    assert check_format(replies).tool_turns == 2


# Two turns; two missing keys cost two halves; a third fault could not go below zero.
def test_faults_stop_at_zero() -> None:
    empty = "<think>x</think><grounding>{}</grounding>"
    assert check_format([empty, answer_reply("B")]) == FormatCheck(0.0, 1)
    assert check_format([empty, empty, answer_reply("B")]) == FormatCheck(0.0, 2)


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        ('{"temporal_segment": [1, 2], "sampling_strategy": "fine"}', 0),
        ('{"temporal_segment": ["a", null], "sampling_strategy": "fine"}', 0),  # a list of two
        ('{"temporal_segment": [1, 2, 3], "sampling_strategy": "fine"}', 1),
        ('{"temporal_segment": "12", "sampling_strategy": "fine"}', 1),
        ('{"temporal_segment": [1, 2], "sampling_strategy": ["fine"]}', 1),
        ('{"temporal_segment": [1, 2]}', 1),
        ("{}", 2),
        ("{'temporal_segment': [1, 2], 'sampling_strategy': 'fine'}", 1),  # strict JSON
        ("[1, 2]", 1),
        ("", 1),
        ("[" * 100_000, 1),
    ],
)
def test_json_faults(content: str, faults: int) -> None:
    assert json_faults(content) == faults


_PIECES = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "<grounding>", "</grounding>", "\n", "x", " "]
)


@given(st.lists(_PIECES, max_size=12).map("".join), st.sampled_from(["answer", "grounding"]))
def test_the_linear_scan_equals_the_regular_expression(
    body: str, tag: Literal["answer", "grounding"]
) -> None:
    pattern = rf"\n?<think>(.*?)</think>\n?<{tag}>(.*?)</{tag}>\n?"
    for reply in (body, f"<think>{body}</{tag}>"):
        match = re.fullmatch(pattern, reply, re.DOTALL)
        assert strict_content(reply, tag) == (match and match[2])


def test_the_scan_takes_linear_time() -> None:
    hostile = "<think>" + "</think><answer>" * 200_000 + "</answer"
    assert strict_content(hostile, "answer") is None


GOOD = [crop_reply(1, 5), answer_reply("B")]


def test_a_cut_reply_takes_form_and_tool_turns() -> None:
    cut = make_trajectory(GOOD, end_reason=EndReason.REPLY_CUT)
    assert trajectory_format(make_trajectory(GOOD)) == FormatCheck(1.0, 1)
    assert trajectory_format(cut) == unnested_format(cut) == FormatCheck(0.0, 0)
    assert Format()(cut) == Reward(0.0, {"tool_turns": 0.0})
    assert Format()(make_trajectory(GOOD)) == Reward(1.0, {"tool_turns": 1.0})


@pytest.mark.parametrize("tag", ["<think>", "</think>", "<grounding>", "<answer>", "</answer>"])
@pytest.mark.parametrize("turn", [0, 1])
def test_a_tag_inside_a_thought_is_no_form(tag: str, turn: int) -> None:
    replies = list(GOOD)
    replies[turn] = replies[turn].replace("<think>", f"<think>a {tag} b ")
    trajectory = make_trajectory(replies, end_reason=EndReason.ANSWERED)
    assert unnested_format(trajectory) == FormatCheck(0.0, 0)
    assert unnested_format(make_trajectory(GOOD)) == FormatCheck(1.0, 1)


def test_other_tags_may_stand_in_a_thought() -> None:
    replies = [GOOD[0].replace("look", "<i>look</i> </thinking>"), GOOD[1]]
    assert unnested_format(make_trajectory(replies)) == FormatCheck(1.0, 1)
