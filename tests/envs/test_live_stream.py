from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.live_source import LiveReader
from envs.live_stream import StreamConfig, StreamFeed
from tests.envs.live_sender import PROTOCOLS, Sender
from tests.synthetic_video import read_barcodes, remux, write_audio
from videoseek_env.errors import ConfigError, VideoDecodeError

FPS = 10
PATIENT = StreamConfig(timeout_seconds=60.0, segment_seconds=4.0)

Send = Callable[..., Sender]


@pytest.fixture
def send(video: Path, tmp_path: Path) -> Iterator[Send]:
    """Starts senders: `send(target, kind, until=seconds)`."""
    senders = []

    def start(target: str, kind: str = "mpegts", *, until: float) -> Sender:
        where = target if target in PROTOCOLS else str(tmp_path / target)
        senders.append(sender := Sender(video, where, kind))
        sender.send_until(until)
        return sender

    yield start
    for sender in senders:
        sender.kill()


Connect = Callable[..., StreamFeed]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Receives streams, and closes them after the test."""
    feeds = []

    def start(url: str | Path, config: StreamConfig = PATIENT) -> StreamFeed:
        feeds.append(feed := StreamFeed(str(url), config))
        return feed

    yield start
    for feed in feeds:
        feed.close()


def reach(reader: LiveReader, seconds: float) -> None:
    """Wait until a time of the stream, which may have come."""
    reader.wait(seconds - reader.now_seconds)


def look(reader: LiveReader) -> list[int]:
    """The indices that the frames say they have, each at its time; all are there up to now."""
    shown = read_barcodes(reader.read(range(reader.info.frame_count)))
    np.testing.assert_allclose(reader.timestamps * FPS, shown, atol=0.02)
    if reader.ended_seconds is None:
        assert shown == list(range(math.floor(reader.now_seconds * FPS + 0.02) + 1))
    return shown


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("v.ts", "mpegts"),
        ("v.mp4", "mp4"),
        ("v.mkv", "matroska"),
        ("tcp", "mpegts"),
        ("http", "mpegts"),
    ],
)
def test_a_stream_is_watched_while_another_process_sends_it(
    send: Send, target: str, kind: str, connect: Connect
) -> None:
    sender = send(target, kind, until=10)
    reader = LiveReader(connect(sender.url))
    reach(reader, 8.0)
    early = look(reader)
    assert 81 <= len(early) <= 101
    sender.send_until(20)
    reach(reader, 18.0)
    # What was there keeps its place.
    assert look(reader)[: len(early)] == early
    assert 18.0 <= reader.now_seconds <= 20.0
    assert reader.ended_seconds is None


def test_a_stream_that_its_sender_closes_has_ended(send: Send, connect: Connect) -> None:
    sender = send("tcp", until=10)
    reader = LiveReader(connect(sender.url))
    reach(reader, 5.0)
    assert reader.ended_seconds is None
    sender.finish()
    reach(reader, 1e6)
    assert reader.ended_seconds is not None
    assert reader.now_seconds >= reader.ended_seconds
    # Sent is what is decoded before 10 s; there, B-frames are still to come between the others.
    assert len(look(reader)) in range(99, 104)
    assert reader.ended_seconds == pytest.approx(len(look(reader)) / FPS, abs=0.2)


def test_real_time_goes_on_after_the_end(transport_stream: Path, connect: Connect) -> None:
    reader = LiveReader(connect(f"file://{transport_stream}"))
    reach(reader, 1e6)
    assert reader.ended_seconds == pytest.approx(30.0)
    before = reader.now_seconds
    reader.wait(0.05, past_end=True)
    assert reader.now_seconds >= before + 0.05
    assert len(look(reader)) == 300


def test_a_sender_that_dies_half_way_leaves_what_arrived(send: Send, connect: Connect) -> None:
    sender = send("http", until=10)
    reader = LiveReader(connect(sender.url))
    reach(reader, 8.0)
    sender.kill()
    with pytest.raises(VideoDecodeError, match=r"http://.*receiving it failed.*connects anew"):
        reach(reader, 25.0)
    reader.catch_up()
    assert reader.ended_seconds is None
    assert len(look(reader)) >= 80


def test_a_stream_that_falls_silent_is_a_named_failure(send: Send, connect: Connect) -> None:
    sender = send("tcp", until=5)
    reader = LiveReader(connect(sender.url, StreamConfig(timeout_seconds=2.0)))
    for _ in range(2):
        with pytest.raises(VideoDecodeError, match="no timed frame arrived for 2 s"):
            reach(reader, 25.0)
    reader.catch_up()
    assert len(look(reader)) > 20


def test_a_file_that_stops_growing_has_ended(video: Path, tmp_path: Path, connect: Connect) -> None:
    # What a writer leaves that was killed half-way.
    whole = remux(video, tmp_path / "whole.mkv").read_bytes()
    path = tmp_path / "v.mkv"
    path.write_bytes(whole[: len(whole) // 2])
    reader = LiveReader(connect(path, StreamConfig(timeout_seconds=1.0)))
    reach(reader, 1e6)
    assert reader.ended_seconds is not None and 10 < reader.ended_seconds < 20
    assert len(look(reader)) > 100


def test_a_server_that_never_speaks_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(VideoDecodeError, match=r"no timed frame arrived for 0\.2 s"):
            StreamFeed(url, StreamConfig(timeout_seconds=0.2))
    with pytest.raises(VideoDecodeError, match=r"receiving it failed.*refused"):
        StreamFeed(url)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("missing", "No such file"),
        ("text", "receiving it failed: .*Invalid data"),
        ("audio", "it has no video stream"),
        ("empty", "receiving it failed: .*Invalid data"),
    ],
)
def test_what_is_no_video_is_refused(
    tmp_path: Path, kind: str, cause: str, connect: Connect
) -> None:
    path = tmp_path / "v.ts"
    match kind:
        case "text":
            path.write_text("no video\n" * 1000)
        case "audio":
            write_audio(path)
        case "empty":
            path.write_bytes(b"")
    with pytest.raises(VideoDecodeError, match=cause):
        connect(f"file://{path}")


def test_a_file_that_never_begins_is_refused(tmp_path: Path, connect: Connect) -> None:
    path = tmp_path / "v.ts"
    path.write_bytes(b"")
    with pytest.raises(VideoDecodeError, match=r"no timed frame arrived for 0\.2 s"):
        connect(path, StreamConfig(timeout_seconds=0.2))


def test_what_the_spool_refuses_is_a_named_failure(
    transport_stream: Path, tmp_path: Path, connect: Connect
) -> None:
    path = tmp_path / "twice.ts"
    path.write_bytes(transport_stream.read_bytes() * 2)
    reader = LiveReader(connect(f"file://{path}"))
    with pytest.raises(VideoDecodeError, match="receiving it failed: its times jump back"):
        reach(reader, 1e6)


def test_a_snapshot_is_made_only_when_something_came(
    transport_stream: Path, tmp_path: Path, connect: Connect
) -> None:
    feed = connect(
        f"file://{transport_stream}", StreamConfig(segment_seconds=4.0, folder=str(tmp_path))
    )
    feed.arrival()
    feed.wait_until(1e6, past_end=False)
    first, second = feed.arrival(), feed.arrival()
    assert first.reader is second.reader
    # 30 s in files of 4 s: seven closed ones, the last in the making, and the list of them.
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 9
    feed.close()
    assert list(tmp_path.iterdir()) == []


def test_a_closed_feed_says_so_and_its_thread_ends(send: Send, connect: Connect) -> None:
    before = set(threading.enumerate())
    sender = send("tcp", until=20)
    feed = connect(sender.url)
    reader = LiveReader(feed)
    (thread,) = set(threading.enumerate()) - before
    feed.close()
    feed.close()
    with pytest.raises(VideoDecodeError, match="it was closed"):
        reader.wait(5.0)
    sender.send_until(30)
    thread.join(60)
    assert not thread.is_alive()


def test_closing_from_another_thread_ends_a_wait(send: Send, connect: Connect) -> None:
    feed = connect(send("tcp", until=20).url)
    reader = LiveReader(feed)
    closer = threading.Timer(0.1, feed.close)
    closer.start()
    with pytest.raises(VideoDecodeError, match="it was closed"):
        reader.wait(1e300)
    closer.join()


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout_seconds": 0},
        {"segment_seconds": -1},
        {"max_bytes": 0},
        {"timeout_seconds": math.nan},
    ],
)
def test_impossible_limits_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="finite and above zero"):
        StreamConfig(**fields)
