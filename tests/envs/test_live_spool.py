from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from av import Packet
from av.video.stream import VideoStream
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.live_spool import PacketSpool
from tests.synthetic_video import read_barcodes, remux, write_video
from videoseek_env.errors import VideoDecodeError
from videoseek_env.video import VideoReader, open_video

FPS = 10

Make = Callable[..., PacketSpool]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes spools, and deletes them after the test."""
    spools = []

    def start(*, segment_seconds: float = 4.0, max_bytes: int = 2**20) -> PacketSpool:
        spool = PacketSpool(
            segment_seconds=segment_seconds, max_bytes=max_bytes, folder=str(tmp_path)
        )
        spools.append(spool)
        return spool

    yield start
    for spool in spools:
        spool.delete()


@pytest.fixture
def spool(make: Make) -> PacketSpool:
    """Files of 4 s."""
    return make()


def packets(spool: PacketSpool, path: Path) -> Iterator[Packet[VideoStream]]:
    """Begin a spool with a stream; its packets as they come."""
    with av.open(str(path)) as container:
        spool.begin(container.streams.video[0])
        yield from container.demux(container.streams.video[0])


def fill(spool: PacketSpool, path: Path) -> VideoReader:
    """Keep a whole stream, and look at it."""
    for packet in packets(spool, path):
        spool.add(packet)
    return spool.read_back(spool.snapshot())


def indices_of(reader: VideoReader) -> list[int]:
    """What the frames say which they are; it is what their times say."""
    shown = read_barcodes(reader.read(range(reader.info.frame_count)))
    np.testing.assert_allclose(reader.timestamps * FPS, shown, atol=0.02)
    return shown


def sound_indices_of(reader: VideoReader) -> list[int]:
    """As `indices_of`, for those frames that are not refused as damaged."""
    sound = []
    for index, seconds in enumerate(reader.timestamps):
        try:
            sound += read_barcodes(reader.read([index]))
        except VideoDecodeError as error:
            assert "damaged" in str(error)
        else:
            assert sound[-1] == round(seconds * FPS)
    return sound


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_was_kept_is_the_stream(
    transport_stream: Path, video: Path, spool: PacketSpool
) -> None:
    reader, whole = fill(spool, transport_stream), open_video(video)
    assert indices_of(reader) == list(range(300))
    assert reader.keyframe_indices.tolist() == whole.keyframe_indices.tolist()
    assert reader.info.start_seconds == 0.0
    assert reader.info.end_seconds == pytest.approx(30.0)
    assert (reader.info.height, reader.info.width) == (whole.info.height, whole.info.width)
    assert spool.end_seconds == pytest.approx(30.0)


def test_frames_come_across_files_in_the_order_asked_for(
    transport_stream: Path, spool: PacketSpool
) -> None:
    reader = fill(spool, transport_stream)
    asked = [299, 0, 41, 40, 39, 41, 150]
    assert read_barcodes(reader.read(asked, 64, 96)) == asked
    assert reader.read([], 64, 96).shape == (0, 64, 96, 3)
    with pytest.raises(IndexError, match=r"\[0, 300\)"):
        reader.read([300])


@settings(max_examples=20)
@given(count=st.integers(1, 300))
def test_at_any_moment_all_frames_are_there_up_to_the_complete_time(
    transport_stream: Path, count: int
) -> None:
    spool = PacketSpool(segment_seconds=4.0, max_bytes=2**20)
    for packet in islice(packets(spool, transport_stream), count):
        spool.add(packet)
    reader = spool.read_back(spool.snapshot())
    # With B-frames, decoding starts at -0.2 s: after two packets nothing is complete.
    complete = np.arange(300)[np.arange(300) <= spool.complete_seconds * FPS + 0.01]
    assert max(0, count - 2) <= len(complete) <= count
    assert indices_of(reader)[: len(complete)] == complete.tolist()
    spool.delete()


def test_before_its_first_frame_a_stream_has_no_time(spool: PacketSpool) -> None:
    assert (spool.complete_seconds, spool.end_seconds) == (-np.inf, None)


def test_time_counts_from_the_first_keyframe(
    video: Path, tmp_path: Path, spool: PacketSpool
) -> None:
    late = remux(video, tmp_path / "late.ts", shift_seconds=Fraction(1000))
    for packet in islice(packets(spool, late), 5, None):  # coming in after the first keyframe
        spool.add(packet)
    reader = spool.read_back(spool.snapshot())
    shown = read_barcodes(reader.read(range(reader.info.frame_count)))
    first_keyframe = min(index for index in open_video(video).keyframe_indices if index > 5)
    assert shown == list(range(first_keyframe, 300))
    np.testing.assert_allclose(reader.timestamps * FPS, np.arange(len(shown)), atol=0.02)


def test_a_snapshot_stays_as_it_was_while_the_stream_goes_on(
    video: Path, transport_stream: Path, make: Make
) -> None:
    spool = make(segment_seconds=2.0, max_bytes=video.stat().st_size // 4)
    arriving = packets(spool, transport_stream)
    for packet in islice(arriving, 100):
        spool.add(packet)
    early = spool.read_back(spool.snapshot())
    before = indices_of(early)
    for packet in arriving:  # drops every file that the snapshot has
        spool.add(packet)
    assert indices_of(early) == before
    late = spool.read_back(spool.snapshot())
    assert indices_of(late)[0] > before[-1]
    with pytest.raises(VideoDecodeError):
        early.read([0])


def test_what_is_kept_is_bounded_and_the_rest_stays_exact(
    video: Path, transport_stream: Path, tmp_path: Path, make: Make
) -> None:
    bound = video.stat().st_size // 4  # that has no padding, as a transport stream does
    spool = make(segment_seconds=2.0, max_bytes=bound)
    reader = fill(spool, transport_stream)
    shown = indices_of(reader)
    assert shown == list(range(shown[0], 300))
    assert 20 <= len(shown) <= 100
    assert reader.info.start_seconds == pytest.approx(shown[0] / FPS)
    # Closed files up to the bound, and the one that is in the making.
    assert sum(path.stat().st_size for path in files_in(tmp_path)) <= 1.5 * bound
    spool.delete()
    assert files_in(tmp_path) == []


def test_a_snapshot_costs_two_files(
    transport_stream: Path, tmp_path: Path, spool: PacketSpool
) -> None:
    reader = fill(spool, transport_stream)
    # 30 s in files of 4 s: seven closed ones, the last in the making, and the list of them.
    assert len(files_in(tmp_path)) == 7 + 2
    assert Path(reader.path).suffix == ".ffconcat"
    second = spool.read_back(spool.snapshot())
    assert len(files_in(tmp_path)) == 7 + 4
    second.delete_snapshot()
    assert len(files_in(tmp_path)) == 7 + 2


def test_a_group_of_pictures_over_the_bound_is_an_error(tmp_path: Path, make: Make) -> None:
    options = {"x264-params": "scenecut=0"}
    path = write_video(tmp_path / "v.ts", 300, fps=FPS, gop_frames=1000, options=options)
    with pytest.raises(ValueError, match="max_bytes=2000 is too little for one file"):
        fill(make(max_bytes=2000), path)


def test_times_that_jump_back_are_an_error(
    transport_stream: Path, tmp_path: Path, spool: PacketSpool
) -> None:
    path = tmp_path / "twice.ts"
    path.write_bytes(transport_stream.read_bytes() * 2)
    with pytest.raises(ValueError, match=r"times jump back from 29\.9 s to 0\.0 s"):
        fill(spool, path)


def test_lost_packets_leave_a_gap_up_to_the_next_keyframe(
    transport_stream: Path, tmp_path: Path, spool: PacketSpool
) -> None:
    data, size = transport_stream.read_bytes(), 188
    middle = len(data) // size // 2 * size
    path = tmp_path / "lossy.ts"
    path.write_bytes(data[:middle] + data[middle + 20 * size :])
    missing = sorted(set(range(300)) - set(indices_of(fill(spool, path))))
    # Half of the file is at about 15 s, and keyframes are at most 2 s apart.
    assert 5 < len(missing) < 30
    assert missing[0] > 130 and missing[-1] < 180


def test_damage_is_refused_and_never_shown(
    transport_stream: Path, tmp_path: Path, spool: PacketSpool
) -> None:
    data = bytearray(transport_stream.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path = tmp_path / "damaged.ts"
    path.write_bytes(data)
    assert 250 < len(sound_indices_of(fill(spool, path))) < 300


@pytest.mark.parametrize(
    ("codec", "options", "least"),
    [
        # Four cuts, and at most two B-frames lead each keyframe.
        ("libx265", {"x265-params": "log-level=none:open-gop=1:scenecut=0"}, 92),
        # The decoder refuses what is cut from what it refers to.
        ("libx264", {"x264-params": "open-gop=1:scenecut=0"}, 20),
    ],
)
def test_open_groups_lack_frames_at_cuts_and_no_wrong_one_is_shown(
    tmp_path: Path, make: Make, codec: str, options: dict[str, str], least: int
) -> None:
    path = write_video(
        tmp_path / "open.ts", 100, fps=FPS, codec=codec, gop_frames=20, options=options
    )
    reader = fill(make(segment_seconds=2.0), path)
    assert least <= len(sound_indices_of(reader)) <= 100
