import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.llm.openai_client import ChatClient, OpenAIConfig
from agents.llm.openai_policy import OpenAIPolicy
from agents.llm.openai_reply import Usage
from tests.agents.llm.chat_server import KEY
from tests.agents.llm.scripted_server import Server, ask, config_for, play, requests_of
from tests.sample_trajectories import answer_reply
from videoseek_env.errors import ConfigError, MissingExtraError, PolicyError, VideoSeekError
from videoseek_env.session import Observation

openai = pytest.importorskip("openai")


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
