from __future__ import annotations

import os
import pickle
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from av import VideoFrame

from tests.synthetic_video import read_barcodes
from videoseek_env.errors import VideoDecodeError
from videoseek_env.segment import Segment
from videoseek_env.video import ClipCache, ClipRef, VideoInfo, load_clip, open_video

VideoFactory = Callable[[str], Path]

SIDE_PX = 32
CLIP_BYTES = SIDE_PX * SIDE_PX * 3
"""One frame."""


def ref_of(path: Path | str, *indices: int, side_px: int = SIDE_PX) -> ClipRef:
    times = tuple(index / 25 for index in indices)
    return ClipRef(str(path), indices, times, side_px, side_px, Segment(0.0, 1.0), "coarse", 1)


class FakeReader:
    """Counts its reads; each waits for `gate`, and fails as long as `failure` is set."""

    backend = "fake"
    info = VideoInfo(60, 2.4, 0.0, SIDE_PX, SIDE_PX, 25.0, "fake")
    timestamps = np.arange(60) / 25
    keyframe_indices = np.arange(60)

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.reads = 0
        self.gate = threading.Event()
        self.gate.set()
        self.failure: VideoDecodeError | None = None

    def read(
        self, indices: Sequence[int], height: int | None = None, width: int | None = None
    ) -> npt.NDArray[np.uint8]:
        self.reads += 1
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        return np.zeros((len(indices), height or 1, width or 1, 3), np.uint8)

    def close(self) -> None: ...


@pytest.fixture
def fake(tmp_path: Path) -> FakeReader:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"not decoded here")
    return FakeReader(path)


def test_a_clip_has_the_frames_and_times_of_its_reference(video: VideoFactory) -> None:
    path = video("h264.mp4")
    ref = ref_of(path, 4, 30, side_px=64)
    clip = load_clip(ref, open_video(path))
    assert read_barcodes(clip.frames) == [4, 30]
    np.testing.assert_allclose(clip.timestamps_seconds, [4 / 25, 30 / 25])
    assert (clip.segment, clip.strategy) == (ref.segment, ref.strategy)


def test_a_second_load_decodes_nothing(fake: FakeReader) -> None:
    cache = ClipCache(1 << 20)
    first, second = (cache.load(ref_of(fake.path, 1), fake) for _ in range(2))
    assert fake.reads == 1
    assert first.frames is second.frames
    stats = cache.stats
    assert (stats.hits, stats.misses, stats.clips, stats.held_bytes) == (1, 1, 1, CLIP_BYTES)


def test_segment_and_strategy_come_from_each_reference(fake: FakeReader) -> None:
    cache = ClipCache(1 << 20)
    cache.load(ref_of(fake.path, 1), fake)
    other = ClipRef(fake.path, (1,), (0.04,), SIDE_PX, SIDE_PX, Segment(3.0, 4.0), "fine", 9)
    clip = cache.load(other, fake)
    assert fake.reads == 1
    assert (clip.segment, clip.strategy) == (Segment(3.0, 4.0), "fine")


def test_shared_arrays_are_read_only(fake: FakeReader) -> None:
    clip = ClipCache(1 << 20).load(ref_of(fake.path, 1), fake)
    with pytest.raises(ValueError, match="read-only"):
        clip.frames[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        clip.timestamps_seconds[0] = 1


def test_other_frames_sizes_and_files_are_other_clips(fake: FakeReader, tmp_path: Path) -> None:
    cache = ClipCache(1 << 20)
    cache.load(ref_of(fake.path, 1), fake)
    cache.load(ref_of(fake.path, 2), fake)
    cache.load(ref_of(fake.path, 1, side_px=16), fake)
    assert fake.reads == 3
    copy = tmp_path / "copy.mp4"
    shutil.copy(fake.path, copy)
    other = FakeReader(copy)
    cache.load(ref_of(copy, 1), other)
    assert other.reads == 1


def test_a_changed_file_is_decoded_again(fake: FakeReader) -> None:
    cache = ClipCache(1 << 20)
    cache.load(ref_of(fake.path, 1), fake)
    status = Path(fake.path).stat()
    os.utime(fake.path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    cache.load(ref_of(fake.path, 1), fake)
    assert fake.reads == 2


def test_the_least_recently_used_clip_makes_room(fake: FakeReader) -> None:
    cache = ClipCache(2 * CLIP_BYTES)
    for index in (1, 2, 1, 3):  # 2 is the oldest use when 3 comes
        cache.load(ref_of(fake.path, index), fake)
    assert fake.reads == 3
    stats = cache.stats
    assert (stats.evictions, stats.clips, stats.held_bytes) == (1, 2, 2 * CLIP_BYTES)
    cache.load(ref_of(fake.path, 1), fake)
    assert fake.reads == 3
    cache.load(ref_of(fake.path, 2), fake)
    assert fake.reads == 4


def test_a_clip_over_the_bound_is_returned_but_not_kept(fake: FakeReader) -> None:
    cache = ClipCache(CLIP_BYTES)
    cache.load(ref_of(fake.path, 1), fake)
    assert len(cache.load(ref_of(fake.path, 1, 2), fake).frames) == 2
    stats = cache.stats
    assert (stats.clips, stats.evictions) == (1, 0)


def test_a_bound_of_zero_keeps_nothing(fake: FakeReader) -> None:
    cache = ClipCache(0)
    cache.load(ref_of(fake.path, 1), fake)
    assert cache.stats.clips == 0


def test_a_negative_bound_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        ClipCache(-1)


def test_clear_drops_every_clip(fake: FakeReader) -> None:
    cache = ClipCache(1 << 20)
    cache.load(ref_of(fake.path, 1), fake)
    cache.clear()
    assert (cache.stats.clips, cache.stats.held_bytes) == (0, 0)


def _load_at_once(cache: ClipCache, reader: FakeReader, count: int) -> list[object]:
    """Outcomes of `count` equal loads, all of which began before the decode ended."""
    reader.gate.clear()
    outcomes: list[object] = []

    def work() -> None:
        try:
            outcomes.append(cache.load(ref_of(reader.path, 1), reader).frames)
        except VideoDecodeError as error:
            outcomes.append(error)

    workers = [threading.Thread(target=work) for _ in range(count)]
    for worker in workers:
        worker.start()
    while cache.stats.hits + cache.stats.misses < count:
        pass
    reader.gate.set()
    for worker in workers:
        worker.join()
    return outcomes


def test_equal_loads_at_once_decode_once(fake: FakeReader) -> None:
    outcomes = _load_at_once(ClipCache(1 << 20), fake, 6)
    assert fake.reads == 1
    assert len({id(outcome) for outcome in outcomes}) == 1


def test_a_failed_decode_reaches_all_who_wait_and_is_tried_again(fake: FakeReader) -> None:
    cache = ClipCache(1 << 20)
    fake.failure = VideoDecodeError(fake.path, "fake", "broken", "Mend it.")
    assert _load_at_once(cache, fake, 4) == [fake.failure] * 4
    assert fake.reads == 1
    fake.failure = None
    assert len(cache.load(ref_of(fake.path, 1), fake).frames) == 1
    assert fake.reads == 2


def test_what_is_pending_can_be_forgotten_and_is_decoded_anew(fake: FakeReader) -> None:
    cache, hung = ClipCache(1 << 20), FakeReader(Path(fake.path))
    hung.gate.clear()
    leader = threading.Thread(target=cache.load, args=(ref_of(fake.path, 1), hung))
    leader.start()
    while not hung.reads:
        pass
    cache.forget_pending()
    fresh = cache.load(ref_of(fake.path, 1), fake).frames
    assert (hung.reads, fake.reads) == (1, 1)
    hung.gate.set()  # it comes to an end after all, and changes nothing
    leader.join()
    assert cache.load(ref_of(fake.path, 1), fake).frames is fresh
    assert cache.stats.clips == 1 and cache.stats.held_bytes == fresh.nbytes


def test_a_file_that_is_gone_is_a_decode_error(fake: FakeReader) -> None:
    Path(fake.path).unlink()
    with pytest.raises(VideoDecodeError, match="it is gone"):
        ClipCache(1 << 20).load(ref_of(fake.path, 1), fake)


def test_a_pickled_cache_arrives_empty_with_the_same_bound(fake: FakeReader) -> None:
    cache = ClipCache(1 << 20)
    cache.load(ref_of(fake.path, 1), fake)
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.max_bytes, copy.stats.clips, copy.stats.misses) == (1 << 20, 0, 0)


def test_a_folder_of_frames_at_two_rates_is_decoded_once_and_timed_twice(tmp_path: Path) -> None:
    for number in range(4):
        picture = np.full((SIDE_PX, SIDE_PX, 3), 10 * number, np.uint8)
        VideoFrame.from_ndarray(picture, format="rgb24").save(tmp_path / f"{number}.png")
    cache, times = ClipCache(1 << 20), []
    for fps in (1.0, 4.0):
        reader = open_video(tmp_path, frame_fps=fps)
        seconds = tuple(reader.timestamps[[1, 3]].tolist())
        ref = ClipRef(
            str(tmp_path), (1, 3), seconds, SIDE_PX, SIDE_PX, Segment(0.0, 4.0), "fine", 1
        )
        times.append(cache.load(ref, reader).timestamps_seconds.tolist())
    assert times == [[1.0, 3.0], [0.25, 0.75]]
    assert (cache.stats.misses, cache.stats.hits) == (1, 1)


def test_a_reference_to_another_video_is_refused(fake: FakeReader) -> None:
    ref = ClipRef(fake.path, (1,), (9.0,), SIDE_PX, SIDE_PX, Segment(0.0, 10.0), "fine", 1)
    with pytest.raises(VideoDecodeError, match="other times than the clip had"):
        load_clip(ref, fake)
