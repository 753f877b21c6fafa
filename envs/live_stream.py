"""A stream, or a file that is still being written, received on a thread while it is watched."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import av
from av.video.stream import VideoStream

from envs.live_source import Arrival
from envs.live_spool import JoinedReader, PacketSpool
from videoseek_env.errors import ConfigError, VideoDecodeError


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """How a stream is received and kept.

    Raises:
        ConfigError: If a number is not above zero.
    """

    timeout_seconds: float = 10.0
    """The longest silence, in opening it and later. After it a growing file counts as over, since a
    writer that is done and one that was killed look alike; any other stream has failed."""
    segment_seconds: float = 10.0
    """Video in one file at least; files begin at keyframes."""
    max_bytes: int = 2 * 2**30
    """Compressed video to look back at, about; what came first is dropped. While the agent thinks,
    as much again may lie on disk."""
    folder: str | None = None
    """Where to make the temporary folder of files; None takes the system's place for them."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of FFmpeg's demuxer and protocol, such as {"rtsp_transport": "tcp"}."""

    def __post_init__(self) -> None:
        numbers = (self.timeout_seconds, self.segment_seconds, self.max_bytes)
        if not all(number > 0 and math.isfinite(number) for number in numbers):
            raise ConfigError(
                "timeout_seconds, segment_seconds and max_bytes must be finite and above zero, "
                f"got {numbers}"
            )


class StreamFeed:
    """A stream URL, or a file that another process is still writing, received on a thread.

    Times count from the first frame that arrived, and now is the newest time whose frames are all
    there: a sender that is faster than real time makes time run faster. Looking back reaches as far
    as `StreamConfig.max_bytes`, and ends when the feed is closed. Of a stream with open groups of
    pictures (frames that lead a keyframe), a few frames before the start of each file are missing;
    H.264 of that kind is refused as damaged from the second file on.
    """

    def __init__(self, url: str, config: StreamConfig | None = None) -> None:
        """Connect, and wait for the first frame.

        Args:
            url: Anything that FFmpeg opens, such as "http://...", "tcp://...", "rtsp://..."; or the
                path of a file that grows (.ts, .mkv, fragmented .mp4).
            config: Timeouts and limits.

        Raises:
            VideoDecodeError: If no video arrives.
        """
        self._url, self._config = url, config or StreamConfig()
        self._is_growing_file = "://" not in url
        self._changed = threading.Condition()
        """Guards everything below."""
        self._spool = PacketSpool(
            segment_seconds=self._config.segment_seconds,
            max_bytes=self._config.max_bytes,
            folder=self._config.folder,
        )
        self._is_closed = False
        self._cause: str | None = None
        self._end_seconds: float | None = None
        self._last_sign = time.monotonic()
        """When the last packet came, or when the end did."""
        self._view: JoinedReader | None = None
        threading.Thread(target=self._receive, name="videoseek-live", daemon=True).start()
        try:
            self.wait_until(0.0, past_end=False)
        except BaseException:
            self.close()
            raise

    def think(self, seconds: float) -> None:
        """Nothing: the agent's thinking took its time already."""

    def wait_until(self, seconds: float, *, past_end: bool) -> None:
        """See `Feed.wait_until`; it fails when the stream breaks off or is silent for too long."""
        with self._changed:
            while not self._is_closed and (left := seconds - self._now_seconds()) > 0:
                if self._cause is not None:
                    raise self._error(self._cause)
                if self._end_seconds is None:
                    # Twice: the thread times out itself, but where sound alone comes, or it hangs.
                    left = self._last_sign + 2 * self._config.timeout_seconds - time.monotonic()
                elif not past_end:
                    return
                if left > 0:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                else:
                    self._finish(self._silence())

    def arrival(self) -> Arrival:
        """See `Feed.arrival`."""
        with self._changed:
            if self._is_closed:
                raise self._error("it was closed")
            now, end = self._now_seconds(), self._end_seconds
            snapshot = self._spool.snapshot()
        if self._view is None or self._view.snapshot != snapshot:
            try:
                view = self._spool.read_back(snapshot)
            except (OSError, ValueError, av.FFmpegError) as error:
                raise self._error(f"what arrived can't be kept: {error}") from error
            if self._view is not None:
                self._view.delete_snapshot()
            self._view = view
        return Arrival(self._view, now, end)

    def close(self) -> None:
        """Stop and delete the files. The thread ends with the next packet or its timeout."""
        with self._changed:
            self._is_closed = True
            self._spool.delete()
            self._changed.notify_all()

    def _now_seconds(self) -> float:
        """The newest time whose frames are all there; real time goes on from the end."""
        with self._changed:
            if self._end_seconds is not None:
                return self._end_seconds + time.monotonic() - self._last_sign
            return self._spool.complete_seconds

    def _receive(self) -> None:
        """Receive until the stream ends, breaks off, falls silent, or is closed."""
        cause: str | None = None
        try:
            self._receive_packets()
        except av.ExitError:
            cause = self._silence()
        except Exception as error:  # networks and damaged data make PyAV raise nearly anything
            cause = f"receiving it failed: {error}"
        with self._changed:
            self._finish(cause)

    def _receive_packets(self) -> None:
        name, options = self._url, dict(self._config.options)
        if self._is_growing_file:
            name = f"file:{name}"
            options |= {"follow": "1", "seekable": "0"}
        timeout = (self._config.timeout_seconds, self._config.timeout_seconds)
        with av.open(name, options=options, timeout=timeout) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                raise ValueError("it has no video stream")
            with self._changed:
                self._spool.begin(stream)
            for packet in container.demux(stream):
                with self._changed:
                    if self._is_closed or self._is_over:
                        return
                    if self._spool.add(packet):
                        self._last_sign = time.monotonic()
                        self._changed.notify_all()

    def _finish(self, cause: str | None) -> None:
        """Note how it ended, once; the lock is held."""
        if self._is_over:
            return
        if cause is None:
            self._end_seconds = self._spool.end_seconds
        if self._end_seconds is None:
            self._cause = cause or "it ended before its first frame"
        self._last_sign = time.monotonic()
        self._changed.notify_all()

    @property
    def _is_over(self) -> bool:
        return self._end_seconds is not None or self._cause is not None

    def _silence(self) -> str | None:
        """What a silence means: None for an end."""
        if self._is_growing_file and self._spool.end_seconds is not None:
            return None
        return f"no timed frame arrived for {self._config.timeout_seconds:g} s"

    def _error(self, cause: str) -> VideoDecodeError:
        remedy = "Check the sender; a new episode connects anew."
        return VideoDecodeError(self._url, "pyav", cause, remedy)
