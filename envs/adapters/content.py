"""An episode in the terms of chat models: observations as content blocks, tool calls as replies."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from videoseek_env.errors import ConfigError, MissingExtraError
from videoseek_env.prompts import DEFAULT_PROMPTS
from videoseek_env.render.timeline import spread
from videoseek_env.session import Observation, SessionConfig

if TYPE_CHECKING:
    from PIL.Image import Image

TOOL_SYSTEM = """\
You answer a question about a video. First you see an overview: a few small frames of all of it.
To look closer, call `crop` on a stretch of the video: you then get new frames of it.
Times are seconds of the whole video. To finish, call `answer`."""
"""What stands for the default system prompt where replies are tool calls."""

Block = dict[str, Any]
"""A part of a message: a text or an image."""

ImageFormat = Literal["png", "jpeg"]
"""PNG loses nothing; JPEG is several times smaller."""

_SAVING: dict[ImageFormat, dict[str, int]] = {
    # The lowest level is several times faster and a few per cent larger.
    "png": {"compress_level": 1},
    "jpeg": {"quality": 90},
}


def image_of(frame: npt.NDArray[np.uint8]) -> Image:
    """A frame, RGB [H, W, 3], as a picture of its own.

    Raises:
        MissingExtraError: If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtraError("pillow", "agents", "handing frames over as images") from error
    return Image.fromarray(frame)


def data_url(frame: npt.NDArray[np.uint8], image_format: ImageFormat = "png") -> str:
    """A frame, RGB [H, W, 3], as a data URL.

    Raises:
        MissingExtraError: If Pillow is not installed.
    """
    buffer = io.BytesIO()
    image_of(frame).save(buffer, image_format, **_SAVING[image_format])
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{image_format};base64,{data}"


def content_blocks(observation: Observation, max_images: int | None = None) -> list[Block]:
    """An observation as the chat templates of transformers take it, without the system prompt.

    Args:
        observation: What the session said.
        max_images: Frames at most, at least 1; more are thinned out evenly, and the text says so.

    Returns:
        Each frame behind its time ("12.5 s"), and then the text: blocks
        `{"type": "text", "text": ...}` and `{"type": "image", "image": <PIL image>}`.

    Raises:
        ConfigError: If `max_images` is below 1.
        MissingExtraError: If there are frames and Pillow is not installed.
    """
    return _blocks(observation, max_images, _picture)


def message_parts(
    observation: Observation,
    max_images: int | None = None,
    image_format: ImageFormat = "png",
) -> list[Block]:
    """The same as OpenAI's chat messages have it: images are data URLs.

    Parts are `{"type": "text", "text": ...}` and `{"type": "image_url", "image_url": {"url": ..}}`.
    """
    return _blocks(observation, max_images, partial(_linked, image_format=image_format))


def _picture(frame: npt.NDArray[np.uint8]) -> Block:
    return {"type": "image", "image": image_of(frame)}


def _linked(frame: npt.NDArray[np.uint8], image_format: ImageFormat) -> Block:
    return {"type": "image_url", "image_url": {"url": data_url(frame, image_format)}}


def _blocks(
    observation: Observation,
    max_images: int | None,
    image_block: Callable[[npt.NDArray[np.uint8]], Block],
) -> list[Block]:
    if max_images is not None and max_images < 1:
        raise ConfigError(f"max_images must be at least 1, or None; got {max_images}")
    blocks: list[Block] = []
    text, clip = observation.text, observation.clip
    if clip is not None:
        count = len(clip.frames)
        shown = spread(count, max_count=max_images or count)
        for index in shown:
            blocks.append(_text(f"{clip.timestamps_seconds[index]:.1f} s"))
            blocks.append(image_block(clip.frames[index]))
        if len(shown) < count:
            text += f"\n{len(shown)} of the {count} frames are shown."
    return [*blocks, _text(text)]


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def crop_reply(start: object, end: object, detail: object) -> str:
    """The reply that a call of `crop` stands for, whatever a model passes to it.

    What can't be carried out becomes a grounding that can't be either. The good form is that of
    `write_crop`, with an empty thought: what a model thinks stands before the call.

    >>> crop_reply(3.0, 9.5, "fine").partition("</think>")[2]
    '<grounding>{"temporal_segment": [3.0, 9.5], "sampling_strategy": "fine"}</grounding>'
    """
    fields = {"temporal_segment": [start, end], "sampling_strategy": detail}
    # A detail of "</grounding>" must stay inside.
    grounding = json.dumps(fields, default=str).replace("<", "\\u003c")
    return f"<think></think><grounding>{grounding}</grounding>"


def for_tools(config: SessionConfig | None = None) -> SessionConfig:
    """The rules of an episode whose replies are tool calls.

    The default system prompt, which explains tags, gives way to `TOOL_SYSTEM`; another one stays.
    """
    config = config or SessionConfig()
    if config.prompts.system != DEFAULT_PROMPTS.system:
        return config
    return replace(config, prompts=replace(config.prompts, system=TOOL_SYSTEM))
