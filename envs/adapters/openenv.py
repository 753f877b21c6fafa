"""What OpenEnv sends over the network, and the client that plays an episode through it.

Frames travel as data URLs: PNG, which loses nothing, or JPEG, which is several times smaller.
Actions and observations are OpenEnv's pydantic models, so an unknown field is an error.
"""

from __future__ import annotations

import base64
import io
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from videoseek_env.action import Fault
from videoseek_env.errors import MissingExtraError
from videoseek_env.session import Observation as SessionObservation
from videoseek_env.trajectory import EndReason
from videoseek_env.video.clip import Clip, ClipRef

try:
    from openenv.core.client_types import StepResult
    from openenv.core.env_client import EnvClient
    from openenv.core.env_server.types import Action, Observation, State
    from PIL import Image
    from pydantic import BeforeValidator, ConfigDict, Field
except ModuleNotFoundError as error:
    raise MissingExtraError("openenv-core", "openenv", "envs.adapters.openenv") from error


def _as_unicode(text: Any) -> Any:
    """Put U+FFFD for lone surrogates, which pydantic and JSON refuse."""
    if isinstance(text, str):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


Text = Annotated[str, BeforeValidator(_as_unicode)]
"""Any string at all."""


class VideoSeekAction(Action):
    """A turn of the agent."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    reply: Text
    """What the agent wrote, whole: its thoughts, and a grounding or an answer."""


class VideoSeekObservation(Observation):
    """What the agent gets to read and see; `reward` and `done` are OpenEnv's own fields.

    The reward is None at reset, 0 while the episode runs, and at its end the score of the
    trajectory; None again if the video failed, which says nothing about the agent.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    text: Text
    """The question, how a crop was sampled, what was wrong with a reply, or that it is over."""
    system: Text = ""
    """The system prompt: how to reply. Only with the first observation."""
    frames: list[str] = Field(default_factory=list)
    """New frames, RGB, each as a data URL; none after a malformed reply and at the end."""
    clip: dict[str, Any] | None = None
    """How the frames were taken: `timestamps_seconds` of each, `segment`, `strategy`, `height`,
    `width`, `visual_tokens`, and the `indices` and path of the server's `video`."""
    error: Fault | None = None
    """Why the last reply could not be carried out."""
    end_reason: EndReason | None = None
    """Why the episode ended; set whenever it is done."""
    reward_parts: dict[str, float] = Field(default_factory=dict)
    """The named components of the final reward."""
    trajectory: dict[str, Any] | None = None
    """The finished episode with its task, for `Trajectory.from_dict`."""
    failure: Text | None = None
    """What the decoder said about a video that failed: for the host, not for the agent."""

    def unpacked(self) -> SessionObservation:
        """The observation as the session gave it, its frames decoded: what a policy acts on."""
        ref = None if self.clip is None else ClipRef.from_dict(self.clip)
        clip = None
        if ref is not None:
            frames = np.stack([_decoded(frame) for frame in self.frames])
            clip = Clip(frames, np.array(ref.timestamps_seconds), ref.segment, ref.strategy)
        return SessionObservation(self.text, clip, self.error, self.system, ref)


class VideoSeekState(State):
    """Where an episode stands; `step_count` counts the replies."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    task_id: str | None = None
    """The question; None before the first reset, and if its video can't be opened."""
    kind: str | None = None
    """The question's kind."""
    malformed_replies: int = 0
    """Replies that could not be carried out."""
    context_tokens: int = 0
    """Tokens in the context so far."""
    visual_tokens: int = 0
    """Visual tokens among them."""
    end_reason: EndReason | None = None
    """Why the episode ended; None while it runs."""


class VideoSeekClient(EnvClient[VideoSeekAction, VideoSeekObservation, VideoSeekState]):
    """Plays episodes on a server; `sync()` gives the same without `await`.

    `reset` takes `seed`, which draws the task as in Gymnasium, or `task_id`, which pins it. What
    the server refuses, such as a reply after the end, is a RuntimeError; the session goes on.
    """

    def __init__(
        self,
        base_url: str,
        message_timeout_s: float = 600.0,
        max_message_size_mb: float = 512.0,
        **options: Any,
    ) -> None:
        """Prepare a client without connecting.

        Args:
            base_url: Where the server is, such as "http://localhost:8000".
            message_timeout_s: Longest wait for an answer; a crowd of sessions decodes for a while.
            max_message_size_mb: Largest message; frames of the largest budget take 100 as PNG.
            **options: What else OpenEnv's client takes.
        """
        super().__init__(
            base_url,
            message_timeout_s=message_timeout_s,
            max_message_size_mb=max_message_size_mb,
            **options,
        )

    def _step_payload(self, action: VideoSeekAction) -> dict[str, Any]:
        return action.model_dump()

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[VideoSeekObservation]:
        reward, done = payload["reward"], payload["done"]
        observation = VideoSeekObservation(**payload["observation"], reward=reward, done=done)
        return StepResult(observation, reward, done)

    def _parse_state(self, payload: dict[str, Any]) -> VideoSeekState:
        return VideoSeekState(**payload)


def _decoded(frame: str) -> npt.NDArray[np.uint8]:
    data = base64.b64decode(frame.partition(",")[2], validate=True)
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
