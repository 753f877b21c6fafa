"""Clips and their references, without a video."""

import numpy as np

from videoseek_env.segment import Segment
from videoseek_env.video.clip import Clip, ClipRef, ClipStrategy


def clip_ref(
    *,
    frames: int,
    height: int = 32,
    width: int = 32,
    start_seconds: float = 0.0,
    step_seconds: float = 1.0,
    strategy: ClipStrategy = "overview",
    video: str = "video.mp4",
) -> ClipRef:
    """A reference to evenly spaced frames; its visual tokens are those of cells of 32 pixels."""
    times = tuple(start_seconds + step_seconds * k for k in range(frames))
    return ClipRef(
        video=video,
        indices=tuple(range(frames)),
        timestamps_seconds=times,
        height=height,
        width=width,
        segment=Segment(start_seconds, start_seconds + step_seconds * frames),
        strategy=strategy,
        visual_tokens=-(-frames // 2) * (height // 32) * (width // 32),
    )


def clip_of(ref: ClipRef, *, seed: int = 0) -> Clip:
    """Frames of noise."""
    rng = np.random.default_rng([seed, len(ref.indices), int(1000 * ref.timestamps_seconds[0])])
    frames = rng.integers(0, 256, (len(ref.indices), ref.height, ref.width, 3), dtype=np.uint8)
    return Clip(frames, np.array(ref.timestamps_seconds), ref.segment, ref.strategy)
