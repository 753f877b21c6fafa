"""What a video is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video is."""

    frame_count: int
    duration_seconds: float
    """From the first frame's start to the last frame's end."""
    start_seconds: float
    """Presentation time of the first frame; not always zero."""
    height: int
    """Pixels, after rotation."""
    width: int
    """Pixels, after rotation."""
    fps: float
    """Average frames per second; the timestamps are the truth."""
    codec: str
    """Such as "h264"; "frames" for a folder of images."""

    @property
    def end_seconds(self) -> float:
        """End of the timeline: when the last frame's display ends."""
        return self.start_seconds + self.duration_seconds
