"""Tasks and a policy in, episodes out: isolated, seeded, in parallel."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from agents.episode import Episode
from agents.ongoing import MakeSession, OngoingEpisode
from agents.policy import JointPolicy, Policy
from rewards.reward import RewardFunction
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.budget import get_budget
from videoseek_env.errors import ConfigError, check_counts, check_seed
from videoseek_env.session import SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason
from videoseek_env.video import Backend, ClipCache

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


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
    """Threads. Each plays one episode at a time, with a policy of its own; a policy that acts on
    many episodes is asked by one thread, and all of them decode."""
    batch_size: int = 32
    """Episodes under way at once, where the policy acts on many."""
    backend: Backend = "auto"
    """The video decoder."""
    timeout_seconds: float | None = None
    """How long it may take to open a video and show its first frames, and how long from a reply's
    beginning to the frames that it asks for; where policies act together, their writing is not
    counted. What hangs is left to its thread, and its episode is over. If it was the beginning, so
    are the episodes of its task that have not begun. None waits for ever."""

    def __post_init__(self) -> None:
        check_counts(self, "episodes_per_task", "workers", "batch_size")
        check_seed(self.seed)
        if self.timeout_seconds is not None and not self.timeout_seconds > 0:
            raise ConfigError(f"timeout_seconds must be above 0, got {self.timeout_seconds}")


def rollout(
    make_policy: Callable[[], Policy],
    tasks: Sequence[VideoTask],
    config: RolloutConfig | None = None,
    *,
    session: SessionConfig | None = None,
    reward: RewardFunction | None = None,
    cache: ClipCache | None = None,
    name: str | None = None,
    done: Container[tuple[int, int]] = (),
    make_session: MakeSession = VideoSession,
) -> Iterator[Episode]:
    """Play every task.

    An episode that fails is data: it ends as `POLICY_FAILED` or `VIDEO_FAILED` with the exception's
    text, or as `ABANDONED` if it hung, is scored like any other, and the rest go on. An exception
    of the reward or of `make_policy` is the host's and ends the rollout. The outcome does not
    depend on the number of workers, which may play ahead of the consumer.

    Args:
        make_policy: Called once per episode; a policy's class will do.
        tasks: What to play.
        config: How many episodes, with which seed, on how many threads.
        session: The rules of an episode.
        reward: Scores a trajectory; by default the trajectory-guided reward.
        cache: Decoded clips, shared by all threads.
        name: The policy's name in the episodes; by default that of its class.
        done: Episodes that are not played again, each by its task's place and its number.
        make_session: Makes the session of an episode, where it is no `VideoSession`.

    Yields:
        Episodes by task and then by number, each as soon as those before it are done.
    """
    session = session or SessionConfig()
    reward = TrajectoryGuidedReward() if reward is None else reward
    settings = {
        "budget": get_budget(session.budget).name,
        "overview": session.overview,
        "max_turns": session.max_turns,
        "max_clips": session.max_clips,
        "force_answer": session.force_answer,
    }

    def score(episode: OngoingEpisode) -> Episode:
        trajectory = episode.trajectory
        return Episode(
            policy=name or type(episode.policy).__name__,
            seed=episode.seed,
            trajectory=trajectory,
            reward=reward(trajectory),
            seconds=episode.seconds,
            error=episode.error,
            settings=settings,
        )

    yield from play_episodes(
        make_policy,
        tasks,
        config,
        score,
        session=session,
        cache=cache,
        done=done,
        make_session=make_session,
    )


def play_episodes(
    make_policy: Callable[[], Policy],
    tasks: Sequence[VideoTask],
    config: RolloutConfig | None,
    finish: Callable[[OngoingEpisode], _T],
    *,
    session: SessionConfig | None = None,
    cache: ClipCache | None = None,
    done: Container[tuple[int, int]] = (),
    make_session: MakeSession = VideoSession,
) -> Iterator[_T]:
    """Play every task; what comes of an episode is up to `finish`: a learner wants the policy too.

    Args:
        make_policy: As for `rollout`, like all the others.
        tasks: What to play.
        config: How many episodes, with which seed, on how many threads.
        finish: Called once for each episode, by the thread that played it where policies play
            alone; it may wait for a judge.
        session: The rules of an episode.
        cache: Decoded clips.
        done: Episodes that are not played again.
        make_session: Makes the session of an episode.
    """
    config = config or RolloutConfig()
    rules = session or SessionConfig()
    clips = ClipCache(256 * 2**20) if cache is None else cache

    def begin(job: tuple[int, int]) -> OngoingEpisode:
        policy = first if job == jobs[0] else make_policy()
        place, number = job
        seed = episode_seed(config.seed, place, number)
        episode = OngoingEpisode(
            policy,
            tasks[place],
            seed=seed,
            place=place,
            number=number,
            timeout_seconds=config.timeout_seconds,
        )
        if place in hung:
            episode.abandon("the video's first frames took too long for another episode")
            return episode
        episode.begin(rules, cache=clips, backend=config.backend, make_session=make_session)
        if episode.trajectory.end_reason is EndReason.ABANDONED:
            hung.add(place)
        return episode

    hung: set[int] = set()
    numbers = range(config.episodes_per_task)
    jobs = [(i, k) for i in range(len(tasks)) for k in numbers if (i, k) not in done]
    if not jobs:
        return
    first = make_policy()
    if isinstance(first, JointPolicy):
        yield from map(finish, _play_together(begin, jobs, config))
    else:
        yield from _play_apart(lambda job: finish(_play(begin(job))), jobs, config)


def episode_seed(seed: int, place: int, number: int) -> int:
    """What the policy of an episode is seeded with.

    Args:
        seed: The rollout's.
        place: The task's among the tasks.
        number: The episode's among those of its task.
    """
    return int(np.random.SeedSequence([seed, place, number]).generate_state(1)[0])


def _play(episode: OngoingEpisode) -> OngoingEpisode:
    while episode.observation is not None:
        episode.act()
    return episode


def _play_apart(
    play: Callable[[tuple[int, int]], _T],
    jobs: Sequence[tuple[int, int]],
    config: RolloutConfig,
) -> Iterator[_T]:
    """One policy at a time in each thread."""
    if config.workers == 1:
        yield from map(play, jobs)
        return
    executor = ThreadPoolExecutor(config.workers, thread_name_prefix="rollout")
    try:
        yield from executor.map(play, jobs)
    finally:
        executor.shutdown(cancel_futures=True)


def _play_together(
    begin: Callable[[tuple[int, int]], OngoingEpisode],
    jobs: Sequence[tuple[int, int]],
    config: RolloutConfig,
) -> Iterator[OngoingEpisode]:
    """All policies in one batch, which new episodes join as others end."""
    waiting = deque(jobs)
    begun: deque[OngoingEpisode] = deque()
    with ThreadPoolExecutor(config.workers, thread_name_prefix="rollout") as executor:
        while waiting or begun:
            running = [episode for episode in begun if episode.observation is not None]
            places = min(len(waiting), config.batch_size - len(running))
            fresh = list(executor.map(begin, [waiting.popleft() for _ in range(places)]))
            begun.extend(fresh)
            running += [episode for episode in fresh if episode.observation is not None]
            if running:
                _act_together(running, executor)
                for episode in running:
                    if episode.observation is None:
                        episode.policy.release()  # type: ignore[attr-defined]
            while begun and begun[0].observation is None:
                yield begun.popleft()


def _act_together(episodes: Sequence[OngoingEpisode], executor: ThreadPoolExecutor) -> None:
    """Ask all at once. If that fails, as memory may run out, ask one half after the other."""
    policies = [episode.policy for episode in episodes]
    seen = [episode.observation for episode in episodes]
    failure: Exception | None = None
    try:
        replies = policies[0].act_together(policies, seen)  # type: ignore[attr-defined]
    except Exception as error:
        failure = error
    if failure is None:
        list(executor.map(OngoingEpisode.reply, episodes, replies))
    elif len(episodes) == 1:
        episodes[0].fail(failure)
    else:
        _logger.warning("asking %d policies together failed: %r", len(episodes), failure)
        failure = None  # with all that its frames hold
        half = len(episodes) // 2
        _act_together(episodes[:half], executor)
        _act_together(episodes[half:], executor)
