import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseek_env.action import (
    Crop,
    Fault,
    FinalAnswer,
    Malformed,
    parse_reply,
    read_json,
    tag_blocks,
    write_answer,
    write_crop,
)
from videoseek_env.segment import Segment
from videoseek_env.video.clip import STRATEGIES


def grounding(content: str) -> str:
    return f"<think>hm</think><grounding>{content}</grounding>"


def parse(text: str, duration_seconds: float = 100.0) -> object:
    return parse_reply(text, duration_seconds=duration_seconds)


def fault_of(text: str, duration_seconds: float = 100.0) -> Fault:
    action = parse(text, duration_seconds)
    assert isinstance(action, Malformed), action
    assert action.message
    return action.fault


def test_a_well_formed_grounding_is_a_crop() -> None:
    text = grounding('{"temporal_segment": [3, 9.5], "sampling_strategy": "medium"}')
    assert parse(text) == Crop(Segment(3.0, 9.5), "medium")


def test_the_last_of_several_groundings_counts() -> None:
    first = '<grounding>{"temporal_segment": [1, 2], "sampling_strategy": "fine"}</grounding>'
    last = '<grounding>{"temporal_segment": [5, 9], "sampling_strategy": "coarse"}</grounding>'
    assert parse(first + last) == Crop(Segment(5.0, 9.0), "coarse")


def test_the_last_of_several_answers_counts() -> None:
    assert parse("<answer>A</answer> no: <answer>\n B\t</answer>") == FinalAnswer("B")


def test_an_answer_wins_over_a_grounding_wherever_it_stands() -> None:
    crop = '<grounding>{"temporal_segment": [1, 5], "sampling_strategy": "fine"}</grounding>'
    assert parse(f"<answer>C</answer>{crop}") == FinalAnswer("C")
    assert parse(f"{crop}<answer>C</answer>") == FinalAnswer("C")


def test_an_unclosed_answer_is_no_answer() -> None:
    crop = '<grounding>{"temporal_segment": [1, 5], "sampling_strategy": "fine"}</grounding>'
    assert isinstance(parse(f"{crop}<answer>C"), Crop)


def test_json_is_taken_from_the_first_to_the_last_brace() -> None:
    text = grounding('Here: {"temporal_segment": [1, 5], "sampling_strategy": "fine"}. Right?')
    assert parse(text) == Crop(Segment(1.0, 5.0), "fine")


def test_single_quotes_are_forgiven() -> None:
    text = grounding("{'temporal_segment': [1, 5], 'sampling_strategy': 'fine'}")
    assert parse(text) == Crop(Segment(1.0, 5.0), "fine")


def test_segments_are_clamped_to_the_video() -> None:
    text = grounding('{"temporal_segment": [-7, 1e9], "sampling_strategy": "coarse"}')
    assert parse(text, 60.0) == Crop(Segment(0.0, 60.0), "coarse")


def test_no_segment_starts_at_minus_zero() -> None:
    crop = parse(grounding('{"temporal_segment": [-0.0, 5], "sampling_strategy": "fine"}'), 60.0)
    assert isinstance(crop, Crop) and str(crop.segment) == "0.0 s to 5.0 s"


def test_an_integer_too_large_for_a_float_is_clamped() -> None:
    huge = "9" * 400
    text = grounding(f'{{"temporal_segment": [0, {huge}], "sampling_strategy": "fine"}}')
    assert parse(text, 60.0) == Crop(Segment(0.0, 60.0), "fine")


@pytest.mark.parametrize(
    ("segment", "is_crop"),
    [
        ("[2, 3]", True),
        ("[2, 2.99]", False),
        ("[99, 100]", True),
        ("[99.5, 100]", False),
        ("[0.2, 1.2]", True),  # 1.2 - 1 < 0.2 in floats
    ],
)
def test_a_crop_spans_at_least_one_second(segment: str, is_crop: bool) -> None:
    text = grounding(f'{{"temporal_segment": {segment}, "sampling_strategy": "fine"}}')
    assert isinstance(parse(text), Crop) is is_crop


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", Fault.BAD_JSON),
        ("[3, 9]", Fault.BAD_JSON),
        ("{not json}", Fault.BAD_JSON),
        ("{" * 100_000 + "}" * 100_000, Fault.BAD_JSON),
        ('{"sampling_strategy": "fine"}', Fault.MISSING_KEY),
        ('{"temporal_segment": [1, 5]}', Fault.MISSING_KEY),
        ('{"temporal_segment": 3, "sampling_strategy": "fine"}', Fault.BAD_SEGMENT),
        ('{"temporal_segment": [1], "sampling_strategy": "fine"}', Fault.BAD_SEGMENT),
        ('{"temporal_segment": [1, 2, 3], "sampling_strategy": "fine"}', Fault.BAD_SEGMENT),
        ('{"temporal_segment": [true, 5], "sampling_strategy": "fine"}', Fault.BAD_SEGMENT),
        ('{"temporal_segment": [NaN, 5], "sampling_strategy": "fine"}', Fault.BAD_SEGMENT),
        ('{"temporal_segment": [1, Infinity], "sampling_strategy": "fine"}', Fault.BAD_SEGMENT),
        ('{"temporal_segment": [1, 1e999], "sampling_strategy": "fine"}', Fault.BAD_SEGMENT),
        ('{"temporal_segment": ["1", "5"], "sampling_strategy": "fine"}', Fault.BAD_SEGMENT),
        ('{"temporal_segment": {"0": 1}, "sampling_strategy": "fine"}', Fault.BAD_SEGMENT),
        ('{"temporal_segment": [9, 5], "sampling_strategy": "fine"}', Fault.EMPTY_SEGMENT),
        ('{"temporal_segment": [200, 300], "sampling_strategy": "fine"}', Fault.EMPTY_SEGMENT),
        ('{"temporal_segment": [1, 5], "sampling_strategy": "ultra"}', Fault.BAD_STRATEGY),
        ('{"temporal_segment": [1, 5], "sampling_strategy": ["fine"]}', Fault.BAD_STRATEGY),
    ],
)
def test_each_fault_is_named(content: str, fault: Fault) -> None:
    assert fault_of(grounding(content)) is fault


def test_a_video_shorter_than_a_second_cannot_be_cropped() -> None:
    text = grounding('{"temporal_segment": [0, 1], "sampling_strategy": "fine"}')
    assert fault_of(text, 0.04) is Fault.EMPTY_SEGMENT


@pytest.mark.parametrize("text", ["", "no tags", "<think>x</think>", "<answer>", "</answer>B"])
def test_neither_tag_is_no_action(text: str) -> None:
    assert fault_of(text) is Fault.NO_ACTION


def test_an_empty_answer_is_an_answer() -> None:
    assert parse("<answer></answer>") == FinalAnswer("")


def test_nested_openings_belong_to_the_first_one() -> None:
    assert list(tag_blocks("<a>1<a>2</a>3</a>", "a")) == ["1<a>2"]


def test_parsing_takes_linear_time_on_a_million_open_tags() -> None:
    # Quadratic scanning of these would take hours and run into the test's time limit.
    assert fault_of("<grounding>" * 200_000) is Fault.NO_ACTION
    assert fault_of("<grounding>" * 200_000 + "</grounding>") is Fault.BAD_JSON
    assert parse("<answer></answer>" * 100_000) == FinalAnswer("")


@given(
    start=st.floats(0, 98),
    length=st.floats(1.001, 50),
    strategy=st.sampled_from(STRATEGIES),
    think=st.text().filter(lambda text: "<" not in text),
)
def test_a_written_crop_reads_back(start: float, length: float, strategy: str, think: str) -> None:
    segment = Segment(start, start + length)
    action = parse(write_crop(think, segment, strategy), 200.0)  # type: ignore[arg-type]
    assert action == Crop(segment, strategy)  # type: ignore[arg-type]


@given(st.text(alphabet=st.characters(exclude_characters="<>")))
def test_a_written_answer_reads_back(answer: str) -> None:
    assert parse(write_answer("so", answer)) == FinalAnswer(answer.strip())


_FRAGMENTS = st.sampled_from(
    ["<think>", "</think>", "<grounding>", "</grounding>", "<answer>", "</answer>", "{", "}",
     '"temporal_segment":', '"sampling_strategy":', "[1, 5]", '"fine"', "NaN", "-1e999", ",",
     "[", "]", "'", "\x00", "🎬", "\ud800", "9" * 5000]
)  # fmt: skip


@given(st.lists(_FRAGMENTS | st.text(max_size=8), max_size=30).map("".join))
def test_parsing_never_raises_and_crops_stay_inside_the_video(text: str) -> None:
    action = parse(text, 60.0)
    if isinstance(action, Crop):
        assert 0 <= action.segment.start_seconds <= action.segment.end_seconds - 1 <= 59


@pytest.mark.parametrize("text", ["[" * 200_000, "9" * 5_000, "", "{", "\ud800"])
def test_what_breaks_a_json_parser_reads_as_none(text: str) -> None:
    assert read_json(text) is None


def test_json_reads_as_json() -> None:
    assert read_json(json.dumps({"a": [1, None]})) == {"a": [1, None]}
