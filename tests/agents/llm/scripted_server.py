"""The scripted server of `chat_server`, and how a policy asks it.

Whoever imports this is skipped where the server or its client is missing.
"""

import dataclasses
import itertools
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agents.llm.openai_client import ChatClient, OpenAIConfig
from agents.llm.openai_policy import OpenAIPolicy
from tests.agents.llm.chat_server import KEY, MODEL, running_server
from tests.sample_trajectories import make_task
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.video import ClipCache, open_video

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

TINY = SessionConfig(budget="tiny")
STOPS = ["</grounding>", "</answer>"]
"""At which every request asks the model to stop."""
names = (f"script-{number}" for number in itertools.count())


class Server(NamedTuple):
    url: str
    connection: Any
    """Shared, for a new one takes a tenth of a second."""


@contextmanager
def scripted_server() -> Iterator[Server]:
    """Start one in a process of its own; it ends with the `with` block."""
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
