"""Fresh episodes for a step: groups of rollouts per question, until enough of them teach something.

A group that the learner has no use for is dropped, and another question takes its place, up to a
limit. An episode that fails, because of its video or its policy, or one that hangs, is played once
more with another seed; if that fails too, its group is dropped and counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from accelerate.utils import gather_object

from agents.learning.sample import Sample
from agents.llm.hf_policy import HFPolicy, Role
from agents.ongoing import MakeSession, OngoingEpisode
from agents.rollout import RolloutConfig, play_episodes
from rewards.reward import Reward, RewardFunction
from videoseek_env.errors import ConfigError, VideoSeekError, check_counts
from videoseek_env.session import SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import ClipCache


class NothingPlayedError(VideoSeekError, RuntimeError):
    """Every episode of a step failed."""


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """One finished episode, with what is learned from it."""

    group: int
    """Equal for the episodes of one question; differs between questions on all processes."""
    trajectory: Trajectory
    reward: Reward
    """Nothing if the episode failed: a reward function need not know what that looks like."""
    seconds: float
    samples: tuple[Sample, ...]
    """One for each role that the policy played; none if the episode failed."""
    error: str | None = None
    """Why it failed."""


@dataclass(slots=True, eq=False)
class Collected:
    """Episodes of this process, group by group, and what became of all others."""

    experiences: list[Experience] = field(default_factory=list)
    """To learn from: sound groups that teach something."""
    all_played: list[Experience] = field(default_factory=list)
    """Every episode, those of dropped groups, without frames, and failed ones included: what
    reports show."""
    uninformative_groups: int = 0
    """Dropped because they teach nothing."""
    failed_groups: int = 0
    """Dropped because an episode failed twice."""
    failures: Counter[str] = field(default_factory=Counter)
    """Failed episodes by the reason that they ended with, retried ones included."""
    drawn: int = 0
    """Questions drawn by all processes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorConfig:
    """How many episodes a step takes.

    Raises:
        ConfigError: If a number is below its least value.
    """

    questions: int = 32
    """Groups that a step learns from, over all processes."""
    group_size: int = 8
    """Episodes of each question."""
    max_draws: int = 4
    """Draw at most so many times `questions` in a step to replace dropped groups."""
    workers: int = 2
    """Threads that decode."""
    batch_size: int = 64
    """Episodes that the model plays at once."""
    timeout_seconds: float | None = 120.0
    """An episode whose video takes longer to open, or whose reply takes longer to carry out, has
    failed; None waits for ever."""

    def __post_init__(self) -> None:
        check_counts(self, "questions", "group_size", "max_draws", "workers", "batch_size")
        if self.timeout_seconds is not None and not self.timeout_seconds > 0:
            raise ConfigError(f"timeout_seconds must be above 0, got {self.timeout_seconds}")


class Collector:
    """Plays the questions of one training run, in an order that only the seed decides."""

    def __init__(
        self,
        make_policy: Callable[[], HFPolicy],
        tasks: Sequence[VideoTask],
        config: CollectorConfig,
        *,
        session: SessionConfig,
        reward: RewardFunction,
        cache: ClipCache,
        make_session: MakeSession = VideoSession,
        teaches: Callable[[Sequence[Experience]], bool] = lambda group: True,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """Prepare to play.

        Args:
            make_policy: Makes a policy for an episode, of the model that learns.
            tasks: Questions; each is drawn once before any is drawn again.
            config: How many episodes.
            session: The rules of an episode.
            reward: Scores a trajectory.
            cache: Decoded clips.
            make_session: Makes the session of an episode.
            teaches: Whether anything can be learned from a group; others are replaced.
            seed: Decides the order of questions and every episode.
            process: This process's number; a group is played by one of them.
            processes: How many there are.

        Raises:
            ConfigError: If there are no tasks.
        """
        if not tasks:
            raise ConfigError("there are no tasks to learn from")
        self.config = config
        self.session = session
        self._make_policy, self._tasks = make_policy, tasks
        self._reward, self._cache, self._seed = reward, cache, seed
        self._make_session, self._teaches = make_session, teaches
        self._process, self._processes = process, processes

    def collect(self, step: int, first: int) -> Collected:
        """Play the episodes of a step.

        Args:
            step: Its number; together with the seed it decides every episode.
            first: How many questions earlier steps have drawn.

        Raises:
            NothingPlayedError: If every episode failed, on all processes.
        """
        found, kept, limit = Collected(), 0, self.config.max_draws * self.config.questions
        while kept < self.config.questions and found.drawn < limit:
            missing = min(self.config.questions - kept, limit - found.drawn)
            numbers = range(first + found.drawn, first + found.drawn + missing)
            found.drawn += missing
            sound = sum(self._sort(group, found) for group in self._play(step, numbers, found))
            kept += sum(gather_object([sound]))
        if not sum(gather_object([sum(one.error is None for one in found.all_played)])):
            errors = gather_object([one.error for one in found.all_played])
            raise NothingPlayedError(
                f"each of {len(errors)} episodes of step {step} failed, the last one so: "
                f"{errors[-1]}"
            )
        return found

    def _play(self, step: int, numbers: range, found: Collected) -> Iterator[list[Experience]]:
        """Play this process's share of some questions, failed episodes twice."""
        tasks = [self._task(number) for number in numbers]
        mine = [i for i, number in enumerate(numbers) if number % self._processes == self._process]
        jobs = {(i, k) for i in range(len(tasks)) for k in range(self.config.group_size)}
        played: dict[tuple[int, int], Experience] = {}
        wanted = {(i, k) for i, k in jobs if i in mine}
        for attempt in range(2):
            seed = np.random.SeedSequence([self._seed, step, numbers.start, attempt])
            config = RolloutConfig(
                episodes_per_task=self.config.group_size,
                seed=int(seed.generate_state(1)[0]),
                workers=self.config.workers,
                batch_size=self.config.batch_size,
                timeout_seconds=self.config.timeout_seconds,
            )
            finish = partial(self._finish, first=numbers.start)
            for job, one in play_episodes(
                self._make_policy,
                tasks,
                config,
                finish,
                session=self.session,
                cache=self._cache,
                done=jobs - wanted,
                make_session=self._make_session,
            ):
                played[job] = one
            wanted = {job for job in wanted if played[job].error}
            found.failures.update(str(played[job].trajectory.end_reason) for job in wanted)
        for i in mine:
            yield [played[i, k] for k in range(self.config.group_size)]

    def _finish(self, episode: OngoingEpisode, *, first: int) -> tuple[tuple[int, int], Experience]:
        """Score an episode, and keep of its policy what is learned from."""
        trajectory, error = episode.trajectory, episode.error
        roles: list[Role] = episode.policy.roles  # type: ignore[attr-defined]
        if error is None and trajectory.end_reason is EndReason.PROMPT_TOO_LONG:
            error = "the overview and the question leave no room for a reply: use a smaller budget"
        experience = Experience(
            group=first + episode.place,
            trajectory=trajectory,
            reward=Reward(0.0) if error else self._score(trajectory),
            seconds=episode.seconds,
            samples=() if error else tuple(Sample.of(role.context, role.clips) for role in roles),
            error=error,
        )
        return (episode.place, episode.number), experience

    def _score(self, trajectory: Trajectory) -> Reward:
        reward = self._reward(trajectory)
        if not math.isfinite(reward.value):
            raise ConfigError(
                f"task {trajectory.task.id}: the reward must be finite, got {reward.value}: mend "
                "the reward function"
            )
        return reward

    def _task(self, number: int) -> VideoTask:
        """The question that is drawn as that number: epoch after epoch in another order."""
        epoch, place = divmod(number, len(self._tasks))
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._tasks))
        return self._tasks[int(order[place])]

    def _sort(self, group: list[Experience], found: Collected) -> bool:
        """Keep a group or count why not, and let go of its frames."""
        is_sound = not any(one.error for one in group)
        if is_sound and self._teaches(group):
            found.experiences += group
            found.all_played += group
            return True
        found.failed_groups += not is_sound
        found.uninformative_groups += is_sound
        found.all_played += [
            replace(one, samples=tuple(sample.without_frames() for sample in one.samples))
            for one in group
        ]
        return False
