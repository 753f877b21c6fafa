"""What a chat-completions server sends back, as the reply that the model wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_ACTION_TAGS = ("grounding", "answer")
STOPS = [f"</{tag}>" for tag in _ACTION_TAGS]
_THOUGHT_END = "</think>"
_FAILURES = ("error", "abort")
"""Endings that are the server's: OpenRouter's, and those of vLLM and SGLang."""
_ANY_TAG = re.compile(r"</?(?:think|grounding|answer)>")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server says that its replies cost; a server that says nothing counts as zero."""

    requests: int = 0
    """Requests that were answered."""
    prompt_tokens: int = 0
    """The whole conversation counts again in each turn."""
    completion_tokens: int = 0
    """Hidden reasoning included."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


class ChatReply(NamedTuple):
    """What a model wrote, and what it cost."""

    text: str
    usage: Usage


def read_reply(body: Any, *, stop_at_tags: bool) -> ChatReply:
    """The reply in a response.

    Raises:
        ValueError: If the response is no chat completion, or says that the server failed.
    """
    choice = _entry(_entry(body, "choices", list), 0, dict)
    if choice.get("error") or choice.get("finish_reason") in _FAILURES:
        reason = choice.get("error") or choice["finish_reason"]
        raise ValueError(f"the server broke the reply off: {reason}")
    message = _entry(choice, "message", dict)
    content = _text(message, "content") or _text(message, "refusal")
    # DeepSeek named the field first; vLLM has renamed it since.
    reasoning = _text(message, "reasoning_content") or _text(message, "reasoning")
    reply = _with_reasoning(content, reasoning)
    if not stop_at_tags:
        reply = _cut_behind_action(reply)
    elif choice.get("finish_reason") == "stop":
        reply = _close_tag(reply, _named_stop(choice))
    usage = body.get("usage")
    return ChatReply(
        reply, Usage(1, _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))
    )


def _entry(parent: Any, key: str | int, kind: type) -> Any:
    try:
        value = parent[key]
    except (KeyError, IndexError, TypeError):
        value = None
    if not isinstance(value, kind):
        raise ValueError(f"{key!r} is missing or no {kind.__name__}")
    return value


def _text(message: Mapping[str, Any], key: str) -> str:
    value = message.get(key) or ""
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is no text")
    # Half a surrogate pair, which JSON can hold and UTF-8 can't, could never be sent back.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(usage: Any, key: str) -> int:
    value = usage.get(key) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else 0


def _with_reasoning(content: str, reasoning: str) -> str:
    """Put reasoning that the server has split off back in front, as the thought that it was.

    Its own tags are dropped: a thought that rehearses an action must not act. A reply that ends in
    its reasoning leaves the thought open.
    """
    if not reasoning or "<think>" in content:
        return content
    thought = "<think>" + _ANY_TAG.sub("", reasoning)
    return f"{thought}{_THOUGHT_END}{content}" if content else thought


def _named_stop(choice: Mapping[str, Any]) -> str | None:
    """The stop string that the server names; "" if it was none of ours, None if it doesn't say."""
    for key in ("stop_reason", "matched_stop"):  # vLLM, SGLang
        if key in choice:
            return choice[key] if choice[key] in STOPS else ""
    return None


def _close_tag(reply: str, named_stop: str | None) -> str:
    """Put back the closing tag that the server has stripped, if that tag is open.

    Where the server doesn't say which stop string it met, the tag opened last is taken to be it: a
    model that ended by itself inside a tag is then closed too, for nothing tells the two apart.
    Tags that a finished thought mentions don't count then.
    """
    if any(stop in reply for stop in STOPS):  # this server leaves them in
        return reply
    action = reply.rpartition(_THOUGHT_END)[2] if named_stop is None else reply
    opened = {f"</{tag}>": action.rfind(f"<{tag}>") for tag in _ACTION_TAGS}
    candidates = [
        stop for stop, start in opened.items() if start >= 0 and named_stop in (None, stop)
    ]
    return reply + max(candidates, key=opened.__getitem__) if candidates else reply


def _cut_behind_action(reply: str) -> str:
    """What a server that stops at tags would have given."""
    ends = [
        end + len(stop)
        for stop in STOPS
        if (end := reply.find(stop, max(reply.find(_THOUGHT_END), 0))) >= 0
    ]
    return reply[: min(ends)] if ends else reply
