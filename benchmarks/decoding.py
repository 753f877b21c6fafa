"""What decoding costs, against hand-written loops on the same frames.

    python benchmarks/decoding.py            one hour of video; encoded first (10 minutes)
    python benchmarks/decoding.py --quick    five minutes of video

Each row times both sides in turns within one run and prints the medians of both, and the median of
the rounds' ratios: on a busy machine, trust the ratio. Opening the file is part of every time, and
no index is kept from one opening to the next, unless the row says otherwise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from long_video import FPS, long_video

from videoseek_env.sampling import evenly_spaced, snap_to_keyframes
from videoseek_env.video import open_video
from videoseek_env.video.index_cache import forget_indexes, index_video
from videoseek_env.video.parallel import available_cores

OVERVIEW_FRAMES = 128
OVERVIEW_SIZE = (128, 224)
CROP_SIZE = (252, 448)
"""Height and width, pixels."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: the time of `ours` should be at most `bound` times that of `peer`."""

    title: str
    ours: Callable[[], object]
    peer_name: str
    peer: Callable[[], object]
    bound: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="five minutes of video, fewer rounds")
    parser.add_argument("--rounds", type=int, default=None, help="repetitions of each row")
    default_folder = Path(tempfile.gettempdir()) / "videoseek-benchmark"
    parser.add_argument("--folder", type=Path, default=default_folder, help="for the test videos")
    arguments = parser.parse_args()
    seconds = 300 if arguments.quick else 3600
    rounds = arguments.rounds or (3 if arguments.quick else 7)
    paths = {gop: long_video(arguments.folder, seconds=seconds, gop_frames=gop) for gop in GOPS}
    b_frames = long_video(arguments.folder, seconds=300, gop_frames=250, preset="medium")
    print(f"{seconds} s, 640x360 H.264 at {FPS} fps; {rounds} rounds; medians\n")
    print(f"{'ours':44} {'s':>8}   {'peer':40} {'s':>8} {'ratio':>7} {'bound':>6}")
    for row in [*_pyav_rows(paths[250], b_frames), *_gop_rows(paths), *_decord_rows(paths[250])]:
        _print_row(row, rounds)


GOPS = (50, 250, 1000)
"""Frames from keyframe to keyframe."""


def _print_row(row: Row, rounds: int) -> None:
    row.ours(), row.peer()  # warm the page cache
    pairs = [(_seconds(row.ours), _seconds(row.peer)) for _ in range(rounds)]
    ours, peer = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(ours / peer for ours, peer in pairs)
    verdict = "" if ratio <= row.bound else "  over"
    print(
        f"{row.title:44} {ours:8.3f}   {row.peer_name:40} {peer:8.3f} {ratio:7.2f} "
        f"{row.bound:6.2f}{verdict}",
        flush=True,
    )


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _pyav_rows(path: Path, b_frames: Path) -> list[Row]:
    exact, keyframes = _exact_overview(path), _keyframe_overview(path)
    middle = len(open_video(path).timestamps) // 2
    crop = range(middle, middle + 20 * FPS, FPS // 2)
    dense = range(middle, middle + 10 * FPS)

    def ours(indices: _Indices, threads: int | None, size: _Size = OVERVIEW_SIZE) -> _Work:
        return lambda: _read(path, indices, size, threads)

    def raw(indices: _Indices, size: _Size = OVERVIEW_SIZE) -> _RawWork:
        return _raw_pyav(path, indices, size)

    def ours_open(indices: _Indices, threads: int | None, size: _Size = OVERVIEW_SIZE) -> _Work:
        reader = open_video(path, threads=threads)
        return lambda: reader.read(indices, *size)

    def raw_open(indices: _Indices, size: _Size = OVERVIEW_SIZE) -> _Work:
        container = av.open(path)
        return lambda: raw(indices, size)(container)

    b_exact = _exact_overview(b_frames)
    return [
        Row("overview, exact, 1 thread", ours(exact, 1), "raw loop", raw(exact), 1.1),
        Row("overview, exact", ours(exact, None), "ours, 1 thread", ours(exact, 1), 1 / 1.6),
        Row(
            "overview, exact, already open",
            ours_open(exact, None),
            "a process per core, a share each",
            _processes(path, exact),
            1.1,
        ),
        Row("overview, keyframes", ours(keyframes, None), "exact", ours(exact, None), 1 / 3),
        Row("overview, keyframes, 1 thread", ours(keyframes, 1), "exact", ours(exact, 1), 1 / 3),
        Row(
            "overview, keyframes, 1 thread",
            ours(keyframes, 1),
            "raw keyframes",
            _raw_keyframes(path, keyframes, OVERVIEW_SIZE),
            1.5,
        ),
        Row(
            "20 s at 2 fps, already open, 1 thread",
            ours_open(crop, 1, CROP_SIZE),
            "raw loop, already open",
            raw_open(crop, CROP_SIZE),
            1.1,
        ),
        Row(
            "20 s at 2 fps, already open",
            ours_open(crop, None, CROP_SIZE),
            "ours, 1 thread",
            ours_open(crop, 1, CROP_SIZE),
            1.0,
        ),
        Row(
            "10 s, every frame, already open, 1 thread",
            ours_open(dense, 1),
            "raw loop, already open",
            raw_open(dense),
            1.1,
        ),
        Row(
            "5 min with B-frames, exact, 1 thread",
            lambda: _read(b_frames, b_exact, OVERVIEW_SIZE, 1),
            "raw loop",
            _raw_pyav(b_frames, b_exact, OVERVIEW_SIZE),
            1.1,
        ),
        Row("opening", lambda: _open(path), "opening with av.open", lambda: av.open(path), 20),
    ]


def _gop_rows(paths: dict[int, Path]) -> list[Row]:
    """The same number of keyframes from files of unlike keyframe distance."""
    count = min(len(open_video(path).keyframe_indices) for path in paths.values())
    spread = {gop: _spread_keyframes(path, min(count, 100)) for gop, path in paths.items()}

    def ours(gop: int) -> _Work:
        return lambda: _read(paths[gop], spread[gop], OVERVIEW_SIZE, 1)

    return [
        Row(f"{len(spread[gop])} keyframes, GOP {gop}", ours(gop), "GOP 250", ours(250), 1.25)
        for gop in GOPS
    ]


def _decord_rows(path: Path) -> list[Row]:
    try:
        import decord
    except ImportError:
        print("decord is not installed: its rows are left out")
        return []
    exact = _exact_overview(path)
    height, width = OVERVIEW_SIZE
    reader = open_video(path, "decord")
    peer = decord.VideoReader(str(path), height=height, width=width)
    reader.read([0], height, width)
    return [
        Row(
            "decord, overview, exact, already open",
            lambda: reader.read(exact, height, width),
            "decord's get_batch",
            lambda: peer.get_batch(exact).asnumpy(),
            1.1,
        )
    ]


_Indices = Sequence[int]
_Size = tuple[int, int]
_Work = Callable[[], object]


class _RawWork(Protocol):
    """Decodes from an open container, or opens the file itself."""

    def __call__(self, container: InputContainer | None = None) -> object: ...


def _open(path: Path) -> object:
    forget_indexes()
    return open_video(path)


def _read(path: Path, indices: _Indices, size: _Size, threads: int | None) -> object:
    forget_indexes()
    reader = open_video(path, threads=threads)
    frames = reader.read(indices, *size)
    reader.close()
    return frames


def _exact_overview(path: Path) -> list[int]:
    timestamps = open_video(path).timestamps
    return list(evenly_spaced(timestamps, 0, len(timestamps) - 1, OVERVIEW_FRAMES).tolist())


def _keyframe_overview(path: Path) -> list[int]:
    reader = open_video(path)
    keyframes = reader.keyframe_indices
    count = min(OVERVIEW_FRAMES, len(keyframes))
    timestamps = reader.timestamps
    wanted = evenly_spaced(timestamps, 0, len(timestamps) - 1, count)
    snapped = snap_to_keyframes(wanted, timestamps, keyframes)
    return [index for index in snapped.tolist() if index in set(keyframes.tolist())]


def _spread_keyframes(path: Path, count: int) -> list[int]:
    keyframes = open_video(path).keyframe_indices
    return list(keyframes[np.linspace(0, len(keyframes) - 1, count).astype(int)].tolist())


def _processes(path: Path, indices: _Indices) -> _Work:
    """What the cores can give: independent processes, each with its share of the frames."""
    reader, count = open_video(path, threads=1), available_cores()
    shares = [share.tolist() for share in np.array_split(np.asarray(indices), count)]

    def work() -> None:
        children = []
        for share in shares:
            child = os.fork()
            if child == 0:
                reader.read(share, *OVERVIEW_SIZE)
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)

    return work


def _raw_pyav(path: Path, indices: _Indices, size: _Size) -> _RawWork:
    """A loop as one would write it by hand, told the times and keyframes for free."""
    index = index_video(path, "pyav")
    wanted = [int(index.frames.pts[at]) for at in indices]
    groups = [int(index.frames.entry[at]) for at in indices]
    height, width = size

    def decode(container: InputContainer) -> object:
        pictures: list[npt.NDArray[np.generic]] = []
        group_now: int | None = None
        frames: Iterator[av.VideoFrame] = iter(())
        stream = container.streams.video[0]
        if not stream.codec_context.is_open:
            stream.codec_context.thread_count = 1
        scaler = VideoReformatter()
        for pts, group in zip(wanted, groups, strict=True):
            if group != group_now:
                container.seek(pts, stream=stream)
                frames, group_now = container.decode(stream), group
            frame = next(frame for frame in frames if frame.pts == pts)
            rgb = scaler.reformat(frame, width=width, height=height, format="rgb24", threads=1)
            pictures.append(rgb.to_ndarray())
        return np.stack(pictures)

    def work(container: InputContainer | None = None) -> object:
        if container is not None:
            return decode(container)
        with av.open(path) as opened:
            return decode(opened)

    return work


def _raw_keyframes(path: Path, keyframes: _Indices, size: _Size) -> _Work:
    index = index_video(path, "pyav")
    wanted = [int(index.frames.pts[at]) for at in keyframes]
    height, width = size

    def work() -> object:
        pictures: list[npt.NDArray[np.generic]] = []
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.skip_frame = "NONKEY"
            scaler = VideoReformatter()
            for pts in wanted:
                container.seek(pts, stream=stream)
                frame = next(container.decode(stream))
                rgb = scaler.reformat(frame, width=width, height=height, format="rgb24", threads=1)
                pictures.append(rgb.to_ndarray())
        return np.stack(pictures)

    return work


if __name__ == "__main__":
    main()
