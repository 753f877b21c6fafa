"""Exact frames out of one open container: seek where that is cheaper, else decode on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
from av import Packet, VideoFrame
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from videoseek_env.errors import VideoDecodeError
from videoseek_env.video.h264 import is_unreferenced, length_prefix_bytes
from videoseek_env.video.index import VideoIndex
from videoseek_env.video.packets import NO_TIME
from videoseek_env.video.probe import REENCODE_FILE, decode_errors, open_stream

BACKEND = "pyav"

SEEK_COST_FRAMES = 3
"""What a seek costs, as a number of decoded frames."""

_STEP_BACK_SECONDS = (0, 2, 30, 600)
"""How much earlier to seek when a seek went too far, as it does in .ts files."""


class FrameDecoder:
    """Decodes frames by index. For one thread at a time, in the process that made it.

    Frames are told apart by their presentation time, never by counting: a frame that is not there
    is an error, not a wrong frame. What follows a damaged frame within its group of pictures is
    refused, since it may be drawn over the damage.
    """

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self._is_closed = True
        self._path, self._index = path, index
        opened = open_stream(path, BACKEND)
        self._container, self._stream = opened.container, opened.stream
        self._codec = opened.stream.codec_context
        is_h264 = index.info.codec == "h264"
        self._wishes = _Wishes(length_prefix_bytes(self._codec.extradata) if is_h264 else None)
        self._at: int | None = None
        """The frame that was decoded last, if decoding can go on from it."""
        self._decoded: Iterator[tuple[VideoFrame, bool]] = iter(())
        self._is_closed = False

    def __del__(self) -> None:
        if not self._is_closed:
            self.close()

    def read(self, indices: Sequence[int], take: Callable[[int, VideoFrame], None]) -> None:
        """Decode frames and hand each to `take(index, frame)`.

        Args:
            indices: Strictly ascending.
            take: Gets each frame; must not keep it.

        Raises:
            VideoDecodeError: If a frame is damaged or missing.
        """
        pts, frames = self._index.frames.pts, self._index.frames
        self._wishes.pts = frozenset(int(pts[index]) for index in indices)
        self._wishes.last_pts = int(pts[indices[-1]])
        following = chain(indices[1:], [None])
        with decode_errors(self._path, BACKEND, "decoding"):
            for index, after in zip(indices, following, strict=True):
                if self.cost_of_decoding_on(index) is None:
                    entry = int(frames.entry[index])
                    if self._is_alone(index, after) and (frame := self._decode_keyframe(entry)):
                        take(index, frame)
                        continue
                    self._enter(entry)
                take(index, self._advance(index))

    def cost_of_decoding_on(self, index: int) -> int | None:
        """Frames to decode from the present position, or None where a seek is cheaper."""
        if self._at is None or index <= self._at:
            return None
        frames = self._index.frames
        entry = frames.entry[index]
        from_here = frames.decode_position[index] - frames.decode_position[self._at]
        from_entry = frames.decode_position[index] - frames.entry_position[entry] + 1
        return int(from_here) if from_here <= from_entry + SEEK_COST_FRAMES else None

    def close(self) -> None:
        """Free the decoder."""
        self._is_closed = True
        self._decoded, self._at = iter(()), None
        self._container.close()

    def _is_alone(self, index: int, after: int | None) -> bool:
        """Whether it is a keyframe and nothing else of its group is wanted."""
        frames = self._index.frames
        entry = frames.entry[index]
        if frames.decode_position[index] != frames.entry_position[entry]:
            return False
        return after is None or bool(frames.entry[after] != entry)

    def _decode_keyframe(self, entry: int) -> VideoFrame | None:
        """Decode one packet and drain the decoder: no frame but the keyframe itself.

        None where that does not work: then decode on until the keyframe comes out.
        """
        self._at = None
        packet = next(self._packets_from(entry))
        frames = [*self._codec.decode(packet), *self._codec.decode(None)]
        if len(frames) != 1 or frames[0].pts != packet.pts or frames[0].is_corrupt:
            return None
        return frames[0]

    def _enter(self, entry: int) -> None:
        self._at = None
        self._decoded = _decode(self._codec, self._packets_from(entry), self._wishes)

    def _advance(self, index: int) -> VideoFrame:
        wanted = int(self._index.frames.pts[index])
        self._at = None
        for frame, is_sound in self._decoded:
            if frame.pts is None or frame.pts < wanted:
                continue
            if frame.pts > wanted or not is_sound:
                break
            self._at = index
            return frame
        raise self._missing(wanted)

    def _packets_from(self, entry: int) -> Iterator[Packet[VideoStream]]:
        """The packets from an entry point on, wherever the container's seek landed."""
        entry_pts = int(self._index.frames.entry_pts[entry])
        target = self._seek_time(entry, entry_pts)
        first = self._seek_time(0, int(self._index.frames.entry_pts[0]))
        for seconds in _STEP_BACK_SECONDS:
            self._seek(max(target - int(seconds / self._index.time_base), min(first, target)))
            packets = self._container.demux(self._stream)
            for packet in packets:
                if packet.is_keyframe and packet.pts == entry_pts:
                    return chain([packet], packets)
                if packet.is_keyframe and packet.pts is not None and packet.pts > entry_pts:
                    break
        raise self._missing(entry_pts)

    def _seek_time(self, entry: int, entry_pts: int) -> int:
        entry_dts = int(self._index.frames.entry_dts[entry])
        by_dts = self._index.seeks_by_decoding_time and entry_dts != NO_TIME
        return entry_dts if by_dts else entry_pts

    def _seek(self, target: int) -> None:
        self._decoded = iter(())
        self._container.seek(target, stream=self._stream)

    def _missing(self, pts: int) -> VideoDecodeError:
        seconds = float(pts * self._index.time_base)
        cause = f"the frame at {seconds:.3f} s, or one that it is drawn over, is damaged"
        return VideoDecodeError(str(self._path), BACKEND, cause, REENCODE_FILE)


@dataclass(slots=True)
class _Wishes:
    """Which frames the read that is going on wants."""

    prefix_bytes: int | None
    """Bytes of the length before each H.264 unit; None where packets can't be told apart."""
    pts: frozenset[int] = frozenset()
    last_pts: int = NO_TIME

    def need(self, packet: Packet[VideoStream]) -> bool:
        """Whether the packet's frame is wanted, or another may refer to it.

        Frames past the last wanted one are needed too: the next read may want them.
        """
        if self.prefix_bytes is None or packet.pts is None or packet.is_keyframe:
            return True
        if packet.pts in self.pts or packet.pts > self.last_pts:
            return True
        return not is_unreferenced(memoryview(packet), self.prefix_bytes)


def _decode(
    codec: VideoCodecContext, packets: Iterator[Packet[VideoStream]], wishes: _Wishes
) -> Iterator[tuple[VideoFrame, bool]]:
    """Frames in presentation order, and whether each can be trusted."""
    trust = _Trust()
    for packet in packets:
        if not wishes.need(packet):
            continue
        trust.sent(packet)
        try:
            frames = codec.decode(packet if packet.size else None)
        except av.InvalidDataError:
            trust.lost(packet)
            continue
        for frame in frames:
            yield frame, trust.received(frame)


class _Trust:
    """Which frames may be drawn over damage: those sent after it, up to the next keyframe.

    Frames leave the decoder later than they were sent, so trust goes by what was sent before what.
    """

    def __init__(self) -> None:
        self._group_is_sound = self._group_before_is_sound = True
        self._keyframe_pts = NO_TIME
        self._pending: dict[int | None, bool] = {}

    def sent(self, packet: Packet[VideoStream]) -> None:
        if packet.is_keyframe and packet.pts is not None:
            self._group_before_is_sound, self._group_is_sound = self._group_is_sound, True
            self._keyframe_pts = packet.pts
        if packet.is_corrupt:
            self._group_is_sound = False
        leads_keyframe = packet.pts is None or packet.pts < self._keyframe_pts
        is_sound = self._group_is_sound and (not leads_keyframe or self._group_before_is_sound)
        self._pending[packet.pts] = is_sound

    def lost(self, packet: Packet[VideoStream]) -> None:
        self._pending.pop(packet.pts, None)
        self._group_is_sound = False

    def received(self, frame: VideoFrame) -> bool:
        if frame.is_corrupt:
            self._group_is_sound = False
            self._pending = dict.fromkeys(self._pending, False)
        return self._pending.pop(frame.pts, False)
