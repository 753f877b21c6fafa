"""Many episodes at once: environments on threads, with one cache of decoded clips among them."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.registration import make_video_seek
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.env import DEFAULT_CACHE_BYTES, ObservationDict, Score, VideoSeekEnv
from videoseek_env.errors import ConfigError, EpisodeError, VideoDecodeError
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory
from videoseek_env.video import Backend, ClipCache
from videoseek_env.video.parallel import available_cores, run_all

StepResult = tuple[ObservationDict, float, bool, bool, dict[str, Any]]
"""What an environment's `step` returns: observation, reward, terminated, truncated, info."""

_Flags = npt.NDArray[np.bool_]
_Result = TypeVar("_Result")


class ObservationBatch(TypedDict):
    """What `reset` and `step` return: an entry per environment, the arrays the caller's own."""

    text: tuple[str, ...]
    frames: tuple[npt.NDArray[np.uint8], ...]
    timestamps: tuple[npt.NDArray[np.float64], ...]


class VideoSeekVectorEnv(VectorEnv[ObservationBatch, Sequence[str], npt.NDArray[Any]]):
    """Environments that step in parallel and decode each clip once for all of them.

    Each is a `VideoSeekEnv`, whose docstring says what an episode is. Between calls no thread runs.

    Observation: a dictionary of tuples, one entry per environment: `text` (str), `frames` (uint8
        [N, H, W, 3]) and `timestamps` (float64 [N]). Gymnasium batches spaces that it does not know
        in the same way; clips of unlike length and size can't be stacked.
    Action: a sequence of replies, one per environment.
    Reward, termination, truncation: arrays [num_envs] of float64, bool and bool.
    Info: as Gymnasium batches it: an array [num_envs] per key, and a mask of who has it in `_key`.
    Autoreset: in NEXT_STEP, the step after an episode's last one ignores its reply and resets. In
        SAME_STEP the last step resets, and info has what it would have returned as `final_obs` and
        `final_info`. In DISABLED nothing resets, and a step too many is an error. An automatic
        reset draws its task. The mode stands in `metadata["autoreset_mode"]`.
    Reset: `seed` is an integer, of which environment i gets seed + i, or a sequence. Options:
        `task_id` pins the task of all, `task_ids` that of each (None draws it); `reset_mask` (bool
        [num_envs]) resets some, and the others show what they showed last.

    Replies come at different times: `step_subset` and `reset_subset` act on the environments that
    they name and leave the others alone. Several threads may call them. Wrappers don't see them.

    A clip that can't be decoded ends the episode of its environment as `video_failed`, with the
    cause as `error` in its info. Any other exception, such as one of the reward function, or of a
    video that can't be opened at a reset, is raised once the other environments are done, with a
    note that names the environment.
    """

    def __init__(
        self,
        num_envs: int,
        tasks: Sequence[VideoTask],
        reward: Callable[[Trajectory], Score],
        *,
        config: SessionConfig | None = None,
        backend: Backend = "auto",
        cache: ClipCache | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        workers: int | None = None,
    ) -> None:
        """Prepare environments without opening a video.

        Args:
            num_envs: Environments, at least 1.
            tasks: What they draw from; ids are unique.
            reward: Scores a finished trajectory; called from several threads.
            config: The rules of an episode.
            backend: The video decoder.
            cache: Decoded clips of all environments; the default is a new one of 256 MiB.
            render_mode: None, "rgb_array" or "ansi".
            autoreset_mode: What follows the end of an episode: a mode, or its value.
            workers: Most environments at work at a time; None means one per core.

        Raises:
            ConfigError: If a number is below 1, or a window is asked for.
            TaskError: If there are no tasks, or two share an id.
            ValueError: If a mode is unknown.
        """
        if num_envs < 1 or (workers is not None and workers < 1):
            raise ConfigError(
                f"num_envs and workers must be at least 1, got {num_envs} and {workers}"
            )
        if render_mode == "human":
            raise ConfigError(
                'threads can\'t share a window; use render_mode="rgb_array" here, or "human" with '
                "gymnasium.make"
            )
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = VideoSeekEnv.metadata | {"autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.cache = ClipCache(DEFAULT_CACHE_BYTES) if cache is None else cache
        self.workers = workers or available_cores()
        self.envs = [
            VideoSeekEnv(
                tasks,
                reward,
                config=config,
                backend=backend,
                cache=self.cache,
                render_mode=render_mode,
            )
            for _ in range(num_envs)
        ]
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._locks = [threading.RLock() for _ in range(num_envs)]
        self._is_due_to_reset = [False] * num_envs

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override] # as SyncVectorEnv has it
        """The seed of each environment."""
        return self.get_attr("np_random_seed")

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each environment."""
        return self.get_attr("np_random")

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[ObservationBatch, dict[str, Any]]:
        """Start an episode in every environment, or where `options["reset_mask"]` is true.

        Raises:
            ConfigError: If seeds, mask or task ids are not one per environment.
            EpisodeError: If the vector environment is closed.
            TaskError: If there is no such task, or an option is unknown.
            TypeError: If the mask is not an array of bool.
            VideoDecodeError: If a video can't be decoded; the other environments were reset.
        """
        options = dict(options or {})
        is_chosen = self._is_chosen(options.pop("reset_mask", None))
        own_options = self._options_of_each(options)
        seeds = self._seeds(seed)

        def start(index: int) -> tuple[ObservationDict, dict[str, Any]]:
            if is_chosen[index]:
                return self._reset_one(index, seeds[index], own_options[index])
            return self.envs[index]._observation_dict(), {}

        observations, infos = zip(*self._for_each(range(self.num_envs), start), strict=True)
        return self._batch(observations), self._batch_infos(infos)

    def reset_subset(
        self, options: Mapping[int, dict[str, Any] | None]
    ) -> dict[int, tuple[ObservationDict, dict[str, Any]]]:
        """Start an episode in some environments, in parallel.

        Args:
            options: By environment, the options of its own `reset`, such as `{"task_id": ...}`.

        Returns:
            By environment, what its own `reset` returns.

        Raises:
            EpisodeError: If the vector environment is closed.
            IndexError: If there is no such environment.
            TaskError: If there is no such task, or an option is unknown.
            VideoDecodeError: If a video can't be decoded; the other environments were reset.
        """
        indices = self._existing(options)
        results = self._for_each(
            indices, lambda index: self._reset_one(index, None, options[index])
        )
        return dict(zip(indices, results, strict=True))

    def step(
        self, actions: Sequence[str]
    ) -> tuple[ObservationBatch, npt.NDArray[np.float64], _Flags, _Flags, dict[str, Any]]:
        """Carry out a reply in every environment.

        Raises:
            ConfigError: If there is not one reply per environment.
            EpisodeError: If an episode is over or has not started, or the vector environment is
                closed.
            TypeError: If an action is not a string.
            VideoDecodeError: If the video of an automatic reset can't be decoded.
        """
        if isinstance(actions, str | Mapping):
            raise TypeError(
                f"expected a sequence of {self.num_envs} replies, got {type(actions).__name__}; "
                "for some of the environments, use step_subset"
            )
        self._require_one_each("replies", actions)
        results = self._for_each(
            range(self.num_envs), lambda index: self._step_one(index, actions[index])
        )
        observations, rewards, terminations, truncations, infos = zip(*results, strict=True)
        return (
            self._batch(observations),
            np.array(rewards, np.float64),
            np.array(terminations, np.bool_),
            np.array(truncations, np.bool_),
            self._batch_infos(infos),
        )

    def step_subset(self, actions: Mapping[int, str]) -> dict[int, StepResult]:
        """Carry out replies in some environments, in parallel.

        The autoreset mode holds for each environment on its own.

        Args:
            actions: Replies by environment.

        Returns:
            By environment, what its own `step` returns.

        Raises:
            EpisodeError: If an episode is over or has not started, or the vector environment is
                closed.
            IndexError: If there is no such environment.
            TypeError: If an action is not a string.
            VideoDecodeError: If the video of an automatic reset can't be decoded.
        """
        indices = self._existing(actions)
        results = self._for_each(indices, lambda index: self._step_one(index, actions[index]))
        return dict(zip(indices, results, strict=True))

    def render(self) -> tuple[Any, ...]:
        """What each environment's own `render` returns."""
        return self.call("render")

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of each environment, in parallel, or get an attribute of each."""

        def call_one(index: int) -> Any:
            attribute = self.envs[index].get_wrapper_attr(name)
            return attribute(*args, **kwargs) if callable(attribute) else attribute

        return tuple(self._for_each(range(self.num_envs), call_one))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute: a list or tuple holds one value per environment, else all get it.

        Raises:
            ConfigError: If there is not one value per environment.
        """
        each = values if isinstance(values, list | tuple) else [values] * self.num_envs
        self._require_one_each("values", each)
        self._for_each(
            range(self.num_envs), lambda index: self.envs[index].set_wrapper_attr(name, each[index])
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment: those at work finish, those that wait for a thread don't begin.

        `close` calls this, and does nothing the second time.
        """
        self.closed = True
        for lock, env in zip(self._locks, self.envs, strict=True):
            with lock:
                env.close()

    def _reset_one(
        self, index: int, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObservationDict, dict[str, Any]]:
        result = self.envs[index].reset(seed=seed, options=options)
        self._is_due_to_reset[index] = False
        return result

    def _step_one(self, index: int, action: str) -> StepResult:
        if self._is_due_to_reset[index]:
            observation, info = self._reset_one(index)
            return observation, 0.0, False, False, info
        env = self.envs[index]
        try:
            observation, reward, terminated, truncated, info = env.step(action)
        except VideoDecodeError as error:
            # that ended the episode; one more step says so and scores it
            observation, reward, terminated, truncated, info = env.step(action)
            info["error"] = str(error)
        if terminated or truncated:
            self._is_due_to_reset[index] = self.autoreset_mode is AutoresetMode.NEXT_STEP
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                final = {"final_obs": observation, "final_info": info}
                observation, info = self._reset_one(index)
                info = final | info
        return observation, reward, terminated, truncated, info

    def _for_each(self, indices: Sequence[int], work: Callable[[int], _Result]) -> list[_Result]:
        """What `work` returns for each environment; where it raises, the others are done first."""
        results: dict[int, _Result] = {}
        errors: dict[int, Exception] = {}

        def run(places: range) -> None:
            for index in (indices[place] for place in places):
                try:
                    with self._locks[index]:
                        if self.closed:
                            raise EpisodeError("the vector environment is closed; make a new one")
                        results[index] = work(index)
                except Exception as error:  # raised below
                    errors[index] = error

        run_all(run, [range(place, place + 1) for place in range(len(indices))], self.workers)
        if errors:
            failed = sorted(errors)
            errors[failed[0]].add_note(f"in environment {failed[0]}; failed in all: {failed}")
            raise errors[failed[0]]
        return [results[index] for index in indices]

    def _batch(self, observations: Sequence[ObservationDict]) -> ObservationBatch:
        return {
            "text": tuple(observation["text"] for observation in observations),
            "frames": tuple(observation["frames"] for observation in observations),
            "timestamps": tuple(observation["timestamps"] for observation in observations),
        }

    def _batch_infos(self, infos: Iterable[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for index, info in enumerate(infos):
            batch = self._add_info(batch, info, index)
        return batch

    def _existing(self, indices: Iterable[int]) -> list[int]:
        chosen = [operator.index(index) for index in indices]
        if wrong := [index for index in chosen if not 0 <= index < self.num_envs]:
            raise IndexError(f"no environments {wrong}; there are {self.num_envs}, from 0")
        return chosen

    def _is_chosen(self, mask: _Flags | None) -> _Flags:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"reset_mask must be an array of bool, got {mask!r}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ConfigError(
                f"reset_mask must have shape ({self.num_envs},) and choose at least one, got {mask}"
            )
        return mask

    def _options_of_each(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        if "task_ids" not in options:
            return [options] * self.num_envs
        task_ids = options.pop("task_ids")
        if "task_id" in options or isinstance(task_ids, str):
            raise ConfigError("give either task_id, or task_ids as a sequence")
        self._require_one_each("task_ids", task_ids)
        return [options if task is None else options | {"task_id": task} for task in task_ids]

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return range(int(seed), int(seed) + self.num_envs)
        self._require_one_each("seeds", seed)
        return seed

    def _require_one_each(self, name: str, values: Sequence[Any]) -> None:
        if len(values) != self.num_envs:
            raise ConfigError(
                f"expected {self.num_envs} {name}, one per environment, got {len(values)}"
            )


def make_video_seek_vector(
    num_envs: int = 1,
    tasks: str | Sequence[VideoTask] = "needle",
    *,
    reward: Callable[[Trajectory], Score] | None = None,
    config: SessionConfig | None = None,
    backend: Backend = "auto",
    cache: ClipCache | None = None,
    render_mode: str | None = None,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    workers: int | None = None,
    **rules: Any,
) -> VideoSeekVectorEnv:
    """What `gymnasium.make_vec("VideoSeek-v0", num_envs=..., ...)` calls.

    Args:
        num_envs: Environments, at least 1.
        tasks: Tasks, or the name of a dataset that loads without arguments.
        reward: Scores a finished trajectory; by default the trajectory-guided reward.
        config: The rules of an episode, or give them one by one:
        **rules: Any field of `SessionConfig`, such as `budget="qwen3-vl"` or `max_turns=12`.
        backend: As for `VideoSeekVectorEnv`, and so are all that follow.
        cache: Decoded clips of all environments.
        render_mode: None, "rgb_array" or "ansi".
        autoreset_mode: What follows the end of an episode.
        workers: Most environments at work at a time.

    Raises:
        TypeError: If a rule is unknown, or given beside `config`.
    """
    single = make_video_seek(tasks, config=config, **rules)
    return VideoSeekVectorEnv(
        num_envs,
        list(single.tasks.values()),
        TrajectoryGuidedReward() if reward is None else reward,
        config=single.config,
        backend=backend,
        cache=cache,
        render_mode=render_mode,
        autoreset_mode=autoreset_mode,
        workers=workers,
    )
