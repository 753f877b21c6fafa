"""A verifiers v1 environment: the reply grammar as text, frames as image parts.

verifiers finds plugins by the name of a top-level module. Write one, such as `my_videos.py`, and
run `env eval my-videos --env.taskset.budget qwen3-vl -m MODEL --no-push`:

    from envs.adapters.verifiers import VideoSeekEnvironment, VideoSeekHarness, VideoSeekTaskset

    __all__ = ["VideoSeekEnvironment", "VideoSeekHarness", "VideoSeekTaskset"]

verifiers requires `openai-agents`, which installs a package `agents`, as this project does: one
hides the other or writes over its files. Only the tools of verifiers' legacy API import it. Install
verifiers, then `pip uninstall openai-agents`, and this project after that.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Any

from envs.adapters.content import ImageFormat, message_parts
from rewards.reward import Reward
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.datasets import load_tasks
from videoseek_env.env import DEFAULT_CACHE_BYTES
from videoseek_env.errors import MissingExtraError, TrajectoryError
from videoseek_env.sampling import OverviewMode
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory
from videoseek_env.video import Backend, ClipCache, VideoReader, open_video

try:
    import openai
    import verifiers.v1 as vf  # type: ignore[import-untyped]
    from pydantic import Field
    from verifiers.v1.dialects.chat import message_to_wire  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise MissingExtraError("verifiers", "verifiers", "envs.adapters.verifiers") from error

_TAG = re.compile(r"</?(?:think|grounding|answer)>")


class VideoSeekData(vf.TaskData):  # type: ignore[misc]
    """A question, as it travels and is saved with a trace; the model reads none of it."""

    video_task: dict[str, Any]
    """What `VideoTask.to_dict` writes."""


class VideoSeekTask(vf.Task[VideoSeekData]):  # type: ignore[misc]
    """A question with the trajectory-guided reward, and its parts as metrics.

    Another reward takes its place as verifiers has it: an async function of the trace, named under
    `[env.taskset.task.rewards.trajectory_reward]`, that scores `trajectory_of(trace)`.
    """

    @property
    def key(self) -> str:
        """The task's id, which no run changes."""
        return str(self.data.video_task["id"])

    @vf.reward  # type: ignore[untyped-decorator]
    async def trajectory_reward(self, trace: vf.Trace) -> float:
        """The episode's reward."""
        return _score(trace).value

    @vf.metric  # type: ignore[untyped-decorator]
    async def reward_parts(self, trace: vf.Trace) -> dict[str, float]:
        """Its named components."""
        return dict(_score(trace).parts)


def trajectory_of(trace: vf.Trace) -> Trajectory:
    """The episode that a trace holds, saved ones included.

    Raises:
        TrajectoryError: If it holds none, because the episode failed.
    """
    if "trajectory" not in trace.info:
        raise TrajectoryError("the trace holds no episode; see its errors")
    return Trajectory.from_dict(trace.info["trajectory"])


def _score(trace: vf.Trace) -> Reward:
    return TrajectoryGuidedReward()(trajectory_of(trace))


class VideoSeekTasksetConfig(vf.TasksetConfig):  # type: ignore[misc]
    """Which questions, and by which rules they are played: see `SessionConfig`."""

    dataset: str = "needle"
    """As `load_tasks` has it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `load_tasks`."""
    budget: str = "laptop"
    max_turns: int = 6
    max_clips: int = 12
    force_answer: bool = False
    overview: OverviewMode = "exact"


class VideoSeekTaskset(vf.Taskset[VideoSeekTask, VideoSeekTasksetConfig]):  # type: ignore[misc]
    """The questions of a dataset. Override `video_tasks` and `rules` for those of your own."""

    def video_tasks(self) -> Sequence[VideoTask]:
        """The questions; needle tasks are made for the budget."""
        config = self.config
        budget = {"budget": config.budget} if config.dataset == "needle" else {}
        return load_tasks(config.dataset, **budget | config.options)

    def rules(self) -> SessionConfig:
        """The rules of an episode."""
        names = ("budget", "max_turns", "max_clips", "force_answer", "overview")
        return SessionConfig(**{name: getattr(self.config, name) for name in names})

    def load(self) -> Iterator[VideoSeekTask]:
        """Yield the tasks."""
        system = self.rules().prompts.system_text()
        for index, task in enumerate(self.video_tasks()):
            data = VideoSeekData(
                idx=index, name=task.id, system_prompt=system, video_task=task.to_dict()
            )
            yield VideoSeekTask(data, self.config.task)


class VideoSeekHarness(vf.Harness[vf.HarnessConfig]):  # type: ignore[misc]
    """Asks the model for one reply, in this process; verifiers' own start another for each turn."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(  # noqa: D102 - as verifiers declares it
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        system, prompt = self.resolve_prompt(data)
        messages = [vf.SystemMessage(content=system)] if system else []
        wire: Any = [message_to_wire(message) for message in [*messages, *(prompt or [])]]
        async with openai.AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=None) as client:
            await client.chat.completions.create(model=ctx.model, messages=wire)
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


class VideoSeekEnvironmentConfig(vf.EnvConfig):  # type: ignore[misc]
    """Who plays, and how frames reach the model."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    backend: Backend = "auto"
    """The video decoder."""
    cache_bytes: int = DEFAULT_CACHE_BYTES
    """Decoded clips that episodes share."""
    max_images: int | None = None
    """Frames of one observation at most: more are thinned out evenly, and the text says so."""
    image_format: ImageFormat = "jpeg"
    """PNG loses nothing; frames are sent anew each turn, and saved with the trace."""


class VideoSeekEnvironment(vf.Env[VideoSeekEnvironmentConfig]):  # type: ignore[misc]
    """Plays the user's side of the conversation: each of its turns is an observation.

    A limit of verifiers' own that stops the model first ends the episode as `abandoned`. A video
    that can't be decoded fails the episode, without a reward.
    """

    def __init__(self, config: VideoSeekEnvironmentConfig) -> None:
        """Prepare without opening a video."""
        super().__init__(config)
        self._cache = ClipCache(config.cache_bytes)

    async def run(self, task: VideoSeekTask, agents: vf.Agents) -> None:
        """Play one episode."""
        video = VideoTask.from_dict(task.data.video_task)
        async with agents.agent.interaction(task) as interaction:
            reader = await asyncio.to_thread(
                open_video, video.video, self.config.backend, frame_fps=video.frame_fps
            )
            try:
                session = await self._play(video, reader, interaction)
            finally:
                reader.close()
            interaction.trace.info["trajectory"] = session.trajectory.to_dict()

    async def _play(
        self, video: VideoTask, reader: VideoReader, interaction: vf.Interaction
    ) -> VideoSession:
        config = self.config
        session = VideoSession(video, reader, self.taskset.rules(), cache=self._cache)
        observation: Observation | None = await asyncio.to_thread(session.start)
        while observation is not None and session.end_reason is None:
            parts = await asyncio.to_thread(
                message_parts, observation, config.max_images, config.image_format
            )
            segment = await interaction.turn([{"role": "user", "content": parts}])
            if segment.terminated:
                session.abandon()
                break
            observation = await asyncio.to_thread(session.reply, _text_of(segment.messages[-1]))
        return session


def _text_of(message: vf.AssistantMessage) -> str:
    """What the model wrote; thoughts that the server has split off stand in front again.

    Their own tags are dropped: a thought that rehearses an action must not act.
    """
    text, thought = message.content or "", message.reasoning_content
    if not thought or "<think>" in text:
        return text
    return f"<think>{_TAG.sub('', thought)}</think>{text}"
