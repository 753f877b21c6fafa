"""Video that is still arriving, as a reader of what is there so far.

A `Feed` knows what has arrived and lets time pass; `LiveReader` shows that much of it, and no more,
as an ordinary `VideoReader`. Here is the feed of a finished video, which a clock reveals.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from videoseek_env.video import VideoInfo, VideoReader
from videoseek_env.video.request import unique_indices


class Clock(Protocol):
    """Seconds since a replay began."""

    @property
    def now_seconds(self) -> float:
        """Seconds so far, at least 0."""

    def think(self, seconds: float) -> None:
        """Let the time of writing a reply pass, where it does not pass by itself."""

    def wait_until(self, seconds: float) -> None:
        """Let time pass, if it has not come so far."""


class SimulatedClock:
    """Time that passes only when it is told to: the same replies, the same times."""

    def __init__(self) -> None:
        self.now_seconds = 0.0

    def think(self, seconds: float) -> None:
        """Move on by the time that writing a reply is said to take."""
        self.now_seconds += seconds

    def wait_until(self, seconds: float) -> None:
        """Move on."""
        self.now_seconds = max(self.now_seconds, seconds)


class WallClock:
    """Real time, which passes while the agent thinks."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def now_seconds(self) -> float:
        """Seconds since the clock was made."""
        return time.monotonic() - self._started

    def think(self, seconds: float) -> None:
        """Nothing: the agent's thinking took its time already."""

    def wait_until(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(max(0.0, seconds - self.now_seconds))


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """What a feed has got so far."""

    reader: VideoReader
    """Holds every frame up to `now_seconds`; it may hold later ones too, not to be shown."""
    now_seconds: float
    """Stream time, not before the first frame."""
    end_seconds: float | None
    """End of the video's timeline; None until it is over."""


class Feed(Protocol):
    """Where a video comes from while time passes."""

    def think(self, seconds: float) -> None:
        """Let the time of writing a reply pass, where it does not pass by itself."""

    def wait_until(self, seconds: float, *, past_end: bool) -> None:
        """Let time pass, if it has not come so far.

        Args:
            seconds: Stream time.
            past_end: Whether to go beyond the end of the video; else it ends the wait.

        Raises:
            VideoDecodeError: If nothing more can arrive though the video is not over.
        """

    def arrival(self) -> Arrival:
        """What is there now.

        Raises:
            VideoDecodeError: If it can't be read.
        """

    def close(self) -> None:
        """Stop receiving, and free the decoders."""


class ReplayFeed:
    """A finished video, revealed by a clock."""

    def __init__(self, reader: VideoReader, clock: Clock) -> None:
        """Begin at the reader's first frame; the clock's zero is that frame's time."""
        self._reader, self._clock = reader, clock

    def think(self, seconds: float) -> None:
        """See `Feed.think`."""
        self._clock.think(seconds)

    def wait_until(self, seconds: float, *, past_end: bool) -> None:
        """See `Feed.wait_until`."""
        info = self._reader.info
        since_start = seconds - info.start_seconds
        self._clock.wait_until(since_start if past_end else min(since_start, info.duration_seconds))

    def arrival(self) -> Arrival:
        """See `Feed.arrival`."""
        info, so_far = self._reader.info, self._clock.now_seconds
        end = info.end_seconds if so_far >= info.duration_seconds else None
        return Arrival(self._reader, info.start_seconds + so_far, end)

    def close(self) -> None:
        """See `Feed.close`."""
        self._reader.close()


class LiveReader:
    """The frames that have arrived, as a `VideoReader`. For one episode, on one thread at a time.

    What is there changes only in `catch_up` and `wait`, so that a turn sees one state of the world.
    A frame has arrived when its presentation time has come.
    """

    def __init__(self, feed: Feed) -> None:
        """Show what the feed has got.

        Raises:
            VideoDecodeError: If it can't be read.
        """
        self._feed = feed
        self._adopt()

    def catch_up(self, thinking_seconds: float = 0.0) -> None:
        """Take in what arrived while the agent wrote its reply.

        Args:
            thinking_seconds: How long that took in simulated time; real time passed by itself.

        Raises:
            VideoDecodeError: If what arrived can't be read.
        """
        self._feed.think(thinking_seconds)
        self._adopt()

    def wait(self, seconds: float, *, past_end: bool = False) -> None:
        """Let time pass.

        Args:
            seconds: How long, from what is there now.
            past_end: Whether to go beyond the end of the video; else it ends the wait.

        Raises:
            VideoDecodeError: If nothing more can arrive though the video is not over.
        """
        self._feed.wait_until(self.now_seconds + seconds, past_end=past_end)
        self._adopt()

    @property
    def now_seconds(self) -> float:
        """Stream time: presentation times up to it have arrived. It goes on after the video."""
        return self._arrival.now_seconds

    @property
    def ended_seconds(self) -> float | None:
        """End of the video's timeline; None until it is over."""
        return self._arrival.end_seconds

    @property
    def path(self) -> str:
        """The file that the frames are read from."""
        return self._arrival.reader.path

    @property
    def backend(self) -> str:
        """The decoder's name."""
        return self._arrival.reader.backend

    @property
    def info(self) -> VideoInfo:
        """What has arrived; its timeline ends now, or one frame after its start."""
        whole, arrival = self._arrival.reader.info, self._arrival
        end = arrival.now_seconds if arrival.end_seconds is None else arrival.end_seconds
        duration = max(end - whole.start_seconds, 1 / whole.fps)
        return replace(
            whole,
            frame_count=self._count,
            duration_seconds=duration,
            fps=self._count / duration,
        )

    @property
    def timestamps(self) -> npt.NDArray[np.float64]:
        """Presentation time of each frame that has arrived, in seconds, [frame_count]."""
        return self._arrival.reader.timestamps[: self._count]

    @property
    def keyframe_indices(self) -> npt.NDArray[np.int64]:
        """Indices of the keyframes that have arrived, [K]."""
        keyframes = self._arrival.reader.keyframe_indices
        return keyframes[keyframes < self._count]

    def read(
        self, indices: Sequence[int], height: int | None = None, width: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Decode frames; see `VideoReader.read`. One that has not arrived is an IndexError."""
        unique_indices(indices, self._count)
        return self._arrival.reader.read(indices, height, width)

    def close(self) -> None:
        """Free the decoders; a later read opens them again."""
        self._arrival.reader.close()

    def _adopt(self) -> None:
        self._arrival = arrival = self._feed.arrival()
        self._count = int(np.searchsorted(arrival.reader.timestamps, arrival.now_seconds, "right"))
