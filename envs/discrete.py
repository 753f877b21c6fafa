"""The episode with fixed shapes: arrays to see, numbers to act with, for classic RL libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.discrete_features import contact_sheet, encode_words, evenly_picked, times_as_shares
from envs.discrete_layout import DiscreteLayout
from envs.discrete_tasks import PEEPHOLE, PEEPHOLE_LAYOUT, load_card_tasks
from envs.registration import make_video_seek
from rewards.credit import CoverageShaping
from rewards.grounding import clue_intervals, coverage
from rewards.intervals import Interval
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.budget import FrameSize
from videoseek_env.env import Score, VideoSeekEnv
from videoseek_env.errors import TaskError
from videoseek_env.segment import Segment
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import Backend, ClipCache
from videoseek_env.video.clip import STRATEGIES, Clip, Strategy

ObservationArrays = dict[str, npt.NDArray[Any]]
"""The members of the observation space."""
ActionArray = npt.NDArray[np.integer[Any]]
"""A member of the action space."""


class VideoSeekDiscreteEnv(gymnasium.Env[ObservationArrays, ActionArray]):
    """`VideoSeekEnv` for learners that need fixed shapes: multiple choice only.

    Each action is turned into a text reply and carried out by the same session, so it means and
    earns what that text would.

    Observation: a dictionary, its sizes given by `DiscreteLayout`.
        `overview`: uint8 [3, H, W], RGB, the overview's frames side by side, row by row, black
        where there is none (`discrete_features.split_sheet` takes them apart). It stays on view.
        `clip`: the same of the crop on view; black before the first one and at the end.
        `overview_times`, `clip_times`: float32, each frame's time, 0 the video's start, 1 its end,
        -1 where there is no frame.
        `question`, `options`: float32 in {-1, 0, 1}, the code of each word in order
        (`discrete_features.encode_words`); option by option, 0 where there is none.
        `coverage`: float32 in [0, 1], [start_bins * 3], the share of each part of the video that a
        crop of each strategy (coarse, medium, fine) has shown.
        `turn`: float32 [1], the share of the turns that is used up.
    Action: MultiDiscrete: start bin; length bin (2**i parts of the video); strategy; and 0 to crop
        that, or k to answer with option k, which leaves the first three unread. An option that the
        task does not have is a wrong answer.
    Reward: 0 until the last step, which pays `reward(trajectory).value`; with `shaping`, each step
        also pays the discounted gain in how much of the clues was shown.
    Termination, truncation and info: those of `VideoSeekEnv`. With `limits_terminate`, running out
        of turns, clips or context terminates.
    Reset: that of `VideoSeekEnv`.
    """

    metadata = VideoSeekEnv.metadata

    def __init__(
        self,
        tasks: Sequence[VideoTask],
        reward: Callable[[Trajectory], Score],
        *,
        layout: DiscreteLayout | None = None,
        shaping: CoverageShaping | None = None,
        limits_terminate: bool = False,
        config: SessionConfig | None = None,
        backend: Backend = "auto",
        cache: ClipCache | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Prepare an environment without opening a video.

        Args:
            tasks: What `reset` draws from: multiple choice, each with its options.
            reward: Scores a finished trajectory.
            layout: The sizes of observations and actions.
            shaping: Pays for showing clues, turn by turn, at no policy's gain or loss over the
                episode; `gamma` should be the learner's.
            limits_terminate: Whether a limit that ends the episode terminates it. Observations tell
                the turn, so a learner that bootstraps truncated episodes would pay for stalling.
            config: The rules of an episode.
            backend: The video decoder.
            cache: Decoded clips, as in `VideoSeekEnv`.
            render_mode: None, "human", "rgb_array" or "ansi".

        Raises:
            TaskError: If there are no tasks, two share an id, or one is not multiple choice with at
                most `max_options` options.
            ValueError: If the render mode is unknown.
        """
        self.layout = layout or DiscreteLayout()
        for task in tasks:
            _check_choices(task, self.layout.max_options)
        self.text_env = VideoSeekEnv(
            tasks, reward, config=config, backend=backend, cache=cache, render_mode=render_mode
        )
        self.render_mode = render_mode
        self._shaping = shaping
        self._limits_terminate = limits_terminate
        members = self.layout.observation_space()
        self.observation_space = cast("spaces.Space[ObservationArrays]", members)
        self.action_space = self.layout.action_space()
        self._video = Segment(0.0, 1.0)
        self._still: ObservationArrays = {}
        self._coverage = np.zeros((self.layout.start_bins, len(STRATEGIES)), np.float32)
        self._shown: list[Interval] = []
        self._potential = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObservationArrays, dict[str, Any]]:
        """Start an episode; arguments and errors are those of `VideoSeekEnv.reset`."""
        super().reset(seed=seed)
        _, info = self.text_env.reset(seed=seed, options=options)
        session = self.text_env.session
        self._video = Segment(session.start_seconds, session.duration_seconds)
        self._coverage[:] = 0
        self._shown, self._potential = [], 0.0
        self._still = self._still_arrays(session.task, self.text_env.observation.clip)
        return self._observe(None), info

    def step(
        self, action: ActionArray
    ) -> tuple[ObservationArrays, float, bool, bool, dict[str, Any]]:
        """Carry out an action.

        Raises:
            EpisodeError: If the episode is over, or none was started.
            ValueError: If the action is not in the action space.
            VideoDecodeError: If the frames can't be decoded; the next step then ends the episode.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"expected an action of {self.action_space}, got {action!r}")
        reply = self.layout.reply(action, self._video)
        _, reward, terminated, truncated, info = self.text_env.step(reply)
        is_over = terminated or truncated
        clip = None if is_over else self.text_env.observation.clip
        if clip is not None:
            self._note(clip)
        reward += self._shaping_reward(is_over=is_over)
        if self._limits_terminate and truncated and _is_limit(info):
            terminated, truncated = True, False
        return self._observe(clip), reward, terminated, truncated, info

    def render(self) -> Any:
        """What `VideoSeekEnv.render` shows of the episode so far."""
        return self.text_env.render()

    def close(self) -> None:
        """Free the decoder and the window. An episode on the way is abandoned."""
        self.text_env.close()

    def _still_arrays(self, task: VideoTask, overview: Clip | None) -> ObservationArrays:
        """What stays the same throughout the episode."""
        layout = self.layout
        options = [encode_words(option, layout.option_words) for option in task.options]
        missing = layout.max_options - len(options)
        options += [encode_words("", layout.option_words)] * missing
        return {
            "question": encode_words(task.question, layout.question_words),
            "options": np.concatenate(options),
            **self._picture("overview", overview, layout.overview_frames, layout.overview_size),
        }

    def _picture(
        self, name: str, clip: Clip | None, cells: int, size: FrameSize
    ) -> ObservationArrays:
        """A clip's contact sheet and times."""
        frames, times = (clip.frames, clip.timestamps_seconds) if clip else _NOTHING
        picked = evenly_picked(len(frames), cells)
        return {
            name: contact_sheet(frames[picked], size, cells=cells),
            f"{name}_times": times_as_shares(times[picked], self._video, cells=cells),
        }

    def _observe(self, clip: Clip | None) -> ObservationArrays:
        """Arrays of the caller's own."""
        layout, session = self.layout, self.text_env.session
        turns = len(session.trajectory.turns) / session.config.max_turns
        return {
            **{name: array.copy() for name, array in self._still.items()},
            **self._picture("clip", clip, layout.clip_frames, layout.clip_size),
            "coverage": self._coverage.reshape(-1).copy(),
            "turn": np.array([turns], np.float32),
        }

    def _note(self, crop: Clip) -> None:
        """Remember what a crop has shown."""
        segment = crop.segment
        column = self._coverage[:, STRATEGIES.index(cast("Strategy", crop.strategy))]
        np.maximum(column, self.layout.shown_share(segment, self._video), out=column)
        self._shown.append((segment.start_seconds, segment.end_seconds))

    def _shaping_reward(self, *, is_over: bool) -> float:
        """The potential's discounted gain; it is 0 at the end."""
        if self._shaping is None:
            return 0.0
        truth = clue_intervals(self.text_env.session.task)
        before, self._potential = self._potential, 0.0 if is_over else coverage(self._shown, truth)
        gain = self._shaping.gamma * self._potential - before
        return self._shaping.weight * gain


def make_video_seek_discrete(
    tasks: str | Sequence[VideoTask] | None = None,
    *,
    reward: Callable[[Trajectory], Score] | None = None,
    layout: DiscreteLayout | None = None,
    shaping: CoverageShaping | None = None,
    limits_terminate: bool = False,
    config: SessionConfig | None = None,
    backend: Backend = "auto",
    cache: ClipCache | None = None,
    render_mode: str | None = None,
    **rules: Any,
) -> VideoSeekDiscreteEnv:
    """What `gymnasium.make("VideoSeekDiscrete-v0", ...)` calls; see `VideoSeekDiscreteEnv`.

    Args:
        tasks: Tasks, the name of a dataset, or None for a few that are easy to learn
            (`envs.discrete_tasks`), made for the budget.
        reward: Scores a finished trajectory; by default the trajectory-guided reward.
        layout: The sizes of observations and actions; None fits the budget `PEEPHOLE`, or takes
            `DiscreteLayout()` for another one.
        shaping: Pays for showing clues, turn by turn.
        limits_terminate: Whether a limit that ends the episode terminates it.
        config: The rules of an episode, or give them one by one:
        **rules: Any field of `SessionConfig`; the budget is `PEEPHOLE` by default.
        backend: The video decoder.
        cache: Decoded clips, to be shared among environments.
        render_mode: None, "human", "rgb_array" or "ansi".

    Raises:
        DatasetError: If there are no tasks given, and no minute of video suits the budget.
        TaskError: If a task is not multiple choice, or has too many options.
        TypeError: If a rule is unknown, or given beside `config`.
    """
    if config is None:
        rules = {"budget": PEEPHOLE} | rules
    if tasks is None:
        tasks = load_card_tasks(budget=config.budget if config else rules["budget"])
    ordinary = make_video_seek(tasks, config=config, **rules)
    if layout is None and ordinary.config.budget == PEEPHOLE:
        layout = PEEPHOLE_LAYOUT
    return VideoSeekDiscreteEnv(
        list(ordinary.tasks.values()),
        TrajectoryGuidedReward() if reward is None else reward,
        layout=layout,
        shaping=shaping,
        limits_terminate=limits_terminate,
        config=ordinary.config,
        backend=backend,
        cache=cache,
        render_mode=render_mode,
    )


_NOTHING = np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0)
"""The frames and times where there is no clip."""


def _is_limit(info: dict[str, Any]) -> bool:
    return EndReason(info["end_reason"]).is_exceeded


def _check_choices(task: VideoTask, max_options: int) -> None:
    if not task.kind.is_multiple_choice or not 0 < len(task.options) <= max_options:
        raise TaskError(
            f"task {task.id!r}: expected multiple choice with 1 to {max_options} options, got "
            f"{len(task.options)} options and the kind {task.kind.value!r}; leave it out, or set "
            "max_options"
        )
