"""A crop tool for verl's own `tool_agent` loop.

Written for verl 0.9.1, which is imported when the tool is made. `tool_config_path` names a file
such as

    tools:
      - class_name: envs.adapters.verl_tool.VideoCropTool
        config: {type: native, rules: {budget: qwen3-vl}}

and the data are `tool_rows(tasks)`: verl puts a prompt together before any tool runs, so that the
overview stands in the row. The agent answers in its last turn, which no tool sees:
`compute_score` of `envs.adapters.verl` scores it together with the crops.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from envs.adapters.content import content_blocks, image_of
from envs.adapters.verl import GuardedEpisode, reply_of, rows, shared_cache, task_of
from videoseek_env.errors import MissingExtraError
from videoseek_env.prompts import Prompts
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.video.clip import STRATEGIES

CROP_SYSTEM = """\
You answer a question about a video. First you see an overview: a few small frames of all of it.
In every turn, think inside <think>...</think> first. To look closer, call `crop` on a stretch of
the video: you then get new frames of it. Times are seconds of the whole video.
To finish, answer: <answer>...</answer>"""
"""The default system prompt of the rows."""

CROP_SCHEMA: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "crop",
        "description": "Looks closer at a stretch of the video, and returns new frames of it.",
        "parameters": {
            "type": "object",
            "properties": {
                "start": {
                    "type": "number",
                    "description": "Where the stretch starts, in seconds of the whole video.",
                },
                "end": {
                    "type": "number",
                    "description": "Where it ends, at least one second later.",
                },
                "detail": {
                    "type": "string",
                    "description": "How sharp and dense the frames are.",
                    "enum": list(STRATEGIES),
                },
            },
            "required": ["start", "end", "detail"],
        },
    },
}
"""The tool as the model reads it."""

_logger = logging.getLogger(__name__)


def tool_rows(
    tasks: Iterable[VideoTask], *, rules: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of verl's dataset, each with its overview: PNG bytes, so write them as Parquet.

    A task whose video can't be decoded, or whose prompt passes the context limit, is left out and
    logged.

    Args:
        tasks: What to ask.
        rules: Fields of `SessionConfig`, the same as the tool's.
    """
    config = _config(rules)
    tasks = list(tasks)
    for task, row in zip(tasks, rows(tasks), strict=True):
        episode = GuardedEpisode(task, config, shared_cache())
        observation = episode.start()
        episode.end()
        if observation is None:
            reason = episode.trajectory.end_reason
            _logger.warning("left out task %s: %s", task.id, reason)
            continue
        blocks = content_blocks(observation)
        text = "".join(block.get("text", "<image>") for block in blocks)
        row["agent_name"] = "tool_agent"
        row["prompt"] = [
            {"role": "system", "content": observation.system},
            {"role": "user", "content": text},
        ]
        row["images"] = [
            {"bytes": _png(block["image"])} for block in blocks if block["type"] == "image"
        ]
        create = {"create_kwargs": {"task": row["extra_info"]["task"]}}
        row["extra_info"] |= {"need_tools_kwargs": True, "tools_kwargs": {"crop": create}}
        yield row


class VideoCropTool:
    """`crop`, on one session per trajectory; a tool in all but the base class of verl's.

    verl makes and releases an instance for each call. What lasts is the trajectory's own
    `agent_data`, so the session belongs to that, and is freed with it.
    """

    def __init__(self, config: Mapping[str, Any], tool_schema: Any = None) -> None:
        """Prepare without opening a video.

        Args:
            config: verl's, with `rules`: fields of `SessionConfig`.
            tool_schema: How the model reads the tool; by default `CROP_SCHEMA`.

        Raises:
            MissingExtraError: If verl is not installed.
        """
        try:
            from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
        except ModuleNotFoundError as error:
            raise MissingExtraError("verl", "verl", "the crop tool") from error
        self.config = config
        self.tool_schema = tool_schema or OpenAIFunctionToolSchema.model_validate(CROP_SCHEMA)
        self.name = self.tool_schema.function.name
        self._response = ToolResponse
        self._rules = _config(config.get("rules"))
        self._tasks: dict[str, VideoTask] = {}
        self._episodes: WeakKeyDictionary[Any, GuardedEpisode] = WeakKeyDictionary()

    async def create(self, instance_id: str | None = None, **kwargs: Any) -> tuple[str, Any]:
        """Make an instance for one call.

        Args:
            instance_id: Its name; by default a new one.
            **kwargs: `create_kwargs`, with the `task` of the row.

        Returns:
            The name, and an empty `ToolResponse`.

        Raises:
            TaskError: If there is no task.
        """
        instance_id = instance_id or uuid4().hex
        self._tasks[instance_id] = task_of(kwargs.get("create_kwargs", {}))
        return instance_id, self._response()

    async def execute(
        self, instance_id: str, parameters: Mapping[str, Any], **kwargs: Any
    ) -> tuple[Any, float, dict[str, Any]]:
        """Crop.

        Args:
            instance_id: From `create`.
            parameters: `start`, `end` and `detail`, whatever the model wrote.
            **kwargs: `agent_data`, the trajectory.

        Returns:
            A `ToolResponse`: what the session said and showed; no reward, no metrics.
        """
        trajectory = kwargs["agent_data"]
        if trajectory not in self._episodes:
            task = self._tasks[instance_id]
            self._episodes[trajectory] = GuardedEpisode(task, self._rules, shared_cache())
        episode = self._episodes[trajectory]
        observation = await asyncio.to_thread(episode.reply, reply_of(parameters))
        if observation is None:
            reason = episode.trajectory.end_reason
            return self._response(text=f"The episode is over: {reason}."), 0.0, {}
        frames = () if observation.clip is None else observation.clip.frames
        shown = {"image": [image_of(frame) for frame in frames]} if len(frames) else {}
        return self._response(text=observation.text, **shown), 0.0, {}

    async def calc_reward(self, instance_id: str, **kwargs: Any) -> float:
        """Nothing: the answer comes after the last call, and `compute_score` pays for both."""
        return 0.0

    async def release(self, instance_id: str, **kwargs: Any) -> None:
        """Forget the instance; the session goes on with the trajectory."""
        del self._tasks[instance_id]


def _config(rules: Mapping[str, Any] | None) -> SessionConfig:
    return SessionConfig(**{"prompts": Prompts(system=CROP_SYSTEM), **(rules or {})})


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()
