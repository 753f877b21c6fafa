"""Episodes without pixels: planned scenes, of which no video was made."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from agents.learning.from_nothing.examples import Example, Stage
from agents.llm.model import VisionLanguageModel
from videoseek_env.datasets.needle import plan_video_tasks
from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.errors import VideoDecodeError
from videoseek_env.task import VideoTask
from videoseek_env.video.cache import ClipCache
from videoseek_env.video.clip import Clip, ClipRef
from videoseek_env.video.info import VideoInfo
from videoseek_env.video.reader import VideoReader


class PlannedVideo:
    """What is known of a needle video before it is made: everything but its pixels."""

    backend = "planned"

    def __init__(self, task: VideoTask, config: NeedleConfig) -> None:
        """Take the measures from a task about the video."""
        fps, seconds = config.fps, task.duration_seconds or 0.0
        count = round(seconds * fps)
        self.path = task.video
        self.info = VideoInfo(count, seconds, 0.0, config.height, config.width, fps, "planned")
        self.timestamps = np.arange(count) / fps
        self.keyframe_indices = np.zeros(1, np.int64)

    def read(
        self, indices: Sequence[int], height: int | None = None, width: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """There is nothing to decode.

        Raises:
            VideoDecodeError: Always.
        """
        raise VideoDecodeError(self.path, self.backend, "it was never made", "Load its set.")

    def close(self) -> None:
        """Nothing is open."""


class NoPixels(ClipCache):
    """Gives clips the frames that nobody looks at: none."""

    def __init__(self) -> None:
        super().__init__(0)

    def load(self, ref: ClipRef, reader: VideoReader) -> Clip:
        """A clip of no frames."""
        frames = np.empty((0, ref.height, ref.width, 3), np.uint8)
        return Clip(frames, np.array(ref.timestamps_seconds), ref.segment, ref.strategy)


def imagine(
    model: VisionLanguageModel,
    config: NeedleConfig,
    *,
    slip_probability: float,
    drill_probability: float,
    seed: int,
) -> Iterator[Example]:
    """Demonstrations and drills of scene after scene, without end.

    Args:
        model: Whose tokens.
        config: What the scenes are like; `videos` does not matter.
        slip_probability: As for `Demonstrator`.
        drill_probability: The share of drills, in [0, 1].
        seed: Of slips and drills.
    """
    stage = Stage(model, cache=NoPixels(), slip_probability=slip_probability)
    rng = np.random.default_rng([seed, 4])
    for index in itertools.count():
        for task in plan_video_tasks(config, index):
            is_drill, video = rng.random() < drill_probability, PlannedVideo(task, config)
            episode = int(rng.integers(2**31))
            if is_drill:
                yield stage.drill(task, video, seed=episode)
            else:
                yield from stage.demonstrate(task, video, seed=episode)
