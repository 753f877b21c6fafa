"""Episodes behind an OpenEnv server: a session per client, one cache of decoded clips for all.

Run: python -m envs.adapters.openenv_server --port 8000
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from envs.adapters.content import ImageFormat, data_url
from envs.adapters.openenv import VideoSeekAction, VideoSeekObservation, VideoSeekState
from envs.registration import make_video_seek
from videoseek_env.datasets import load_tasks
from videoseek_env.env import DEFAULT_CACHE_BYTES, Score, VideoSeekEnv
from videoseek_env.errors import MissingExtraError, TaskError, VideoDecodeError
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import Backend, ClipCache

try:
    import uvicorn
    from fastapi import FastAPI, WebSocket, WebSocketDisconnect
    from openenv.core.env_server.http_server import create_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import EnvironmentMetadata
except ModuleNotFoundError as error:
    raise MissingExtraError("openenv-core", "openenv", "envs.adapters.openenv_server") from error

_COUNTS = ("task_id", "kind", "malformed_replies", "context_tokens", "visual_tokens")


class FrameEncoder:
    """Encodes each clip once: sessions that share its decoded frames share the encoded ones.

    They live as long as the decoded ones, so they take about 4/3 of the cache of clips at most.
    """

    def __init__(self, image_format: ImageFormat = "png") -> None:
        self._image_format = image_format
        self._encoded: dict[int, list[str]] = {}

    def __call__(self, frames: npt.NDArray[np.uint8]) -> list[str]:
        """Frames, RGB [N, H, W, 3], as data URLs."""
        key = id(frames)
        if key not in self._encoded:
            urls = [data_url(frame, self._image_format) for frame in frames]
            self._encoded[key] = urls
            weakref.finalize(frames, self._encoded.pop, key, None)
        return self._encoded[key]


class VideoSeekEnvironment(Environment[VideoSeekAction, VideoSeekObservation, VideoSeekState]):
    """The session of one client; `VideoSeekEnv` is what it plays, and says what an episode is."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, env: VideoSeekEnv, encode: FrameEncoder) -> None:
        """Prepare without opening a video.

        Args:
            env: The environment, for this session alone.
            encode: How frames travel; share it as the cache of clips is shared.
        """
        super().__init__()
        self._env, self._encode = env, encode
        self._state = VideoSeekState()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        *,
        task_id: str | None = None,
        **unknown: Any,
    ) -> VideoSeekObservation:
        """Start an episode; one whose video can't be opened has ended when it returns.

        Args:
            seed: Seeds the draw of tasks, of this reset and of later ones.
            episode_id: The client's own name for the episode; by default a new one.
            task_id: Pins the task.
            **unknown: Nothing else.

        Raises:
            TaskError: If there is no such task, or an argument is unknown.
        """
        if unknown:
            raise TaskError(
                f"unknown reset arguments {sorted(unknown)}; expected seed, episode_id, task_id"
            )
        self._state = VideoSeekState(episode_id=episode_id or uuid4().hex)
        options = {} if task_id is None else {"task_id": task_id}
        try:
            _, info = self._env.reset(seed=seed, options=options)
        except VideoDecodeError as error:
            self._state.end_reason = EndReason.VIDEO_FAILED
            return VideoSeekObservation(
                text="The video can't be shown.",
                done=True,
                end_reason=EndReason.VIDEO_FAILED,
                failure=str(error),
            )
        if "end_reason" in info:  # The question alone passes the context limit.
            return self.step(VideoSeekAction(reply=""))
        return self._observe(info)

    def step(
        self, action: VideoSeekAction, timeout_s: float | None = None, **kwargs: Any
    ) -> VideoSeekObservation:
        """Carry out a reply.

        Args:
            action: The reply.
            timeout_s: Not read: decoding can't be interrupted.
            **kwargs: Not read.

        Raises:
            EpisodeError: If the episode is over, or none was started.
        """
        failure = None
        try:
            _, reward, terminated, truncated, info = self._env.step(action.reply)
        except VideoDecodeError as error:
            # The episode has ended; one more step says so.
            failure = str(error)
            _, reward, terminated, truncated, info = self._env.step(action.reply)
        if not (terminated or truncated):
            return self._observe(info, reward=reward)
        return self._observe(
            info,
            reward=None if failure else reward,
            done=True,
            end_reason=info["end_reason"],
            reward_parts={} if failure else info["reward_parts"],
            trajectory=info["trajectory"].to_dict(),
            failure=failure,
        )

    @property
    def state(self) -> VideoSeekState:
        """Where the episode stands."""
        return self._state

    def get_metadata(self) -> EnvironmentMetadata:
        """What the server says about itself."""
        return EnvironmentMetadata(
            name="videoseek",
            description="Answer a question about a long video by looking where it matters.",
        )

    def close(self) -> None:
        """Free the decoder; the episode on the way is abandoned."""
        self._env.close()

    def _observe(self, info: dict[str, Any], **fields: Any) -> VideoSeekObservation:
        self._state = VideoSeekState(
            episode_id=self._state.episode_id,
            step_count=info["turns"],
            end_reason=fields.get("end_reason"),
            **{name: info[name] for name in _COUNTS},
        )
        seen = self._env.observation
        return VideoSeekObservation(
            text=seen.text,
            system=seen.system,
            frames=[] if seen.clip is None else self._encode(seen.clip.frames),
            clip=None if seen.clip_ref is None else seen.clip_ref.to_dict(),
            error=seen.error,
            **fields,
        )


def make_app(
    tasks: str | Sequence[VideoTask] = "needle",
    *,
    reward: Callable[[Trajectory], Score] | None = None,
    config: SessionConfig | None = None,
    backend: Backend = "auto",
    cache: ClipCache | None = None,
    max_sessions: int = 64,
    image_format: ImageFormat = "png",
) -> FastAPI:
    """The server as an ASGI application; `uvicorn --factory` takes it too.

    An episode is played over a web socket. OpenEnv's POST /step has no session to step in.

    Args:
        tasks: Tasks, or the name of a dataset that loads without arguments.
        reward: Scores a finished trajectory; by default the trajectory-guided reward.
        config: The rules of an episode.
        backend: The video decoder.
        cache: Decoded clips of all sessions; by default a new one of 256 MiB.
        max_sessions: Clients at a time; one more is refused.
        image_format: How frames travel.

    Raises:
        TaskError: If there are no tasks, or two share an id.
    """
    shared = ClipCache(DEFAULT_CACHE_BYTES) if cache is None else cache

    def make(tasks: str | Sequence[VideoTask]) -> VideoSeekEnv:
        return make_video_seek(tasks, reward=reward, config=config, backend=backend, cache=shared)

    loaded, encode = list(make(tasks).tasks.values()), FrameEncoder(image_format)
    app = create_app(
        lambda: VideoSeekEnvironment(make(loaded), encode),
        VideoSeekAction,
        VideoSeekObservation,
        env_name="videoseek",
        max_concurrent_envs=max_sessions,
    )
    # OpenEnv 0.3 closes the socket of a client that has left, which would log a traceback for each.
    app.add_exception_handler(WebSocketDisconnect, _ignore)
    return app


async def _ignore(_socket: WebSocket, _error: Exception) -> None:
    pass


def main() -> None:
    """Serve needle tasks, or a folder of one's own, until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m envs.adapters.openenv_server")
    parser.add_argument("--annotations", type=Path, help="folder with annotations.jsonl and videos")
    parser.add_argument("--budget", default="laptop", help="preset of the budget")
    parser.add_argument("--max-turns", type=int, default=6, help="replies per episode")
    parser.add_argument("--sessions", type=int, default=64, help="clients at a time")
    parser.add_argument("--image-format", choices=get_args(ImageFormat), default="png")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=8000)
    chosen = parser.parse_args()
    config = SessionConfig(budget=chosen.budget, max_turns=chosen.max_turns)
    folder = chosen.annotations
    app = make_app(
        "needle" if folder is None else load_tasks("folder", root=folder),
        config=config,
        max_sessions=chosen.sessions,
        image_format=chosen.image_format,
    )
    serve(app, host=chosen.host, port=chosen.port)


def serve(app: FastAPI, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Run a server until it is interrupted, with what a crowd of slow agents needs.

    Images do not compress further, but trying takes ten times as long as sending them; an agent
    that writes for minutes answers no pings. On uvicorn's own command line these settings are
    `--ws-per-message-deflate false --ws-ping-timeout 600`.
    """
    uvicorn.run(app, host=host, port=port, ws_per_message_deflate=False, ws_ping_timeout=600.0)


if __name__ == "__main__":
    main()
