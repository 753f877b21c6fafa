from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from agents.llm.openai_client import ChatClient
from agents.llm.openai_policy import OpenAIPolicy
from agents.llm.openai_reply import Usage, read_reply
from tests.agents.llm.scripted_server import STOPS, Server, ask, config_for, reply_to, requests_of
from tests.hostile_replies import hostile_replies
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.action import Malformed, parse_reply
from videoseek_env.session import Observation

STYLES = ["plain", "vllm", "sglang", "keeps"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "reply",
    [
        crop_reply(10, 20),
        answer_reply("B"),
        answer_reply("größer 大 😀 \n"),
        "<think>I may <answer> or use <grounding>.</think><answer>B</answer>",
        "<think>An <answer> later.</think>\n<grounding>{}</grounding>",
        "<answer></answer>",
    ],
)
def test_a_reply_comes_back_as_the_model_wrote_it(server: Server, style: str, reply: str) -> None:
    assert reply_to(server, reply + " never written", script={"style": style}) == reply


@pytest.mark.parametrize("style", ["vllm", "sglang"])
@pytest.mark.parametrize("reply", ["<think>?</think><answer>B", "<grounding>{}", "<grounding>{}</"])
def test_a_model_that_ends_inside_a_tag_leaves_it_open_where_the_server_tells(
    server: Server, style: str, reply: str
) -> None:
    assert reply_to(server, reply, script={"style": style}) == reply


def test_where_the_server_does_not_tell_the_tag_opened_last_is_closed(server: Server) -> None:
    assert reply_to(server, "<answer>B") == "<answer>B</answer>"
    both = "<answer>B <grounding>{}"
    assert reply_to(server, both) == both + "</grounding>"


def test_a_tag_that_a_finished_thought_mentions_is_not_closed(server: Server) -> None:
    reply = "<think>I could use <grounding>.</think>Hm."
    assert reply_to(server, reply) == reply


def test_the_named_stop_string_decides_where_both_tags_are_open(server: Server) -> None:
    reply = "<answer>B <grounding>{}</answer>"
    assert reply_to(server, reply, script={"style": "vllm"}) == reply


def test_a_stop_string_that_closes_nothing_is_not_put_back(server: Server) -> None:
    for style in ("plain", "vllm"):
        reply = reply_to(server, "<think>?</think>B</answer>", script={"style": style})
        assert reply == "<think>?</think>B"


PIECES = ["<think>", "</think>", "<grounding>", "</grounding>", "<answer>", "</answer>", "B", "{}"]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("<think><answer></think>B</answer>", "vllm")
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.sampled_from(STYLES[1:]))
def test_stripping_changes_the_meaning_of_no_reply(server: Server, text: str, style: str) -> None:
    """A reply means what it would if every server left the stop string in."""
    first = min((text.index(stop) + len(stop) for stop in STOPS if stop in text), default=None)
    assume(style != "keeps" or first is not None)  # it tells nothing of a model that ends by itself
    reply = reply_to(server, text, script={"style": style})
    meant = parse_reply(text[:first], duration_seconds=60)
    assert parse_reply(reply, duration_seconds=60) == meant


@pytest.mark.parametrize("style", STYLES)
def test_a_reply_that_is_cut_by_its_length_stays_cut(server: Server, style: str) -> None:
    config = config_for(
        server.url, answer_reply("Bravo"), script={"style": style}, max_reply_tokens=25
    )
    reply = ask(config, server)
    assert reply == "<think>so</think><answer>"  # 25 characters
    assert isinstance(parse_reply(reply, duration_seconds=60), Malformed)


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        ({"content": None}, ""),
        ({"content": ""}, ""),
        ({}, ""),
        ({"content": None, "refusal": "I can't help with that."}, "I can't help with that."),
        ({"content": None, "tool_calls": []}, ""),
        ({"content": "<answer>B</answer>", "reasoning_content": ""}, "<answer>B</answer>"),
    ],
)
def test_replies_without_content_are_data(
    server: Server, message: dict[str, Any], reply: str
) -> None:
    message = {"role": "assistant", **message}
    assert reply_to(server, script={"choice": {"message": message}}) == reply


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("style", STYLES)
def test_reasoning_comes_back_as_the_thought(server: Server, field: str, style: str) -> None:
    script = {"reasoning": field, "style": style}
    assert reply_to(server, crop_reply(10, 20), script=script) == crop_reply(10, 20)


def test_a_reply_with_a_thought_of_its_own_keeps_that_one(server: Server) -> None:
    message = {"role": "assistant", "content": answer_reply("B"), "reasoning_content": "Hmm."}
    config = config_for(server.url, script={"choice": {"message": message}})
    assert ask(config, server) == answer_reply("B")


def test_a_thought_that_rehearses_an_action_does_not_act(server: Server) -> None:
    thought = "I'd say <answer>A</answer>, or <grounding>{}</grounding>? No: <think> more."
    message = {"role": "assistant", "content": "<answer>B</answer>", "reasoning_content": thought}
    config = config_for(server.url, script={"choice": {"message": message}}, stop_at_tags=False)
    said = "<think>I'd say A, or {}? No:  more.</think><answer>B</answer>"
    assert ask(config, server) == said


def test_a_reply_that_ends_in_its_reasoning_leaves_the_thought_open(server: Server) -> None:
    config = config_for(
        server.url, "<think>Long <answer>", script={"reasoning": "reasoning_content"}
    )
    assert ask(config, server) == "<think>Long "


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (answer_reply("B") + "\nuser: good", answer_reply("B")),
        (crop_reply(1, 5) + answer_reply("B"), crop_reply(1, 5)),
        (answer_reply("B") + crop_reply(1, 5), answer_reply("B")),
        (
            "<think></answer></think><answer>B</answer>.",
            "<think></answer></think><answer>B</answer>",
        ),
        ("<answer>B", "<answer>B"),
        ("", ""),
    ],
)
def test_without_stop_strings_the_reply_ends_behind_its_first_action(
    server: Server, text: str, reply: str
) -> None:
    assert reply_to(server, text, stop_at_tags=False) == reply


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hostile_replies())
def test_any_reply_comes_back_and_is_sent_again(server: Server, replies: list[str]) -> None:
    written = [reply.encode("utf-8", "replace").decode() for reply in replies]
    config = config_for(
        server.url, *written, "", script={"style": "keeps"}, max_reply_tokens=None, max_retries=0
    )
    with ChatClient(config, client=server.connection) as client:
        policy = OpenAIPolicy(client)
        said = [policy.act(Observation("?")) for _ in [*written, ""]]
    *_, last = requests_of(config)
    sent = [message["content"] for message in last["messages"] if message["role"] == "assistant"]
    assert sent == said[:-1]
    for reply, text in zip(said, written, strict=False):
        assert text.startswith(reply) or reply.startswith(text)  # cut behind, or closed


def test_half_a_surrogate_pair_becomes_the_replacement_character(server: Server) -> None:
    body = '{"choices": [{"message": {"content": "a\\ud83d b \\ud83d\\ude00"}}]}'
    config = config_for(server.url, script={"faults": [{"status": 200, "body": body}]})
    assert ask(config, server) == "a\ufffd b \U0001f600"


def test_usage_counts_the_episode_and_the_client_counts_all(
    server: Server, minute_video: Path
) -> None:
    config = config_for(server.url, crop_reply(10, 20), answer_reply("B"), max_images=2)
    with ChatClient(config) as client:
        first, second = OpenAIPolicy(client), OpenAIPolicy(client)
        assert first.usage == client.usage == Usage()
        first.act(Observation("12345"))
        assert first.usage == Usage(1, 5, len(crop_reply(10, 20)))
        first.act(Observation("678"))
        # The second prompt holds the first, the reply to it, and three characters.
        prompts = 5 + (5 + len(crop_reply(10, 20)) + 3)
        written = len(crop_reply(10, 20)) + len(answer_reply("B"))
        assert first.usage == Usage(2, prompts, written)
        second.act(Observation("1"))
        assert client.usage == first.usage + second.usage
        assert client.usage.requests == 3


@pytest.mark.parametrize("usage", ["null", "{}", '{"prompt_tokens": null}', "7", '"many"'])
def test_a_server_that_tells_no_usage_costs_nothing(server: Server, usage: str) -> None:
    body = f'{{"choices": [{{"message": {{"content": "x"}}}}], "usage": {usage}}}'
    config = config_for(server.url, script={"faults": [{"status": 200, "body": body}]})
    with ChatClient(config) as client:
        policy = OpenAIPolicy(client)
        assert policy.act(Observation("?")) == "x"
        assert policy.usage == Usage(1, 0, 0)


@pytest.mark.parametrize(
    "choice",
    [
        {"finish_reason": "error", "message": {"content": ""}},
        {"finish_reason": "abort", "message": {"content": "<think>So"}},
        {"finish_reason": None, "message": {"content": ""}, "error": {"message": "overloaded"}},
    ],
)
def test_a_reply_that_the_server_broke_off_is_its_failure(choice: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the server broke the reply off"):
        read_reply({"choices": [choice]}, stop_at_tags=True)
