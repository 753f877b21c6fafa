from functools import partial
from typing import Any

import pytest

from agents.cli import ModelOptions
from agents.llm.openai_client import OpenAIConfig
from agents.named_policy import load_policy
from videoseek_env.errors import ConfigError
from videoseek_env.session import SessionConfig


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


def test_a_server_is_asked_as_the_command_says() -> None:
    how: dict[str, Any] = {
        "base_url": "http://127.0.0.1:9/v1",
        "api_key": "k",
        "temperature": 1.0,
        "top_p": 0.9,
        "stop_at_tags": False,
        "timeout_seconds": 5.0,
        "max_concurrency": 2,
    }
    named = load_policy("openai:x", ModelOptions(**how), SessionConfig(budget="tiny"))
    assert isinstance(named.make, partial)
    (client,) = named.make.args
    named.close()
    assert client.config == OpenAIConfig(model="x", max_reply_tokens=256, **how)
