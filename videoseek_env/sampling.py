"""Which frames an agent gets, and at what size, decided before anything is decoded."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from videoseek_env.budget import (
    Budget,
    Quota,
    clip_size,
    frame_count,
    overview_frame_count,
    visual_tokens,
)
from videoseek_env.errors import BudgetError, VideoDecodeError
from videoseek_env.segment import Segment
from videoseek_env.video.clip import ClipRef, ClipStrategy, Strategy
from videoseek_env.video.reader import VideoReader

OverviewMode = Literal["exact", "keyframe"]
"""`exact` frames, evenly spaced, or the `keyframe` nearest to each, which is many times cheaper."""


def plan_overview(reader: VideoReader, budget: Budget, mode: OverviewMode = "exact") -> ClipRef:
    """The overview of a whole video.

    `"keyframe"` takes the nearest keyframe where one lies within half the spacing of the wanted
    frame, and the wanted frame itself elsewhere; its timestamps are those of the frames really
    taken.
    """
    info, timestamps = reader.info, reader.timestamps
    count = overview_frame_count(info.duration_seconds, info.frame_count, budget=budget)
    indices = evenly_spaced(timestamps, 0, info.frame_count - 1, count)
    if mode == "keyframe":
        indices = snap_to_keyframes(indices, timestamps, reader.keyframe_indices)
    whole = Segment(info.start_seconds, info.end_seconds)
    return _plan(reader, indices, whole, "overview", budget.overview, budget.grid_px)


def plan_crop(reader: VideoReader, segment: Segment, strategy: Strategy, budget: Budget) -> ClipRef:
    """A crop of `segment` at the quota of `strategy`, from the source's own frames.

    Frames from the first at or after the segment's start to the last at or before its end; a
    segment between two frames shows the earlier one.
    """
    timestamps = reader.timestamps
    first = int(np.searchsorted(timestamps, segment.start_seconds - _TOLERANCE_SECONDS))
    last = int(np.searchsorted(timestamps, segment.end_seconds + _TOLERANCE_SECONDS, "right")) - 1
    last = max(last, 0)
    first = min(first, last)
    count = frame_count(
        segment.duration_seconds,
        last - first + 1,
        sampling_fps=budget.sampling_fps,
        # At least one token for every pair of frames.
        max_frames=min(budget.max_crop_frames, 2 * budget.crops[strategy].max_tokens),
    )
    indices = evenly_spaced(timestamps, first, last, count)
    return _plan(reader, indices, segment, strategy, budget.crops[strategy], budget.grid_px)


_TOLERANCE_SECONDS = 1e-6
"""A frame at 0.1 * 3 seconds belongs to a segment that starts at 0.3."""


def evenly_spaced(
    timestamps: npt.NDArray[np.float64], first: int, last: int, count: int
) -> npt.NDArray[np.int64]:
    """Indices of `count` frames from `first` to `last`, both included, evenly spaced in time.

    At a constant frame rate this is round(linspace(first, last, count)), the published formula.

    Differs from the paper: a variable frame rate is spaced by time, not by index.

    Args:
        timestamps: Presentation time of each frame in seconds, ascending, [N].
        first: Index of the first frame, included.
        last: Index of the last frame, included.
        count: Frames to take, in [1, last - first + 1].

    >>> evenly_spaced(np.arange(10) / 25, 0, 9, 4)
    array([0, 3, 6, 9])
    """
    within = timestamps[first : last + 1]
    wanted = np.linspace(within[0], within[-1], count)
    positions = np.interp(wanted, within, np.arange(first, last + 1))
    indices = np.rint(np.round(positions, 6)).astype(np.int64)
    # No frame twice: after a long pause the nearest frames that are still free.
    places = np.arange(count)
    indices = np.maximum.accumulate(indices - places) + places
    spread: npt.NDArray[np.int64] = np.minimum(indices, last - places[::-1])
    return spread


def snap_to_keyframes(
    indices: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.float64],
    keyframes: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Each index moved to its nearest keyframe, unless that is over half the spacing away.

    Of several that are nearest to the same keyframe, the closest takes it and the others stay.
    """
    if len(indices) < 2 or len(keyframes) == 0:
        return indices
    wanted, have = timestamps[indices], timestamps[keyframes]
    spacing = (wanted[-1] - wanted[0]) / (len(wanted) - 1)
    after = np.clip(np.searchsorted(have, wanted), 0, len(have) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(wanted - have[before] <= have[after] - wanted, before, after)
    distance = np.abs(have[nearest] - wanted)
    closest = np.full(len(keyframes), np.inf)
    np.minimum.at(closest, nearest, distance)
    takes = (distance <= spacing / 2) & (distance == closest[nearest])
    # Two at exactly the same distance: the earlier one takes it.
    takes[1:] &= ~(takes[:-1] & (nearest[1:] == nearest[:-1]))
    return np.where(takes, keyframes[nearest], indices)


def _plan(
    reader: VideoReader,
    indices: npt.NDArray[np.int64],
    segment: Segment,
    strategy: ClipStrategy,
    quota: Quota,
    grid_px: int,
) -> ClipRef:
    info = reader.info
    try:
        size = clip_size(info.height, info.width, len(indices), quota=quota, grid_px=grid_px)
    except BudgetError as error:
        raise VideoDecodeError(
            reader.path, reader.backend, str(error), "Crop or pad the video."
        ) from error
    return ClipRef(
        video=reader.path,
        indices=tuple(indices.tolist()),
        timestamps_seconds=tuple(reader.timestamps[indices].tolist()),
        height=size.height,
        width=size.width,
        segment=segment,
        strategy=strategy,
        visual_tokens=visual_tokens(len(indices), size, grid_px=grid_px),
    )
