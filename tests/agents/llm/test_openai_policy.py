import dataclasses
import io
import itertools
import json
import re
import runpy
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from agents.rollout import RolloutConfig, rollout
from tests.agents.llm.chat_server import KEY, MODEL, decode_image, running_server
from tests.hostile_replies import hostile_replies
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from tests.synthetic_video import read_barcodes
from videoseek_env.action import Malformed, parse_reply
from videoseek_env.errors import ConfigError, MissingExtraError, PolicyError, VideoSeekError
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason
from videoseek_env.video import ClipCache, open_video

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from agents.llm.openai_client import ChatClient, OpenAIConfig  # noqa: E402
from agents.llm.openai_policy import OpenAIPolicy  # noqa: E402
from agents.llm.openai_reply import Usage  # noqa: E402

TINY = SessionConfig(budget="tiny")
EXAMPLE = Path(__file__).parents[3] / "examples" / "11_openai_server.py"
STOPS = ["</grounding>", "</answer>"]
names = (f"script-{number}" for number in itertools.count())


class Server(NamedTuple):
    url: str
    connection: Any
    """Shared, for a new one takes a tenth of a second."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("scripted") as address:
        url = f"{address}/v1"
        with openai.OpenAI(base_url=url, api_key=KEY) as connection:
            yield Server(url, connection)


def config_for(
    url: str, *replies: str, script: dict[str, Any] | None = None, **fields: Any
) -> OpenAIConfig:
    """A configuration whose requests tell the scripted server what to answer."""
    script = {"name": next(names), "replies": replies, **(script or {})}
    settings = {"model": MODEL, "base_url": url, "api_key": KEY, "timeout_seconds": 20.0}
    return OpenAIConfig(**{**settings, "extra_body": {"script": script}, **fields})


def log_of(config: OpenAIConfig) -> dict[str, Any]:
    name = config.extra_body["script"]["name"]
    with urllib.request.urlopen(f"{config.base_url}/../log/{name}".replace("/v1/..", "")) as reply:
        return json.load(reply)  # type: ignore[no-any-return]


def requests_of(config: OpenAIConfig) -> list[dict[str, Any]]:
    return log_of(config)["requests"]  # type: ignore[no-any-return]


def ask(config: OpenAIConfig, server: Server | None = None) -> str:
    with ChatClient(config, client=server and server.connection) as client:
        return OpenAIPolicy(client).act(Observation("Why?"))


def reply_to(
    server: Server, *replies: str, script: dict[str, Any] | None = None, **fields: Any
) -> str:
    """What the policy makes of the first of a model's replies."""
    return ask(config_for(server.url, *replies, script=script, **fields), server)


def play(config: OpenAIConfig, video: Path, *, seed: int | None = 7) -> list[Observation]:
    """Play an episode; what the policy was shown."""
    session = VideoSession(
        dataclasses.replace(make_task(), video=str(video)),
        open_video(video),
        TINY,
        cache=ClipCache(2**24),
    )
    seen: list[Observation] = []
    with ChatClient(config) as client:
        policy = OpenAIPolicy(client)
        policy.reset(seed=seed)
        observation: Observation | None = session.start()
        while observation is not None:
            seen.append(observation)
            observation = session.reply(policy.act(observation))
    return seen


def tasks_for(video: Path, count: int) -> list[VideoTask]:
    return [
        dataclasses.replace(make_task(), id=f"task-{number}", video=str(video))
        for number in range(count)
    ]


def images_in(message: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    parts = [part for part in message["content"] if part["type"] == "image_url"]
    return np.stack([decode_image(part["image_url"]["url"]) for part in parts])


def texts_in(message: dict[str, Any]) -> list[str]:
    return [part["text"] for part in message["content"] if part["type"] == "text"]


# What is sent


def test_the_first_request_is_the_system_prompt_the_frames_behind_their_times_and_the_text(
    server: Server, minute_video: Path
) -> None:
    config = config_for(server.url, answer_reply("B"), image_format="png")
    (seen,) = play(config, minute_video)
    (request,) = requests_of(config)
    system, user = request["messages"]
    assert system == {"role": "system", "content": seen.system}
    assert seen.clip is not None and len(seen.clip.frames) == 20
    # 600 frames at 10 a second: 20 of them evenly spread are 599 / 19 = 31.5 apart.
    times = [f"{round(number * 599 / 19) / 10:.1f} s" for number in range(20)]
    assert texts_in(user) == [*times, seen.text]
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image_url"] * 20 + ["text"]
    np.testing.assert_array_equal(images_in(user), seen.clip.frames)


def test_frames_are_readable_as_jpeg(server: Server, minute_video: Path) -> None:
    config = config_for(server.url, answer_reply("B"))
    (seen,) = play(config, minute_video)
    user = requests_of(config)[0]["messages"][1]
    assert seen.clip is not None
    assert read_barcodes(images_in(user)) == read_barcodes(seen.clip.frames)
    sent = [part["image_url"] for part in user["content"] if part["type"] == "image_url"]
    assert {tuple(image) for image in sent} == {("url",)}  # no detail unless asked for


def test_jpeg_quality_buys_smaller_pictures(server: Server, minute_video: Path) -> None:
    def characters(quality: int) -> int:
        config = config_for(server.url, answer_reply("B"), jpeg_quality=quality, max_images=1)
        play(config, minute_video)
        return len(requests_of(config)[0]["messages"][1]["content"][1]["image_url"]["url"])

    assert characters(1) < characters(50) < characters(100)


def test_the_whole_conversation_is_sent_each_turn_and_each_frame_encoded_once(
    server: Server, minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    encoded: list[str] = []
    save = Image.Image.save

    def counted(image: Image.Image, target: io.BytesIO, kind: str, **options: Any) -> None:
        encoded.append(kind)
        save(image, target, kind, **options)

    monkeypatch.setattr(Image.Image, "save", counted)
    replies = [crop_reply(10, 20), "<think>?</think><grounding>{}</grounding>", answer_reply("B")]
    config = config_for(server.url, *replies)
    overview, crop, error = play(config, minute_video)
    first, second, third = (request["messages"] for request in requests_of(config))
    assert second[:2] == first and third[:4] == second
    assert second[2] == {"role": "assistant", "content": replies[0]}
    assert third[4] == {"role": "assistant", "content": replies[1]}
    assert overview.clip is not None and crop.clip is not None and error.clip is None
    assert len(encoded) == len(overview.clip.frames) + len(crop.clip.frames) == 28
    assert texts_in(second[3])[-1] == crop.text
    assert third[5] == {"role": "user", "content": [{"type": "text", "text": error.text}]}


def test_too_many_frames_are_thinned_out_evenly_and_the_text_says_so(
    server: Server, minute_video: Path
) -> None:
    config = config_for(server.url, answer_reply("B"), max_images=5, image_format="png")
    (seen,) = play(config, minute_video)
    user = requests_of(config)[0]["messages"][1]
    # 19 / 4 = 4.75 apart: 0, 4.75, 9.5, 14.25, 19, to the nearest, halves to the even one.
    assert seen.clip is not None
    np.testing.assert_array_equal(images_in(user), seen.clip.frames[[0, 5, 10, 14, 19]])
    *times, text = texts_in(user)
    assert times == ["0.0 s", "15.8 s", "31.5 s", "44.1 s", "59.9 s"]
    assert text == f"{seen.text}\n5 of the 20 frames are shown."


@pytest.mark.parametrize("most", [20, 21])
def test_frames_that_are_not_too_many_are_all_sent(
    server: Server, minute_video: Path, most: int
) -> None:
    config = config_for(server.url, answer_reply("B"), max_images=most)
    (seen,) = play(config, minute_video)
    user = requests_of(config)[0]["messages"][1]
    assert len(images_in(user)) == 20
    assert texts_in(user)[-1] == seen.text


def test_settings_are_sent_as_they_are(server: Server, minute_video: Path) -> None:
    config = config_for(
        server.url, answer_reply("B"), temperature=0.0, top_p=0.5, max_reply_tokens=77,
        image_detail="low",
    )  # fmt: skip
    play(config, minute_video)
    (request,) = requests_of(config)
    assert {key: value for key, value in request.items() if key not in ("messages", "seed")} == {
        "model": MODEL,
        "temperature": 0.0,
        "top_p": 0.5,
        "max_completion_tokens": 77,
        "stop": STOPS,
    }
    assert request["messages"][1]["content"][1]["image_url"]["detail"] == "low"


def test_settings_that_are_none_are_left_to_the_server(server: Server) -> None:
    config = config_for(server.url, answer_reply("B"), max_reply_tokens=None, stop_at_tags=False)
    ask(config, server)
    assert set(requests_of(config)[0]) == {"model", "messages"}


def test_further_fields_reach_the_server(server: Server) -> None:
    config = config_for(server.url, answer_reply("B"))
    extra = {**config.extra_body, "presence_penalty": 0.5}
    ask(dataclasses.replace(config, extra_body=extra))
    assert requests_of(config)[0]["presence_penalty"] == 0.5


def test_each_turn_has_a_seed_of_its_own_that_the_episode_seed_decides(
    server: Server, minute_video: Path
) -> None:
    def seeds(seed: int | None) -> list[int | None]:
        config = config_for(server.url, crop_reply(10, 20), crop_reply(1, 5), answer_reply("B"))
        play(config, minute_video, seed=seed)
        return [request.get("seed") for request in requests_of(config)]

    assert seeds(7) == seeds(7)
    assert len({*seeds(7), *seeds(8)}) == 6
    assert seeds(None) == [None, None, None]


def test_seeds_fit_every_server(server: Server) -> None:
    config = config_for(server.url, *[""] * 20)
    with ChatClient(config, client=server.connection) as client:
        policy = OpenAIPolicy(client)
        policy.reset(seed=2**32 - 1)
        for _ in range(20):
            policy.act(Observation("?"))
    seeds = [request["seed"] for request in requests_of(config)]
    assert len(set(seeds)) == 20 and all(0 <= seed < 2**31 for seed in seeds)


def test_a_reset_begins_a_new_conversation(server: Server) -> None:
    config = config_for(server.url, "<answer>A</answer>", "<answer>B</answer>")
    with ChatClient(config) as client:
        policy = OpenAIPolicy(client)
        replies = [policy.act(Observation(text)) for text in "ab"]
        policy.reset(seed=1)
        replies.append(policy.act(Observation("c", system="Be brief.")))
        assert policy.usage.requests == 1
        policy.act(Observation("d", system="Not the first one."))
    assert replies == ["<answer>A</answer>", "<answer>B</answer>", "<answer>A</answer>"]
    roles = [
        [message["role"] for message in request["messages"]] for request in requests_of(config)
    ]
    assert roles == [
        ["user"],
        ["user", "assistant", "user"],
        ["system", "user"],
        ["system", "user", "assistant", "user"],
    ]


# What comes back

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


# What goes wrong


def test_a_busy_server_is_asked_again(server: Server) -> None:
    soon = {"retry-after-ms": "1"}
    faults = [
        {"status": 500, "body": "", "headers": soon},
        {"status": 429, "body": "", "headers": soon},
    ]
    config = config_for(server.url, answer_reply("B"), script={"faults": faults}, max_retries=2)
    assert ask(config, server) == answer_reply("B")
    first, *others = requests_of(config)
    assert others == [first, first]


def test_giving_up_names_the_model_the_address_and_the_status(server: Server) -> None:
    fault = {"status": 429, "body": '{"error": "slow"}', "headers": {"retry-after-ms": "1"}}
    config = config_for(
        server.url, answer_reply("B"), script={"faults": [fault] * 9}, max_retries=1
    )
    told = rf"the model 'scripted' at {server.url}/? answered HTTP 429: .*slow.*; lower max_conc"
    with pytest.raises(PolicyError, match=told) as caught:
        ask(config, server)
    assert isinstance(caught.value, VideoSeekError)
    assert isinstance(caught.value.__cause__, openai.RateLimitError)
    assert len(requests_of(config)) == 2


def test_a_server_that_hangs_times_out(server: Server) -> None:
    config = config_for(
        server.url, script={"faults": ["hang", "hang"]}, timeout_seconds=0.2, max_retries=1
    )
    with pytest.raises(PolicyError, match=r"no reply within 0\.2 s, in 2 attempts; raise timeout"):
        ask(config, server)


def test_a_connection_that_is_closed_is_an_error(server: Server) -> None:
    config = config_for(server.url, script={"faults": ["cut"]}, max_retries=0)
    with pytest.raises(PolicyError, match=r"could not be reached in 1 attempts: RemoteProtocolErr"):
        ask(config, server)


def test_a_connection_that_is_closed_is_tried_again(server: Server) -> None:
    config = config_for(server.url, answer_reply("B"), script={"faults": ["cut"]}, max_retries=1)
    assert ask(config, server) == answer_reply("B")


def test_a_connection_that_is_refused_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        config = config_for(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", max_retries=0)
        with pytest.raises(PolicyError, match=r"refused; check that the server runs, and base_url"):
            ask(config)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"api_key": "wrong"}, r"HTTP 401: .*Incorrect API key.*; check api_key"),
        ({"model": "unknown"}, r"HTTP 404: .*unknown does not exist.*; check base_url"),
        ({"temperature": 9.0, "extra_body": {"script": {"name": "x"}, "seed": "no"}},
         r"HTTP 400: .*seed.*; check the settings"),
    ],
)  # fmt: skip
def test_a_refused_request_is_not_tried_again(
    server: Server, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(PolicyError, match=f"(?s){told}"):
        ask(config_for(server.url, answer_reply("B"), **fields))


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": [', "", "null", "[]", '"text"', "{}", '{"choices": null}', '{"choices": []}',
        '{"choices": [null]}', '{"choices": [{}]}', '{"choices": [{"message": null}]}',
        '{"choices": [{"message": {"content": 7}}]}', '{"choices": {"0": {}}}',
        '{"choices": [{"message": {"content": "x", "reasoning": ["y"]}}]}', "[" * 100_000,
    ],
    ids=lambda body: body[:30],
)  # fmt: skip
def test_what_is_no_completion_is_an_error_that_shows_it(server: Server, body: str) -> None:
    config = config_for(
        server.url, script={"faults": [{"status": 200, "body": body}]}, max_retries=0
    )
    told = f"answered what is no chat completion: .* It sent: {re.escape(repr(body)[:300])}"
    with pytest.raises(PolicyError, match=told) as caught:
        ask(config, server)
    assert len(str(caught.value)) < 1200


def test_a_web_page_is_no_completion(server: Server) -> None:
    page = {"status": 200, "body": "<html>Welcome</html>", "type": "text/html"}
    config = config_for(server.url, script={"faults": [page]}, max_retries=0)
    with pytest.raises(PolicyError, match=r"It sent: '<html>.*Does base_url lead to the API\?"):
        ask(config, server)


def test_an_error_does_not_repeat_the_password_of_an_address(server: Server) -> None:
    url = server.url.replace("http://", "http://user:hush@")
    config = config_for(url, answer_reply("B"), api_key="wrong")
    with pytest.raises(PolicyError, match=f"at {server.url}/ answered HTTP 401") as caught:
        ask(config)
    assert "hush" not in str(caught.value)


def test_after_an_error_the_conversation_is_as_it_was(server: Server) -> None:
    config = config_for(
        server.url, answer_reply("B"), script={"faults": [{"status": 418, "body": ""}]}
    )
    with ChatClient(config) as client:
        policy = OpenAIPolicy(client)
        policy.reset(seed=3)
        with pytest.raises(PolicyError, match="HTTP 418"):
            policy.act(Observation("Why?", system="Be brief."))
        assert policy.usage == Usage()
        assert policy.act(Observation("Why?", system="Be brief.")) == answer_reply("B")
    first, second = requests_of(config)
    assert first == second


def test_a_closed_client_says_so(server: Server) -> None:
    with OpenAIPolicy.factory(config_for(server.url, answer_reply("B"))) as make_policy:
        policy = make_policy()
        assert policy.act(Observation("?")) == answer_reply("B")
    with pytest.raises(PolicyError, match="the client is closed; keep it open"):
        policy.act(Observation("?"))


def test_a_client_of_ones_own_stays_open(server: Server) -> None:
    config = config_for(server.url, answer_reply("B"), base_url="http://127.0.0.1:9", api_key=None)
    with openai.OpenAI(base_url=server.url, api_key=KEY) as own:
        with ChatClient(config, client=own) as client:
            assert OpenAIPolicy(client).act(Observation("?")) == answer_reply("B")
        assert not own.is_closed()


def test_a_missing_key_is_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match="set api_key to any text"):
        ChatClient(OpenAIConfig(model="x", base_url="http://127.0.0.1:9/v1"))


def test_a_missing_openai_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"'openai'.*videoseek-env\[openai\]"):
        ChatClient(OpenAIConfig(model="x"))


def test_a_missing_pillow_names_its_extra(
    server: Server, minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"'pillow'.*videoseek-env\[openai\]"):
        play(config_for(server.url, answer_reply("B")), minute_video)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": ""}, "model must be the name of a model, got ''"),
        ({"base_url": "localhost:8000"}, "base_url must be a URL that starts with http"),
        ({"base_url": "http://"}, "base_url must be a URL"),
        ({"base_url": "http://[::1"}, "base_url must be a URL"),
        ({"temperature": -0.1}, "temperature must be at least 0, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        ({"temperature": float("inf")}, "temperature must be at least 0, got inf"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
        ({"max_reply_tokens": 0}, "max_reply_tokens must be at least 1, got 0"),
        ({"max_concurrency": 0}, "max_concurrency must be at least 1, got 0"),
        ({"max_images": 0}, "max_images must be at least 1, got 0"),
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0, got 0"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds must be above 0, got inf"),
        ({"max_retries": -1}, "max_retries must be at least 0, got -1"),
        ({"image_format": "gif"}, 'image_format must be "jpeg" or "png", got \'gif\''),
        ({"jpeg_quality": 0}, "jpeg_quality must be from 1 to 100, got 0"),
        ({"jpeg_quality": 101}, "jpeg_quality must be from 1 to 100, got 101"),
        ({"image_detail": "huge"}, "image_detail must be .*, got 'huge'"),
        ({"extra_body": {"x": {1, 2}}}, "extra_body must be JSON-serialisable: .*set"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        OpenAIConfig(**{"model": "x", **fields})


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines"])
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ConfigError, match="api_key must be printable ASCII") as caught:
        OpenAIConfig(model="x", api_key=key)
    assert key not in str(caught.value)


def test_settings_at_the_ends_of_their_ranges_are_fine() -> None:
    OpenAIConfig(
        model="x", base_url="https://[::1]:8000/v1", temperature=0, top_p=1, max_reply_tokens=1,
        max_concurrency=1, max_images=1, timeout_seconds=0.001, max_retries=0, jpeg_quality=1,
    )  # fmt: skip
    OpenAIConfig(model="x", jpeg_quality=100)


def test_the_key_is_not_in_what_a_log_shows() -> None:
    assert "hush" not in repr(OpenAIConfig(model="x", api_key="hush"))


# Whole rollouts


def test_one_failing_request_ends_one_episode(server: Server, minute_video: Path) -> None:
    config = config_for(
        server.url,
        crop_reply(10, 20),
        answer_reply("B"),
        script={"faults": [{"status": 500, "body": "out of memory"}]},
        max_retries=0,
    )
    with OpenAIPolicy.factory(config) as make_policy:
        episodes = list(
            rollout(make_policy, tasks_for(minute_video, 6), RolloutConfig(workers=3), session=TINY)
        )
    endings = [episode.trajectory.end_reason for episode in episodes]
    assert endings.count(EndReason.ANSWERED) == 5
    failed = episodes[endings.index(EndReason.POLICY_FAILED)]
    assert failed.error is not None
    assert re.match(r"PolicyError: the model 'scripted' at .* answered HTTP 500", failed.error)
    assert failed.reward.value == 0.0
    assert {episode.reward.value for episode in episodes if episode is not failed} == {3.0}


def test_the_outcome_does_not_depend_on_the_number_of_workers(
    server: Server, minute_video: Path
) -> None:
    def play_all(workers: int) -> tuple[list[Any], list[str]]:
        config = config_for(server.url, crop_reply(10, 20), answer_reply("B"))
        plan = RolloutConfig(workers=workers, episodes_per_task=2)
        with OpenAIPolicy.factory(config) as make_policy:
            episodes = rollout(make_policy, tasks_for(minute_video, 3), plan, session=TINY)
            played = [(episode.seed, episode.trajectory) for episode in episodes]
        return played, sorted(json.dumps(request) for request in requests_of(config))

    alone, together = play_all(1), play_all(4)
    assert alone == together
    assert len(alone[1]) == 12


def test_requests_under_way_are_limited(server: Server, minute_video: Path) -> None:
    # The server answers requests in pairs: with fewer than two under way it would wait for ever.
    config = config_for(server.url, answer_reply("B"), script={"gather": 2}, max_concurrency=2)
    with OpenAIPolicy.factory(config) as make_policy:
        plan = RolloutConfig(workers=6)
        episodes = list(rollout(make_policy, tasks_for(minute_video, 6), plan, session=TINY))
    assert [episode.error for episode in episodes] == [None] * 6
    assert log_of(config)["peak"] == 2


def test_without_a_limit_all_workers_ask_at_once(server: Server, minute_video: Path) -> None:
    config = config_for(server.url, answer_reply("B"), script={"gather": 6})
    with OpenAIPolicy.factory(config) as make_policy:
        plan = RolloutConfig(workers=6)
        episodes = list(rollout(make_policy, tasks_for(minute_video, 6), plan, session=TINY))
    assert [episode.error for episode in episodes] == [None] * 6
    assert log_of(config)["peak"] == 6


def test_the_example_plays_with_a_server(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tyro")
    monkeypatch.chdir(tmp_path)
    arguments = {"base-url": server.url, "model": MODEL, "api-key": KEY, "tasks": 2}
    given = [f"--{name}={value}" for name, value in arguments.items()]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *given])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    *episodes, total = capsys.readouterr().out.splitlines()
    assert ["answered           2 turns  answer B" in line for line in episodes] == [True, True]
    assert total.startswith("4 replies: ")
