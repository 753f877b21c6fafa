"""When the overview looks at a video, and where between its looks something can hide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from videoseek_env.budget import Budget, FrameSize, clip_size, frame_count, overview_frame_count
from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.errors import DatasetError
from videoseek_env.sampling import evenly_spaced, snap_to_keyframes

MAX_LEAD = 0.4
"""How long before its first overview frame an event may start, in overview spacings."""
TURN_FRAMES = 1
"""Frames that a card takes to turn, on either side of the reveal; they show no digit."""
MARGIN_FRAMES = 1
"""Frames at least between an overview frame and the reveal; the turn fills them."""
ATTEMPTS = 100
"""Random placements to try before a video is given up."""
PICKY_ATTEMPTS = 20
"""How many of them insist on reveals that a crop meets twice."""


@dataclass(frozen=True, slots=True)
class Span:
    """Frames of one event."""

    start_frame: int
    end_frame: int
    """First frame after it."""
    reveal_frames: tuple[int, int] | None
    """Face up in [first, end)."""


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The frames of a video that overviews take, exact and from keyframes."""

    fps: int
    frame_count: int
    gop_frames: int
    first_looks: npt.NDArray[np.int64]
    """The earlier of the exact and the keyframe overview's frame, [samples]."""
    last_looks: npt.NDArray[np.int64]
    """The later of the two, [samples]."""
    overview_size: FrameSize
    longest_card_crop_size: FrameSize
    """Pixels of a fine crop of the longest span that a card may have."""
    min_reveal_frames: int
    """A crop of a card's span surely meets a reveal of as many frames."""
    good_reveal_frames: int
    """It meets it twice, and a crop one overview spacing wider on either side meets it once."""

    @classmethod
    def of(cls, config: NeedleConfig, duration_seconds: float) -> Timeline:
        """The timeline of a video of about that length.

        Raises:
            DatasetError: If overview frames lie so close that no digit can hide between them.
        """
        fps, budget = config.fps, config.design_budget
        frames = max(2, round(duration_seconds * fps))
        count = _overview_frames(frames, fps, budget)
        if config.cards != 0 and not _can_hide(frames, fps, budget):
            raise DatasetError(_too_dense(frames, fps, budget))
        times = np.arange(frames) / fps
        exact = evenly_spaced(times, 0, frames - 1, count)
        keyframes = np.arange(0, frames, config.gop_frames)
        snapped = snap_to_keyframes(exact, times, keyframes)
        spacing = (frames - 1) / (count - 1)
        longest = _longest_span_frames(spacing)
        wider = longest + math.ceil(2 * spacing)
        stride = _span_stride(spacing, fps, budget)
        crop_count = _crop_frames(longest, fps, budget)
        size = (config.height, config.width)
        return cls(
            fps=fps,
            frame_count=frames,
            gop_frames=config.gop_frames,
            first_looks=np.minimum(exact, snapped),
            last_looks=np.maximum(exact, snapped),
            overview_size=clip_size(*size, count, quota=budget.overview, grid_px=budget.grid_px),
            longest_card_crop_size=clip_size(
                *size, crop_count, quota=budget.crops["fine"], grid_px=budget.grid_px
            ),
            min_reveal_frames=stride,
            good_reveal_frames=max(2 * stride, _stride(wider, wider, fps, budget)),
        )

    @property
    def samples(self) -> int:
        """Frames of the overview."""
        return len(self.first_looks)

    @property
    def spacing_frames(self) -> float:
        """Frames from one overview frame to the next."""
        return (self.frame_count - 1) / (self.samples - 1)

    @property
    def duration_seconds(self) -> float:
        """Length of the video."""
        return self.frame_count / self.fps

    def has_room(self, cards: int, others: int) -> bool:
        """Whether so many cards and other events surely fit, an empty sample after each."""
        return 3 * cards + 2 * others <= self.samples - 2

    def place(self, rng: np.random.Generator, is_card: list[bool]) -> list[Span]:
        """Give every event its frames, in order, one overview spacing or more apart.

        Raises:
            DatasetError: If no placement was found.
        """
        for attempt in range(ATTEMPTS):
            # Spread out and long to be seen at first; packed and brief when that keeps failing.
            spread = 1 - attempt / ATTEMPTS
            good = attempt < PICKY_ATTEMPTS
            room = self.good_reveal_frames if good else self.min_reveal_frames
            spans = self._try_place(rng, is_card, spread, room)
            if spans is not None:
                return spans
        raise DatasetError(
            f"found no place for {len(is_card)} events in {self.duration_seconds:.0f} seconds; "
            "ask for fewer, or for longer videos"
        )

    def _try_place(
        self, rng: np.random.Generator, is_card: list[bool], spread: float, room: int
    ) -> list[Span] | None:
        needed = sum(3 if card else 2 for card in is_card)
        slack = max(0, int((self.samples - 2 - needed) * spread))
        pauses = np.diff(np.sort(rng.integers(0, slack + 1, len(is_card))), prepend=0)
        spans: list[Span] = []
        sample = 1
        for card, pause in zip(is_card, pauses.tolist(), strict=True):
            sample += pause
            after = spans[-1].end_frame + self.spacing_frames + 1 if spans else 0.0
            found = None
            while found is None and sample + card < self.samples - 1:
                found = self._span(rng, sample, card, after, room)
                sample += 1
            if found is None:
                return None
            spans.append(found)
            sample += 1 + card
        return spans

    def _span(
        self, rng: np.random.Generator, sample: int, card: bool, after: float, room: int
    ) -> Span | None:
        """An event over the overview's frames `sample` (and the next, for a card), or None."""
        lead, tail = (MAX_LEAD * self.spacing_frames * rng.uniform(0.1, 1.0, 2)).tolist()
        first, last = int(self.first_looks[sample]), int(self.last_looks[sample + card])
        start = max(first - int(lead), math.ceil(after))
        end = min(last + 1 + int(tail), self.frame_count)
        if start > first or (card and end - start > _longest_span_frames(self.spacing_frames)):
            return None
        if not card:
            return Span(start, end, None)
        reveal = self._reveal(rng, sample, room)
        return None if reveal is None else Span(start, end, reveal)

    def _reveal(self, rng: np.random.Generator, sample: int, needed: int) -> tuple[int, int] | None:
        """Frames strictly between two overview frames, turns and margin apart."""
        earliest = int(self.last_looks[sample]) + 1 + MARGIN_FRAMES
        latest = int(self.first_looks[sample + 1]) - MARGIN_FRAMES
        room = latest - earliest
        if room < needed:
            return None
        shortest = max(needed, min(room, self.good_reveal_frames))
        length = int(rng.integers(shortest, room + 1))
        start = earliest + int(rng.integers(0, room - length + 1))
        return start, start + length


def _overview_frames(frames: int, fps: int, budget: Budget) -> int:
    return max(2, overview_frame_count(frames / fps, frames, budget=budget))


def _crop_frames(length: int, fps: int, budget: Budget) -> int:
    """Frames of a crop of a span of `length` frames; the one at its end is shown too."""
    return frame_count(
        length / fps,
        length + 1,
        sampling_fps=budget.sampling_fps,
        max_frames=budget.max_crop_frames,
    )


def _stride(shortest: int, longest: int, fps: int, budget: Budget) -> int:
    """Frames between two frames of a crop, at most, for spans of that many frames."""
    # Counts are even, which matters least for long spans; a limit on frames matters for them only.
    lengths = [longest, *range(shortest, min(longest, shortest + 4 * fps))]
    strides: list[int] = []
    for length in lengths:
        steps = max(1, _crop_frames(length, fps, budget) - 1)
        strides.append(math.ceil(length / steps))
    return max(strides)


def _span_stride(spacing: float, fps: int, budget: Budget) -> int:
    return _stride(math.ceil(spacing), _longest_span_frames(spacing), fps, budget)


def _longest_span_frames(spacing: float) -> int:
    # Two overview frames, a lead and a tail, and what keyframes may add.
    return math.ceil((1 + 2 * MAX_LEAD + 0.4) * spacing) + 1


def _can_hide(frames: int, fps: int, budget: Budget) -> bool:
    spacing = (frames - 1) / (_overview_frames(frames, fps, budget) - 1)
    room = math.floor(spacing) - 1 - 2 * MARGIN_FRAMES
    return room >= _span_stride(spacing, fps, budget)


def hiding_seconds(duration_seconds: float, fps: int, budget: Budget) -> float:
    """The least length from `duration_seconds` on at which digits can hide, by steps of 2 %."""
    shortest = max(2, round(duration_seconds * fps))
    frames = shortest
    while not _can_hide(frames, fps, budget) and frames < 1000 * shortest:
        frames = math.ceil(frames * 1.02)
    return duration_seconds if frames == shortest else frames / fps


def _too_dense(frames: int, fps: int, budget: Budget) -> str:
    longer_seconds = hiding_seconds(frames / fps, fps, budget)
    count = _overview_frames(frames, fps, budget)
    return (
        f"the budget {budget.name!r} takes {count} overview frames of a video of "
        f"{frames / fps:.0f} seconds at {fps} fps: no digit can hide between them that a crop "
        f"would surely show. Use videos of at least {math.ceil(longer_seconds)} seconds, or a "
        "budget with fewer overview frames"
    )
