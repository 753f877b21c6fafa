"""Episodes without a video file: replies played in a real session over blank frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from videoseek_env.budget import Budget, CropQuotas, Quota
from videoseek_env.session import SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import Clip, ClipCache, ClipRef, VideoInfo, VideoReader, load_clip

BUDGET = Budget(
    name="testing",
    patch_px=16,
    overview=Quota(10, 10),
    crops=CropQuotas(coarse=Quota(4, 4), medium=Quota(8, 4), fine=Quota(16, 4)),
    overview_frames=20,
    max_crop_frames=4,
    context_tokens=1_000_000,
    reserve_tokens=0,
)
"""Room for any text; a crop is four frames, however long."""

RULES = SessionConfig(budget=BUDGET)
"""The usual rules: six turns, twelve clips."""


@dataclass(frozen=True, slots=True)
class BlankVideo:
    """A `VideoReader` of black frames, for sessions that need no file."""

    duration_seconds: float
    start_seconds: float = 0.0
    """Presentation time of the first frame."""
    fps: float = 8.0
    path: str = "video.mp4"
    backend: str = "blank"

    @property
    def info(self) -> VideoInfo:
        """What the video is."""
        return VideoInfo(
            frame_count=len(self.timestamps),
            duration_seconds=self.duration_seconds,
            start_seconds=self.start_seconds,
            height=32,
            width=32,
            fps=self.fps,
            codec="blank",
        )

    @property
    def timestamps(self) -> npt.NDArray[np.float64]:
        """Presentation time of each frame in seconds, ascending, read-only, [frame_count]."""
        return _timestamps(self.start_seconds, self.duration_seconds, self.fps)

    @property
    def keyframe_indices(self) -> npt.NDArray[np.int64]:
        """Every frame decodes by itself, [frame_count]."""
        return np.arange(len(self.timestamps))

    def read(
        self, indices: Sequence[int], height: int | None = None, width: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Black frames, uint8 [N, H, W, 3], read-only."""
        return np.broadcast_to(np.uint8(0), (len(indices), height or 32, width or 32, 3))

    def close(self) -> None:
        """Nothing is open."""


@lru_cache(maxsize=256)
def _timestamps(
    start_seconds: float, duration_seconds: float, fps: float
) -> npt.NDArray[np.float64]:
    count = max(1, int(duration_seconds * fps))
    timestamps = start_seconds + np.arange(count) / fps
    timestamps.flags.writeable = False
    return timestamps


class _NoCache(ClipCache):
    """Blank frames cost nothing to make anew, and have no file to be known by."""

    def load(self, ref: ClipRef, reader: VideoReader) -> Clip:
        return load_clip(ref, reader)


def play(
    task: VideoTask,
    replies: Sequence[str],
    *,
    rules: SessionConfig = RULES,
    ending: EndReason | None = None,
    start_seconds: float = 0.0,
    fps: float = 8.0,
) -> Trajectory:
    """The trajectory of an agent that writes these replies, in a real session over blank frames.

    Args:
        task: A task that states its duration, in seconds.
        replies: What the agent writes; those after the episode's end are not read.
        rules: Limits of the episode.
        ending: How the host ends an episode that still runs after the last reply; None lets it run.
        start_seconds: Presentation time of the video's first frame.
        fps: Frames per second of the video.

    Raises:
        ValueError: If the task states no duration.

    >>> from rewards.testing import example_task
    >>> from videoseek_env.task import TaskKind
    >>> task = example_task(TaskKind.SINGLE_CLUE_TOOL)
    >>> play(task, ["<think>So.</think><answer>B</answer>"]).end_reason
    <EndReason.ANSWERED: 'answered'>
    """
    if task.duration_seconds is None:
        raise ValueError(f"task {task.id!r} states no duration_seconds; a blank video needs one")
    video = BlankVideo(task.duration_seconds, start_seconds, fps, path=task.video)
    session = VideoSession(task, video, rules, cache=_NoCache(0))
    session.start()
    for reply in replies:
        if session.end_reason is not None:
            break
        session.reply(reply)
    if ending is not None:
        session.abandon(ending)
    return session.trajectory
