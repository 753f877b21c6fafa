"""Chat-completions servers in a process of their own, which ends with whoever started it.

    python -m tests.agents.llm.chat_server scripted
    python -m tests.agents.llm.chat_server transformers FOLDER --device cpu

The scripted one checks each request with the types of the `openai` package and then does what the
request's own field `script` says (see `Script`); a token is a character, an image costs 100. What
it was sent is at /log/NAME. The other one is `transformers serve`.
"""

# Annotations are read as they are defined: FastAPI could not look up the names of a function.
import asyncio
import base64
import io
import os
import queue
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

KEY = "a secret"
MODEL = "scripted"
IMAGE_TOKENS = 100
END_OF_TURN_ID = 151645
UNSCRIPTED = {
    "name": "unscripted",
    "replies": [
        '<grounding>{"temporal_segment": [10, 20], "sampling_strategy": "fine"}</grounding>',
        "<answer>B</answer>",
    ],
}
"""What requests without a script get."""
_STARTED = re.compile(r"running on (http://\S+)")
_START_SECONDS = 120


@contextmanager
def running_server(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start a server on a free port; its address while it runs, such as http://127.0.0.1:41000."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.agents.llm.chat_server", *arguments],
        cwd=Path(__file__).parents[3],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    said: deque[str] = deque(maxlen=100)
    addresses: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if found := _STARTED.search(line):
                addresses.put(found[1])
        addresses.put(None)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        address = addresses.get(timeout=_START_SECONDS)
        if address is None:
            raise RuntimeError(f"the server ended:\n{''.join(said)}")
        yield address
    finally:
        process.kill()
        process.communicate()
        listener.join(10)


class Script:
    """What a request asks the scripted server to do.

    name: Requests of the same name share a log, a list of faults and a gathering.
    replies: What the model writes in each turn, by the number of assistant messages before it.
    style: "plain" strips the stop string and says nothing of it, "vllm" and "sglang" name it in a
        field of their own, "keeps" leaves it in the reply.
    reasoning: Name of the field that the thought is moved to; None leaves it in the reply.
    choice: Fields of the choice that replace the others.
    faults: Taken off one by one before anything is answered: an HTTP response (`status`, `body`,
        `headers`), "hang", or "cut": the connection is closed within the body.
    gather: Requests that must be under way together before any is answered.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.name: str = fields["name"]
        self.replies: list[str] = fields.get("replies", [])
        self.style: str = fields.get("style", "plain")
        self.reasoning: str | None = fields.get("reasoning")
        self.choice: dict[str, Any] = fields.get("choice", {})
        self.faults: list[Any] = fields.get("faults", [])
        self.gather: int = fields.get("gather", 1)


class Log:
    """What a script's requests were."""

    def __init__(self, script: Script) -> None:
        self.requests: list[dict[str, Any]] = []
        self.faults = list(script.faults)
        self.active = 0
        self.peak = 0
        self.barrier = asyncio.Barrier(script.gather)


def complete(body: dict[str, Any], script: Script) -> dict[str, Any]:
    """What a server makes of what the model writes."""
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    text = script.replies[turn] if script.replies else ""
    stops = [stop for stop in body.get("stop") or [] if stop in text]
    stop = min(stops, key=text.index, default=None)
    written = text[: text.index(stop) + len(stop)] if stop else text
    finish, limit = "stop", body.get("max_completion_tokens", len(written))
    if len(written) > limit:
        written, stop, finish = written[:limit], None, "length"
    content = written.removesuffix(stop) if stop and script.style != "keeps" else written
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if script.reasoning and (
        thought := re.match(r"<think>(.*?)(?:</think>|$)", content, re.DOTALL)
    ):
        message |= {script.reasoning: thought[1], "content": content[thought.end() :] or None}
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "message": message}
    if script.style == "vllm":
        choice["stop_reason"] = stop
    if script.style == "sglang":
        choice["matched_stop"] = stop if stop or finish == "length" else END_OF_TURN_ID
    prompt_tokens = sum(map(_tokens, body["messages"]))
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [choice | script.choice],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(written),
            "total_tokens": prompt_tokens + len(written),
        },
    }


def _tokens(message: dict[str, Any]) -> int:
    content = message["content"]
    if isinstance(content, str):
        return len(content)
    return sum(len(part["text"]) if part["type"] == "text" else IMAGE_TOKENS for part in content)


def scripted_app() -> Any:
    """The scripted server."""
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import JSONResponse, Response, StreamingResponse

    app = FastAPI()
    logs: dict[str, Log] = {}

    async def answer(body: dict[str, Any], script: Script, log: Log) -> Response:
        fault = log.faults.pop(0) if log.faults else None
        if fault == "hang":
            await asyncio.sleep(600)
        if fault == "cut":

            async def half() -> Any:
                yield b'{"choices": ['

            return StreamingResponse(half(), headers={"content-length": "1000"})
        if fault is not None:
            kind = fault.get("type", "application/json")
            return Response(fault["body"], fault["status"], fault.get("headers"), kind)
        if script.gather > 1:
            await log.barrier.wait()
            await asyncio.sleep(0.05)  # one too many has time to show itself
        return JSONResponse(complete(body, script))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            raise HTTPException(401, "Incorrect API key provided")
        body = await request.json()
        script = Script(body.pop("script", UNSCRIPTED))
        log = logs.setdefault(script.name, Log(script))
        log.requests.append(body)
        if body["model"] != MODEL:
            raise HTTPException(404, f"The model {body['model']} does not exist")
        if complaint := complaint_about(body):
            raise HTTPException(400, complaint)
        log.active += 1
        log.peak = max(log.peak, log.active)
        try:
            return await answer(body, script, log)
        finally:
            log.active -= 1

    @app.get("/log/{name}")
    async def show_log(name: str) -> dict[str, Any]:
        log = logs[name]
        return {"requests": log.requests, "peak": log.peak}

    return app


@cache
def _request_types() -> tuple[Any, Any, Any]:
    """What validates a request's fields, a message, and a list of content parts."""
    from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
    from pydantic import TypeAdapter

    return (
        TypeAdapter(CompletionCreateParamsNonStreaming),
        TypeAdapter(ChatCompletionMessageParam),
        TypeAdapter(list[ChatCompletionContentPartParam]),
    )


def complaint_about(body: dict[str, Any]) -> str | None:
    """What is wrong with a request, by the types of the `openai` package; None if nothing is."""
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

    if unknown := set(body) - set(CompletionCreateParamsNonStreaming.__annotations__):
        return f"Unexpected fields: {', '.join(sorted(unknown))}"
    fields, message_type, parts = _request_types()
    try:
        fields.validate_python(body)
        for message in body["messages"]:
            message_type.validate_python(message)
            if isinstance(message["content"], list):  # which the types above leave unread
                for part in parts.validate_python(message["content"]):
                    if part["type"] == "image_url":
                        decode_image(part["image_url"]["url"])
    except (OSError, ValueError) as error:
        return str(error)
    return None


def decode_image(url: str) -> npt.NDArray[np.uint8]:
    """The picture of a data URL, RGB [H, W, 3]; ValueError or OSError if there is none."""
    from PIL import Image

    head, _, data = url.partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        if head != f"data:image/{str(image.format).lower()};base64":
            raise ValueError(f"{head} holds a picture of format {image.format}")
        return np.asarray(image.convert("RGB"))


def main(kind: str, *arguments: str) -> None:
    """Serve until killed, or until the other end of the standard input is gone."""

    def end_with_the_parent() -> None:
        while os.read(0, 1):
            pass
        os._exit(0)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    if kind == "scripted":
        import uvicorn

        uvicorn.run(scripted_app(), host="127.0.0.1", port=0, access_log=False)
        return
    from transformers.cli.transformers import main as transformers_main

    sys.argv = ["transformers", "serve", *arguments, "--host", "127.0.0.1", "--port", "0"]
    transformers_main()


if __name__ == "__main__":
    main(*sys.argv[1:])
