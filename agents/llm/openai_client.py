"""One server that speaks OpenAI's chat-completions API, asked by the policies of many threads.

All retries, waits and connections are those of the official `openai` package.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from agents.llm.openai_reply import STOPS, ChatReply, Usage, read_reply
from videoseek_env.errors import ConfigError, MissingExtraError, PolicyError

if TYPE_CHECKING:
    import openai

_QUOTED_CHARS = 500
"""How much of a server's complaint an error repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIConfig:
    """Which model to ask, where, and how. None leaves a setting out of the request.

    Raises:
        ConfigError: If a setting is outside its range.
    """

    model: str
    """The model's name, as the server knows it."""
    base_url: str | None = None
    """Such as http://localhost:8000/v1; None leaves it to the `openai` package: OpenAI itself."""
    api_key: str | None = field(default=None, repr=False)
    """Any text will do for a server that checks none. None leaves it to the `openai` package, which
    looks into its environment variables."""
    temperature: float | None = None
    """At least 0; None takes the server's."""
    top_p: float | None = None
    """In (0, 1]; None takes the server's."""
    max_reply_tokens: int | None = 1024
    """Sent as `max_completion_tokens`; servers that know only `max_tokens` need it in `extra_body`.
    What passes the budget's own limit voids the episode."""
    stop_at_tags: bool = True
    """Whether the server is asked to stop where a grounding or an answer closes. Turn it off where
    `stop` is refused (OpenAI's reasoning models, vision models in `transformers serve` 5.23) or may
    cut the thoughts of a reasoning model; what stands behind the action is then cut off here."""
    timeout_seconds: float = 120.0
    """For one attempt: for the connection, and for each wait for more of the response."""
    max_retries: int = 2
    """Further attempts after a timeout, a lost connection, or HTTP 408, 409, 429 or 5xx; the
    `openai` package waits longer before each, or as long as the server says."""
    max_concurrency: int | None = None
    """Requests under way at most, those that wait for another attempt included; None: no limit."""
    image_format: Literal["jpeg", "png"] = "jpeg"
    """How frames travel; PNG is lossless."""
    jpeg_quality: int = 90
    """From 1 to 100."""
    max_images: int | None = None
    """Frames of one observation at most: more are thinned out evenly, and the text says so. Servers
    count the images of the whole conversation, which is sent anew each turn."""
    image_detail: Literal["auto", "low", "high"] | None = None
    """How closely OpenAI's models look; other servers ignore it."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request, JSON-serialisable, such as vLLM's `top_k`."""

    def __post_init__(self) -> None:
        for is_broken, rule, name in self._rules():
            if is_broken:
                raise ConfigError(f"{name} must be {rule}, got {getattr(self, name)!r}")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            # An error must not repeat the key.
            raise ConfigError("api_key must be printable ASCII; was more than the key copied?")
        try:
            json.dumps(self.extra_body)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"extra_body must be JSON-serialisable: {error}") from error

    def _rules(self) -> list[tuple[bool, str, str]]:
        """Each rule: whether it is broken, what it asks for, and of which setting."""
        temperature, top_p = self.temperature, self.top_p
        counts = ("max_reply_tokens", "max_concurrency", "max_images")
        return [
            (not self.model, "the name of a model", "model"),
            (self.base_url is not None and not _is_http_url(self.base_url),
             "a URL that starts with http:// or https://", "base_url"),
            (temperature is not None and not 0 <= temperature < math.inf,
             "at least 0", "temperature"),
            (top_p is not None and not 0 < top_p <= 1, "in (0, 1]", "top_p"),
            *((getattr(self, name) is not None and getattr(self, name) < 1, "at least 1", name)
              for name in counts),
            (not 0 < self.timeout_seconds < math.inf, "above 0", "timeout_seconds"),
            (self.max_retries < 0, "at least 0", "max_retries"),
            (self.image_format not in ("jpeg", "png"), '"jpeg" or "png"', "image_format"),
            (not 1 <= self.jpeg_quality <= 100, "from 1 to 100", "jpeg_quality"),
            (self.image_detail not in (None, "auto", "low", "high"),
             '"auto", "low", "high" or None', "image_detail"),
        ]  # fmt: skip


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.hostname)


class ChatClient:
    """Asks one server; policies of many threads share it. Close it, or use it in a `with`."""

    def __init__(self, config: OpenAIConfig, *, client: openai.OpenAI | None = None) -> None:
        """Prepare without sending anything.

        Args:
            config: The model, and how to ask it.
            client: One of your own, such as `openai.AzureOpenAI`, which stays open: its address and
                key hold, and the configuration's timeout and retries.

        Raises:
            ConfigError: If there is no API key.
            MissingExtraError: If the `openai` package is not installed.
        """
        try:
            import openai
        except ModuleNotFoundError as error:
            raise MissingExtraError("openai", "openai", "asking a server for replies") from error
        self.config = config
        self._is_owner = client is None
        try:
            client = client or openai.OpenAI(base_url=config.base_url, api_key=config.api_key)
            self._client = client.with_options(
                timeout=config.timeout_seconds, max_retries=config.max_retries
            )
        except openai.OpenAIError as error:
            raise ConfigError(
                f"the openai package refuses these settings: {error} "
                "For a server that checks no key, set api_key to any text."
            ) from error
        limit = config.max_concurrency
        self._slots: AbstractContextManager[Any] = (
            nullcontext() if limit is None else threading.BoundedSemaphore(limit)
        )
        self._usage = Usage()
        self._lock = threading.Lock()

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless the client is one of your own."""
        if self._is_owner:
            self._client.close()

    @property
    def usage(self) -> Usage:
        """The cost of all replies so far."""
        return self._usage

    def ask(self, messages: Sequence[Mapping[str, Any]], *, seed: int | None = None) -> ChatReply:
        """Send a conversation, and wait for what the model says to it.

        Args:
            messages: As the API has them.
            seed: Makes sampling repeatable, as far as the server goes.

        Raises:
            PolicyError: If the server could not be reached, refused, or answered what is no reply.
        """
        import openai

        if self._client.is_closed():
            raise PolicyError("the client is closed; keep it open until the last episode is over")
        config = self.config
        settings = {
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_completion_tokens": config.max_reply_tokens,
            "stop": STOPS if config.stop_at_tags else None,
            "seed": seed,
        }
        given: dict[str, Any] = {key: value for key, value in settings.items() if value is not None}
        create: Any = self._client.chat.completions.with_raw_response.create
        with self._slots:
            try:
                response = create(
                    model=config.model, messages=messages, extra_body=config.extra_body, **given
                )
            except openai.OpenAIError as error:
                raise PolicyError(f"{self._address} {_explain(error, config)}") from error
        try:
            reply = read_reply(json.loads(response.text), stop_at_tags=config.stop_at_tags)
        except (ValueError, RecursionError) as error:
            raise PolicyError(
                f"{self._address} answered what is no chat completion: {error}. It sent: "
                f"{response.text[:_QUOTED_CHARS]!r}. Does base_url lead to the API?"
            ) from error
        with self._lock:
            self._usage += reply.usage
        return reply

    @property
    def _address(self) -> str:
        url = self._client.base_url  # without the password that it may hold
        return f"the model {self.config.model!r} at {url.scheme}://{url.netloc.decode()}{url.path}"


def _explain(error: openai.OpenAIError, config: OpenAIConfig) -> str:
    """What went wrong with a request, and what to do about it."""
    import openai

    attempts = f"in {config.max_retries + 1} attempts"
    if isinstance(error, openai.APITimeoutError):
        return (
            f"gave no reply within {config.timeout_seconds:g} s, {attempts}; "
            "raise timeout_seconds, or lower max_concurrency"
        )
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        return (
            f"could not be reached {attempts}: {type(cause).__name__}: {cause}; "
            "check that the server runs, and base_url"
        )
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        remedy = _REMEDIES.get(status, _REMEDIES[500] if status >= 500 else _REMEDIES[400])
        return f"answered HTTP {status}: {error.response.text[:_QUOTED_CHARS]!r}; {remedy}"
    return f"failed: {type(error).__name__}: {error}"


_REMEDIES = {
    400: "check the settings, and the server's limits on images and context",
    401: "check api_key",
    403: "check what api_key is allowed to do",
    404: "check base_url, which often ends with /v1, and the model's name",
    429: "lower max_concurrency, or raise max_retries",
    500: "see the server's log",
}
"""By HTTP status: what to do."""
