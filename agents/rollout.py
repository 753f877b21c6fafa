"""Tasks and a policy in, episodes out: isolated, seeded, in parallel."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from agents.episode import Episode
from agents.policy import Policy, PrivilegedPolicy
from rewards.reward import RewardFunction
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.budget import get_budget
from videoseek_env.errors import ConfigError, VideoDecodeError
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import Backend, ClipCache, open_video

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """How episodes are run.

    Raises:
        ConfigError: If a number is below its least value.
    """

    episodes_per_task: int = 1
    """Episodes of each task; the members of a group differ only in their seeds."""
    seed: int = 0
    """Together with the task's place and the episode's number it seeds the policy."""
    workers: int = 1
    """Threads. Each plays one episode at a time, with a policy of its own."""
    backend: Backend = "auto"
    """The video decoder."""

    def __post_init__(self) -> None:
        if self.episodes_per_task < 1 or self.workers < 1:
            raise ConfigError(f"episodes_per_task and workers must be at least 1, got {self}")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}")


def rollout(
    make_policy: Callable[[], Policy],
    tasks: Sequence[VideoTask],
    config: RolloutConfig | None = None,
    *,
    session: SessionConfig | None = None,
    reward: RewardFunction | None = None,
    cache: ClipCache | None = None,
    name: str | None = None,
) -> Iterator[Episode]:
    """Play every task.

    An episode that fails is data: it ends as `POLICY_FAILED` or `VIDEO_FAILED` with the exception's
    text, is scored like any other, and the rest go on. An exception of the reward or of
    `make_policy` is the host's and ends the rollout. The outcome does not depend on the number of
    workers, which may play ahead of the consumer.

    Args:
        make_policy: Called once per episode; a policy's class will do.
        tasks: What to play.
        config: How many episodes, with which seed, on how many threads.
        session: The rules of an episode.
        reward: Scores a trajectory; by default the trajectory-guided reward.
        cache: Decoded clips, shared by all threads.
        name: The policy's name in the episodes; by default that of its class.

    Yields:
        Episodes by task and then by number, each as soon as those before it are done.
    """
    config = config or RolloutConfig()
    session = session or SessionConfig()
    reward = TrajectoryGuidedReward() if reward is None else reward
    cache = ClipCache(256 * 2**20) if cache is None else cache
    settings = {
        "budget": get_budget(session.budget).name,
        "overview": session.overview,
        "max_turns": session.max_turns,
        "max_clips": session.max_clips,
        "force_answer": session.force_answer,
    }

    def play(job: tuple[int, int]) -> Episode:
        index, number = job
        seed = int(np.random.SeedSequence([config.seed, index, number]).generate_state(1)[0])
        started = time.perf_counter()
        policy = make_policy()
        trajectory, error = play_episode(
            policy, tasks[index], session, seed=seed, cache=cache, backend=config.backend
        )
        return Episode(
            policy=name or type(policy).__name__,
            seed=seed,
            trajectory=trajectory,
            reward=reward(trajectory),
            seconds=time.perf_counter() - started,
            error=error,
            settings=settings,
        )

    jobs = [(i, k) for i in range(len(tasks)) for k in range(config.episodes_per_task)]
    if config.workers == 1:
        yield from map(play, jobs)
        return
    executor = ThreadPoolExecutor(config.workers, thread_name_prefix="rollout")
    try:
        yield from executor.map(play, jobs)
    finally:
        executor.shutdown(cancel_futures=True)


def play_episode(
    policy: Policy,
    task: VideoTask,
    config: SessionConfig,
    *,
    seed: int,
    cache: ClipCache,
    backend: Backend = "auto",
) -> tuple[Trajectory, str | None]:
    """Play one episode.

    Returns:
        The trajectory, and what the policy or the decoder raised, or None.
    """
    try:
        reader = open_video(task.video, backend, frame_fps=task.frame_fps)
    except VideoDecodeError as error:
        _logger.warning("task %s: %s", task.id, error)
        return Trajectory(task, (), EndReason.VIDEO_FAILED, 0.0), str(error)
    try:
        session = VideoSession(task, reader, config, cache=cache)
        error_text = _drive(policy, session, seed)
        return session.trajectory, error_text
    finally:
        reader.close()


def _drive(policy: Policy, session: VideoSession, seed: int) -> str | None:
    """Play to the end; what the policy or the decoder raised, or None."""
    try:
        observation: Observation | None = session.start()
        with _policy_errors():
            policy.reset(seed=seed)
            if isinstance(policy, PrivilegedPolicy):
                policy.reveal(session.task)
        while observation is not None and session.end_reason is None:
            with _policy_errors():
                reply = policy.act(observation)
                if not isinstance(reply, str):
                    raise TypeError(f"a policy returns text, got {type(reply).__name__}")
            observation = session.reply(reply)
    except _PolicyFailedError as failure:
        _logger.warning("task %s: the policy failed", session.task.id, exc_info=True)
        session.abandon(EndReason.POLICY_FAILED)
        return str(failure)
    except VideoDecodeError as error:
        _logger.warning("task %s: %s", session.task.id, error)
        return str(error)
    return None


class _PolicyFailedError(Exception):
    """What a policy raised, told apart from what the session raises."""


@contextmanager
def _policy_errors() -> Iterator[None]:
    # Whatever a policy raises is its own affair: one bad rollout must not end a training run.
    try:
        yield
    except Exception as error:
        raise _PolicyFailedError(f"{type(error).__name__}: {error}") from error
