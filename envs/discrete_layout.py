"""The fixed shapes of a discrete episode, and what its actions mean as replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from string import ascii_uppercase

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.discrete_features import CODE_BITS, NO_TIME, sheet_shape
from videoseek_env.action import MIN_CROP_SECONDS, write_answer, write_crop
from videoseek_env.budget import FrameSize
from videoseek_env.errors import ConfigError
from videoseek_env.segment import Segment
from videoseek_env.video.clip import STRATEGIES

THOUGHT = "Chosen by number."
"""What stands in the replies' `<think>`: a reply needs one."""

_CELL = FrameSize(32, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteLayout:
    """How large everything is, the same for all tasks of an environment.

    Raises:
        ConfigError: If a number is below one, or there are more options than letters.
    """

    start_bins: int = 10
    """Equal parts of the video: where a crop may start, and what coverage is told of."""
    length_bins: int = 3
    """Lengths of a crop: 1, 2, 4, ... parts."""
    max_options: int = 4
    """Answers to choose from, at most 26."""
    overview_frames: int = 20
    """Cells for the overview; of more frames, some are picked evenly."""
    overview_size: FrameSize = _CELL
    """Pixels of each cell."""
    clip_frames: int = 8
    """Cells for the crop on view; of more frames, some are picked evenly."""
    clip_size: FrameSize = _CELL
    """Pixels of each cell."""
    question_words: int = 24
    """Words of the question that are kept."""
    option_words: int = 2
    """Words of each option that are kept."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ConfigError(f"{field.name} must be at least 1, got {value}")
        if self.max_options > len(ascii_uppercase):
            raise ConfigError(f"max_options must be at most 26, got {self.max_options}")

    def observation_space(self) -> spaces.Dict:
        """Arrays of one rank, or images; see `VideoSeekDiscreteEnv`."""
        signs = {
            "question": self.question_words * CODE_BITS,
            "options": self.max_options * self.option_words * CODE_BITS,
        }
        times = {"overview_times": self.overview_frames, "clip_times": self.clip_frames}
        shares = {"coverage": self.start_bins * len(STRATEGIES), "turn": 1}
        return spaces.Dict(
            {
                "overview": _image(sheet_shape(self.overview_frames, self.overview_size)),
                "clip": _image(sheet_shape(self.clip_frames, self.clip_size)),
                **{name: _box(-1, 1, size) for name, size in signs.items()},
                **{name: _box(NO_TIME, 1, size) for name, size in times.items()},
                **{name: _box(0, 1, size) for name, size in shares.items()},
            }
        )

    def action_space(self) -> spaces.MultiDiscrete:
        """Start bin, length bin, strategy, and 0 to crop or the number of the answer."""
        sizes = [self.start_bins, self.length_bins, len(STRATEGIES), 1 + self.max_options]
        return spaces.MultiDiscrete(sizes)

    def reply(self, action: Sequence[int] | npt.NDArray[np.integer], video: Segment) -> str:
        """The text reply that an action stands for.

        Args:
            action: A member of the action space.
            video: The video's timeline.
        """
        start_bin, length_bin, strategy, answer = map(int, action)
        if answer > 0:
            return write_answer(THOUGHT, ascii_uppercase[answer - 1])
        segment = self.segment(start_bin, length_bin, video)
        return write_crop(THOUGHT, segment, STRATEGIES[strategy])

    def segment(self, start_bin: int, length_bin: int, video: Segment) -> Segment:
        """The stretch that a crop asks for: cut at the video's end, a second long at least.

        >>> DiscreteLayout().segment(8, 2, Segment(0.0, 60.0))
        Segment(start_seconds=48.0, end_seconds=60.0)
        """
        part = video.duration_seconds / self.start_bins
        start = video.start_seconds + start_bin * part
        end = min(start + max(2**length_bin * part, MIN_CROP_SECONDS), video.end_seconds)
        # A video shorter than a second has no crop; the session says so to the agent.
        start = max(min(start, end - MIN_CROP_SECONDS), video.start_seconds)
        return Segment(start, end)

    def shown_share(self, crop: Segment, video: Segment) -> npt.NDArray[np.float32]:
        """The share of each part of the video that a crop shows, in [0, 1]: [start_bins]."""
        edges = np.linspace(video.start_seconds, video.end_seconds, self.start_bins + 1)
        shown = np.clip(edges, crop.start_seconds, crop.end_seconds)
        share: npt.NDArray[np.float32] = (np.diff(shown) / np.diff(edges)).astype(np.float32)
        return share.clip(0, 1)


def _image(shape: tuple[int, int, int]) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def _box(low: float, high: float, size: int) -> spaces.Box:
    return spaces.Box(low, high, (size,), np.float32)
