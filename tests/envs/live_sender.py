"""A process that sends a video as if it were live: as far as it is told, and no faster.

    python tests/envs/live_sender.py VIDEO TARGET KIND

It prints a line when it can be received, and then reads how far to send, in seconds, line by line.
At the end of its input it ends the stream in good order.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import av

PROTOCOLS = ("tcp", "http")
_OPTIONS = {
    "mpegts": {},
    "mp4": {"movflags": "frag_every_frame+empty_moov+default_base_moof"},
    "matroska": {"cluster_time_limit": "200"},
}
_HTTP_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nContent-Length: 100000000\r\n\r\n"


class Sender:
    """A sender under way."""

    def __init__(self, video: Path, target: str, kind: str = "mpegts") -> None:
        """Start it.

        Args:
            video: What to send.
            target: A file's path, or "tcp" or "http" to serve one receiver.
            kind: The container.
        """
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(video), target, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        port = self._answers.readline().strip()
        self.url = f"{target}://127.0.0.1:{port}" if target in PROTOCOLS else target

    def send_until(self, seconds: float) -> None:
        """Send what is decoded before that time of the video; this returns at once."""
        self._orders.write(f"{seconds}\n")
        self._orders.flush()

    def finish(self) -> None:
        """End the stream in good order, once everything asked for is sent."""
        self._orders.close()

    def kill(self) -> None:
        """Die at once."""
        self._process.kill()
        self._process.wait()
        self._answers.close()
        with suppress(OSError):  # what it never read
            self._orders.close()


class _Connection:
    """A receiver, as a file to write to."""

    def __init__(self, protocol: str) -> None:
        server = socket.create_server(("127.0.0.1", 0))
        print(server.getsockname()[1], flush=True)
        self._socket, _ = server.accept()
        if protocol == "http":
            self._socket.recv(65536)
            self._socket.sendall(_HTTP_HEAD)

    def write(self, data: bytes) -> int:
        self._socket.sendall(data)
        return len(data)


def _send(video: str, target: str, kind: str) -> None:
    sink = _Connection(target) if target in PROTOCOLS else target
    options = {"flush_packets": "1"} | _OPTIONS[kind]
    with (
        av.open(video) as reading,
        av.open(sink, "w", format=kind, options=options, buffer_size=1316) as writing,
    ):
        incoming = reading.streams.video[0]
        outgoing = writing.add_stream_from_template(incoming)
        writing.start_encoding()
        if sink is target:
            print("the file is there", flush=True)
        until = 0.0
        for packet in reading.demux(incoming):
            if packet.dts is None:
                continue
            while packet.dts * packet.time_base >= until:
                if not (order := sys.stdin.readline()):
                    return
                until = float(order)
            packet.stream = outgoing
            writing.mux(packet)
        sys.stdin.read()


if __name__ == "__main__":
    with suppress(OSError):  # the receiver is gone
        _send(*sys.argv[1:])
