"""Which frames an update on live video shows, and at what size, before anything is decoded."""

from __future__ import annotations

from videoseek_env.budget import MAX_FRAMES, Budget, clip_size, frame_count, visual_tokens
from videoseek_env.sampling import evenly_spaced
from videoseek_env.segment import Segment
from videoseek_env.video import VideoReader
from videoseek_env.video.clip import ClipRef


def plan_update(
    reader: VideoReader, *, since_seconds: float, budget: Budget, fps: float
) -> ClipRef | None:
    """Frames that arrived after a time, each as small as in a full overview, up to the newest.

    Args:
        reader: What has arrived.
        since_seconds: Time of the last frame that the agent saw.
        budget: It limits an update to the frames of an overview, and each frame to its size there.
        fps: Frames per second of video, though four at least where there are.

    Returns:
        The clip, or None if there is no new frame.
    """
    info, timestamps = reader.info, reader.timestamps
    first = int(timestamps.searchsorted(since_seconds, "right"))
    new = info.frame_count - first
    if new == 0:
        return None
    most = budget.overview_frames or MAX_FRAMES
    size = clip_size(info.height, info.width, most, quota=budget.overview, grid_px=budget.grid_px)
    segment = Segment(max(since_seconds, info.start_seconds), info.end_seconds)
    count = frame_count(segment.duration_seconds, new, sampling_fps=fps, max_frames=most)
    # The frame before counts as taken, which keeps the spacing even over several updates.
    taken = min(first, 1)
    spaced = evenly_spaced(timestamps, first - taken, info.frame_count - 1, count + taken)
    indices = spaced[taken:]
    return ClipRef(
        video=reader.path,
        indices=tuple(indices.tolist()),
        timestamps_seconds=tuple(timestamps[indices].tolist()),
        height=size.height,
        width=size.width,
        segment=segment,
        strategy="overview",
        visual_tokens=visual_tokens(count, size, grid_px=budget.grid_px),
    )
