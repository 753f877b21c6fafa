"""A model behind any server that speaks OpenAI's chat-completions API.

OpenAI itself, vLLM, SGLang, llama.cpp, `transformers serve`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.llm.openai_client import ChatClient, OpenAIConfig
from agents.llm.openai_reply import Usage
from videoseek_env.errors import MissingExtraError
from videoseek_env.render.timeline import spread
from videoseek_env.session import Observation


class OpenAIPolicy:
    """Sends the conversation so far in each turn; the reply is what the model says.

    An observation that has a system prompt begins a new role with an empty conversation.
    The system prompt is a system message. Each frame is an image behind its time ("12.5 s"),
    encoded once; the observation's text comes last. A reply that was cut by its length and a
    refusal are returned as they are, no reply as "": what they mean is the session's to say.
    """

    def __init__(self, client: ChatClient) -> None:
        """Prepare a policy; any number of them may share a client."""
        self._client = client
        self.reset()

    @classmethod
    @contextmanager
    def factory(cls, config: OpenAIConfig) -> Iterator[Callable[[], OpenAIPolicy]]:
        """What makes policies for a rollout, all with one client, closed with the `with` block."""
        with ChatClient(config) as client:
            yield partial(cls, client)

    @property
    def usage(self) -> Usage:
        """The cost of this episode's replies so far."""
        return self._usage

    def reset(self, *, seed: int | None = None) -> None:
        """Begin an episode. Each turn sends a seed drawn from `seed`; None sends none."""
        self._seed = seed
        self._messages: list[dict[str, Any]] = []
        self._usage = Usage()

    def act(self, observation: Observation) -> str:
        """Ask for the reply to an observation. After an error the episode is as it was before.

        Raises:
            PolicyError: If the server gave no reply.
            MissingExtraError: If there are frames to encode and Pillow is not installed.
        """
        messages = list(self._messages)
        if observation.system:  # of another role, if it is not the first
            messages = [{"role": "system", "content": observation.system}]
        messages.append(user_message(observation, self._client.config))
        reply = self._client.ask(messages, seed=_turn_seed(self._seed, self._usage.requests))
        self._messages = [*messages, {"role": "assistant", "content": reply.text}]
        self._usage += reply.usage
        return reply.text


def _turn_seed(seed: int | None, turn: int) -> int | None:
    """A seed below 2**31, which every server takes."""
    if seed is None:
        return None
    return int(np.random.SeedSequence([seed, turn]).generate_state(1)[0] >> 1)


def user_message(observation: Observation, config: OpenAIConfig) -> dict[str, Any]:
    """An observation as the API has it: the frames, each behind its time, and the text.

    Raises:
        MissingExtraError: If there are frames to encode and Pillow is not installed.
    """
    parts: list[dict[str, Any]] = []
    text = observation.text
    if (clip := observation.clip) is not None:
        count = len(clip.frames)
        shown = spread(count, max_count=config.max_images or count)
        for index in shown:
            parts.append(_text_part(f"{clip.timestamps_seconds[index]:.1f} s"))
            parts.append(_image_part(clip.frames[index], config))
        if len(shown) < count:
            text += f"\n{len(shown)} of the {count} frames are shown."
    return {"role": "user", "content": [*parts, _text_part(text)]}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image_part(frame: npt.NDArray[np.uint8], config: OpenAIConfig) -> dict[str, Any]:
    """A frame, RGB [H, W, 3], as a data URL."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtraError("pillow", "openai", "sending frames to a server") from error
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, config.image_format, quality=config.jpeg_quality)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    image = {"url": f"data:image/{config.image_format};base64,{data}"}
    if config.image_detail is not None:
        image["detail"] = config.image_detail
    return {"type": "image_url", "image_url": image}
