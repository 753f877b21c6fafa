from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from agents.baselines import OraclePolicy
from agents.llm.tiny import TINY_PROMPTS
from agents.llm.tiny_tokenizer import SPECIAL_TOKENS, byte_fallbacks, tiny_tokenizer
from tests.agents.llm.tiny_inputs import encode
from tests.sample_trajectories import make_ref, make_task
from videoseek_env import load_tasks
from videoseek_env.action import Malformed, parse_reply, write_answer
from videoseek_env.budget import temporal_pairs
from videoseek_env.datasets.needle_scene import COLOURS
from videoseek_env.prompts import DEFAULT_PROMPTS, Prompts
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.video import ClipCache, open_video

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KNOWN = st.sampled_from(
    [*SPECIAL_TOKENS.values(), *COLOURS, "<think>", ' {"temporal_segment": [', " the", "'s", "007"]
)


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return [tokenizer.decode([index]) for index in encode(tokenizer, text)]


@given(st.lists(TEXT | KNOWN | st.integers(0, 10**6).map(str)).map("".join))
@example("emoji 🦜, controls \x00\x1b\x7f, breaks \r\n\u2028, joiners e\u0301 \u200d, \U0010ffff")
def test_any_text_comes_back_exactly(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@given(TEXT)
def test_text_of_users_never_becomes_a_special_token(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    special = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS.values()))
    for token in SPECIAL_TOKENS.values():
        assert not set(encode(tokenizer, text + token + text)) & set(special)


def test_special_tokens_are_read_as_such_unless_they_are_split(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for token in SPECIAL_TOKENS.values():
        whole = tokenizer.encode(f"a{token}b", add_special_tokens=False)
        assert [tokenizer.decode([index]) for index in whole] == ["a", token, "b"]
        assert len(encode(tokenizer, token)) == len(pieces(tokenizer, token)) > 1


def test_an_integer_is_the_same_token_in_a_timestamp_and_in_json(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for number in range(1000):
        (index,) = encode(tokenizer, str(number))
        for text in (f"<{number} seconds>", f"[{number}, {number}]", f"at {number}.", f" {number}"):
            assert encode(tokenizer, text).count(index) == text.count(str(number))


def test_ids_are_bytes_then_integers_then_words_then_special_tokens(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = [encode(tokenizer, str(number))[0] for number in range(1000)]
    assert all(index < 256 for index in ids[:10])
    assert ids[10:] == list(range(256, 256 + 990))
    last = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS.values()))
    assert last == list(range(len(tokenizer) - 7, len(tokenizer)))
    assert 1000 < len(tokenizer) < 1600
    assert tiny_tokenizer().get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '<grounding>{"temporal_segment": [30, 45], "sampling_strategy": "fine"}</grounding>',
            ["<grounding>", '{"temporal_segment": [', "30", ", ", "45",
             '], "sampling_strategy": "', "fine", '"}', "</grounding>"],
        ),
        ("<think>17 red no</think>", ["<think>", "17", " ", "red", " no", "</think>"]),
        ("<answer>B</answer>", ["<answer>", "B", "</answer>"]),
        ("A. red\nB. 7\n", ["A", ". ", "red", "\n", "B", ". ", "7", "\n"]),
        ("the red card's", ["t", "h", "e", " ", "red", " card", "'s"]),
        ("007 12.5 1234", ["0", "0", "7", " ", "12", ".", "5", " ", "123", "4"]),
        ("redder reds", ["r", "e", "d", "d", "e", "r", " ", "r", "e", "d", "s"]),
        ("", []),
    ],
)  # fmt: skip
def test_pieces(tokenizer: PreTrainedTokenizerFast, text: str, expected: list[str]) -> None:
    assert pieces(tokenizer, text) == expected


def test_tags_are_ordinary_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    reply = write_answer("It is red.", "B")
    ids = [*encode(tokenizer, reply), tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == reply
    assert tokenizer.decode(ids) == f"{reply}<|im_end|>"


def test_needle_questions_options_and_oracles_need_no_bytes(
    tokenizer: PreTrainedTokenizerFast, needle_tasks: list[VideoTask]
) -> None:
    for task in needle_tasks:
        oracle = OraclePolicy()
        oracle.reveal(task)
        replies = [oracle.act(Observation("")) for _ in range(len(task.clues) + 1)]
        for text in [task.question, *task.lettered_options, *replies]:
            assert byte_fallbacks(tokenizer, text) == []


@pytest.mark.parametrize("prompts", [DEFAULT_PROMPTS, TINY_PROMPTS])
def test_prompts_need_no_bytes(tokenizer: PreTrainedTokenizerFast, prompts: Prompts) -> None:
    texts = [prompts.system_text(), prompts.crop_text(make_ref()), prompts.last_turn_text()]
    texts += [prompts.question_text(make_task(kind), make_ref()) for kind in TaskKind]
    for content in (
        "", "{}", '{"temporal_segment": 1}', '{"temporal_segment": 1, "sampling_strategy": "fine"}',
        '{"temporal_segment": [1, 1], "sampling_strategy": "fine"}',
        '{"temporal_segment": [1, 9], "sampling_strategy": 1}',
    ):  # fmt: skip
        action = parse_reply(f"<grounding>{content}</grounding>", duration_seconds=60)
        assert isinstance(action, Malformed)
        texts.append(prompts.error_text(action.message))
    action = parse_reply("hm", duration_seconds=60)
    assert isinstance(action, Malformed)
    texts.append(prompts.error_text(action.message))
    assert [byte_fallbacks(tokenizer, text) for text in texts] == [[]] * len(texts)


def test_byte_fallbacks_names_what_the_vocabulary_lacks(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    text = "at a zebra, é and\tthe <|im_end|>"
    assert byte_fallbacks(tokenizer, text) == [" zebra", " é", "the", "im"]
    assert byte_fallbacks(tokenizer, "") == []


def test_the_chat_template_is_chatml(tokenizer: PreTrainedTokenizerFast) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Crop, then answer."},
        {"role": "user", "content": [
            {"type": "video"}, {"type": "text", "text": "Which digit?\n"}, {"type": "image"}]},
        {"role": "assistant", "content": "<think> 1 </think>"},
        {"role": "user", "content": ""},
    ]  # fmt: skip
    closed = (
        "<|im_start|>system\nCrop, then answer.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Which digit?\n"
        "<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
        "<|im_start|>assistant\n<think> 1 </think><|im_end|>\n"
        "<|im_start|>user\n<|im_end|>\n"
    )
    assert tokenizer.apply_chat_template(messages, tokenize=False) == closed
    opened = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert opened == closed + "<|im_start|>assistant\n"
    ids = tokenizer.apply_chat_template(messages[:1], return_dict=False)
    assert ids == tokenizer.encode("<|im_start|>system\nCrop, then answer.<|im_end|>\n")
    assert tokenizer.decode(ids[1]) == "system"


def test_the_chat_template_refuses_what_it_does_not_know(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    messages = [{"role": "user", "content": [{"type": "audio"}]}]
    with pytest.raises(Exception, match="expected text, video or image parts, got audio"):
        tokenizer.apply_chat_template(messages, tokenize=False)


def test_a_two_crop_episode_fits_well_into_300_tokens(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (task, *_) = load_tasks(
        "needle", root=tmp_path, budget="tiny", width=128, height=128, fps=2, cards=3, banners=0,
        shapes=0, duration_seconds=(100, 400), kinds=("clue_single_w_tool",), videos=1,
        progress=False,
    )  # fmt: skip
    scan = "17 red no, 35 no, 53 blue not, 88 no, 124 red yes"
    crop = (
        f"<think>{scan}</think><grounding>"
        '{"temporal_segment": [88, 140], "sampling_strategy": "fine"}</grounding>'
    )
    reader = open_video(task.video)
    config = SessionConfig(budget="tiny", prompts=TINY_PROMPTS)
    session = VideoSession(task, reader, config, cache=ClipCache(2**24))
    observation = session.start()
    messages = [{"role": "system", "content": observation.system}]
    tokens = 0
    for reply in (crop, crop, write_answer("digit 5 B", "B")):
        assert observation is not None and observation.clip is not None
        messages += [{"role": "user", "content": observation.text}]
        messages += [{"role": "assistant", "content": reply}]
        # A timestamp of one token, <|vision_start|> and <|vision_end|> for each pair.
        tokens += 3 * temporal_pairs(len(observation.clip.frames))
        observation = session.reply(reply)
    reader.close()
    tokens += session.visual_tokens + len(
        tokenizer.apply_chat_template(messages, return_dict=False)
    )
    # 20 frames of one token a pair, twice 8 of four a pair.
    assert session.visual_tokens == 10 + 16 + 16
    assert 200 < tokens < 270
