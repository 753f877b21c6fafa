"""Frames, pixels and visual tokens: pure functions, and the presets of the published models.

One visual token covers a grid cell of G x G pixels (G = 2 x patch) over a temporal pair of frames:
tokens = ceil(N / 2) * (H / G) * (W / G). Everything here is known before a frame is decoded.
Source: arXiv 2601.23224 and its published configurations (Qwen2.5-VL 7B, Qwen3-VL 4B).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from videoseek_env.errors import BudgetError
from videoseek_env.video.clip import Strategy

MAX_ASPECT_RATIO = 200
MIN_FRAMES = 4
MAX_FRAMES = 768
"""Frames of one clip at most."""
MAX_TOKENS_PER_PAIR = 768
"""Visual tokens of one temporal pair of frames at most."""


class FrameSize(NamedTuple):
    """Pixels of a frame, height first."""

    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Quota:
    """What one clip may cost, in visual tokens, over all its frames.

    A frame has at least one cell a side, so a strip of an extreme aspect ratio may cost more.
    """

    max_tokens: int
    min_tokens: int

    def __post_init__(self) -> None:
        if not 0 < self.min_tokens <= self.max_tokens:
            raise BudgetError(f"expected 0 < min_tokens <= max_tokens, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CropQuotas:
    """The quota of each sampling strategy."""

    coarse: Quota
    medium: Quota
    fine: Quota

    def __getitem__(self, strategy: Strategy) -> Quota:
        """The quota of a strategy by its name."""
        quotas = {"coarse": self.coarse, "medium": self.medium, "fine": self.fine}
        return quotas[strategy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Everything that limits what an agent sees and says in one episode.

    Raises:
        BudgetError: If a limit is not positive, or the reserve swallows the context.
    """

    name: str
    patch_px: int
    """Side of the vision model's patch; a grid cell is two patches wide."""
    overview: Quota
    crops: CropQuotas
    """The quota of each sampling strategy."""
    overview_frames: int | None
    """Frames of the overview; None samples `sampling_fps`, up to 768 frames."""
    sampling_fps: float = 2.0
    """Frames per second of crops, and of overviews without a fixed count."""
    max_crop_frames: int = MAX_FRAMES
    """Frames of one crop at most."""
    context_tokens: int = 32768
    """Length of the context that holds all turns."""
    reserve_tokens: int = 2000
    """Kept free at the end of the context."""
    max_reply_tokens: int = 8192
    """A longer reply is cut, which ends the episode."""

    def __post_init__(self) -> None:
        counts = (
            self.patch_px, self.sampling_fps, self.max_crop_frames, self.context_tokens,
            self.max_reply_tokens, 1 if self.overview_frames is None else self.overview_frames,
        )  # fmt: skip
        if not all(count > 0 for count in counts):
            raise BudgetError(f"every limit must be above zero, got {self}")
        if not 0 <= self.reserve_tokens < self.context_tokens:
            raise BudgetError(
                f"reserve_tokens must lie in [0, {self.context_tokens}), got {self.reserve_tokens}"
            )

    @property
    def grid_px(self) -> int:
        """Side of a visual token's cell: 28 pixels for patch 14, 32 for patch 16."""
        return 2 * self.patch_px

    @property
    def max_side_px(self) -> int:
        """No frame is higher or wider than this."""
        cells = max(
            min(quota.max_tokens, MAX_TOKENS_PER_PAIR)
            for quota in (self.overview, self.crops.coarse, self.crops.medium, self.crops.fine)
        )
        # A strip of the most extreme aspect ratio may be longer than its area alone allows.
        return self.grid_px * max(cells, math.isqrt(MAX_ASPECT_RATIO * cells) + 2)

    @property
    def max_clip_frames(self) -> int:
        """No clip has more frames than this."""
        return max(self.overview_frames or MAX_FRAMES, self.max_crop_frames)


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> FrameSize:
    """The size nearest to the source whose sides are multiples of `factor`, within a pixel range.

    Args:
        height: Source pixels, above zero.
        width: Source pixels, above zero.
        factor: What both sides must divide by.
        min_pixels: Smaller frames are enlarged, inclusive.
        max_pixels: Larger frames are shrunk, inclusive, but never below one cell a side.

    Raises:
        BudgetError: On an aspect ratio over 200, or a side of zero.

    >>> smart_resize(360, 640, factor=32, min_pixels=1024, max_pixels=98304)
    FrameSize(height=224, width=416)
    """
    if min(height, width) < 1:
        raise BudgetError(f"frames need at least one pixel a side, got {height} x {width}")
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise BudgetError(
            f"aspect ratio of {height} x {width} is over {MAX_ASPECT_RATIO}; crop or pad the video"
        )
    new_height = max(factor, round(height / factor) * factor)
    new_width = max(factor, round(width / factor) * factor)
    if new_height * new_width > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / scale / factor) * factor)
        new_width = max(factor, math.floor(width / scale / factor) * factor)
    elif new_height * new_width < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * scale / factor) * factor
        new_width = math.ceil(width * scale / factor) * factor
    return FrameSize(new_height, new_width)


def frame_count(
    duration_seconds: float,
    total_frames: int,
    *,
    sampling_fps: float = 2.0,
    max_frames: int = MAX_FRAMES,
) -> int:
    """How many frames to sample: even, at least 4, at most min(max_frames, total_frames).

    A source with fewer frames gives what it has, an even number of them or its only one.

    Differs from the paper: the published code divides by zero on a one-frame video.

    Args:
        duration_seconds: Length of the stretch, in seconds.
        total_frames: Frames that the stretch has, at least 1.
        sampling_fps: Frames per second of video.
        max_frames: Upper limit.

    Raises:
        BudgetError: If there is no frame.

    >>> frame_count(10.0, 300), frame_count(3600.0, 108_000), frame_count(1.0, 3), frame_count(1, 1)
    (20, 768, 2, 1)
    """
    wanted = max(duration_seconds * sampling_fps, MIN_FRAMES)
    return _even_count(wanted, total_frames, max_frames)


def _even_count(wanted: float, total_frames: int, max_frames: int) -> int:
    if total_frames < 1:
        raise BudgetError(f"there are no frames to sample, got total_frames={total_frames}")
    return max(1, int(min(wanted, max_frames, total_frames)) // 2 * 2)


def overview_frame_count(duration_seconds: float, total_frames: int, *, budget: Budget) -> int:
    """How many frames the overview of a whole video has."""
    if budget.overview_frames is not None:
        return _even_count(budget.overview_frames, total_frames, MAX_FRAMES)
    return frame_count(duration_seconds, total_frames, sampling_fps=budget.sampling_fps)


def clip_size(height: int, width: int, frames: int, *, quota: Quota, grid_px: int) -> FrameSize:
    """The size of each frame of a clip under its quota.

    Per pair of frames: at most min(quota // pairs, 768) tokens, at least min_quota // pairs.

    >>> clip_size(360, 640, 128, quota=Quota(6144, 256), grid_px=32)
    FrameSize(height=224, width=416)
    """
    pairs = temporal_pairs(frames)
    max_tokens = max(1, min(quota.max_tokens // pairs, MAX_TOKENS_PER_PAIR))
    min_tokens = min(quota.min_tokens // pairs, max_tokens)
    return smart_resize(
        height,
        width,
        factor=grid_px,
        min_pixels=min_tokens * grid_px**2,
        max_pixels=max_tokens * grid_px**2,
    )


def temporal_pairs(frames: int) -> int:
    """Pairs of frames of a clip; an odd last frame counts as a pair."""
    return (frames + 1) // 2


def visual_tokens(frames: int, size: FrameSize, *, grid_px: int) -> int:
    """Visual tokens of a clip: ceil(N / 2) * (H / G) * (W / G).

    >>> visual_tokens(128, FrameSize(224, 416), grid_px=32)
    5824
    """
    return temporal_pairs(frames) * (size.height // grid_px) * (size.width // grid_px)


def approximate_text_tokens(text: str) -> int:
    """Text tokens without a tokenizer: four UTF-8 bytes each, rounded up.

    >>> approximate_text_tokens("Which digit?"), approximate_text_tokens("")
    (3, 0)
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


QWEN2_5_VL = Budget(
    name="qwen2.5-vl",
    patch_px=14,
    overview=Quota(16384, 512),
    crops=CropQuotas(coarse=Quota(2048, 512), medium=Quota(4096, 512), fine=Quota(6144, 512)),
    overview_frames=None,
)
"""The paper's 7B model."""

QWEN3_VL = Budget(
    name="qwen3-vl",
    patch_px=16,
    overview=Quota(6144, 256),
    crops=CropQuotas(coarse=Quota(1024, 256), medium=Quota(2048, 256), fine=Quota(3072, 256)),
    overview_frames=128,
)
"""The later 4B model."""

LAPTOP = Budget(
    name="laptop",
    patch_px=16,
    overview=Quota(960, 64),
    crops=CropQuotas(coarse=Quota(256, 32), medium=Quota(512, 32), fine=Quota(1024, 32)),
    overview_frames=64,
    max_crop_frames=32,
    context_tokens=8192,
    reserve_tokens=512,
    max_reply_tokens=1024,
)
"""Cheap enough for a laptop: an overview of 64 frames, 224 x 128 pixels at 16:9."""

TINY = Budget(
    name="tiny",
    patch_px=16,
    overview=Quota(10, 10),
    crops=CropQuotas(coarse=Quota(4, 4), medium=Quota(8, 4), fine=Quota(16, 4)),
    overview_frames=20,
    max_crop_frames=8,
    context_tokens=1024,
    reserve_tokens=64,
    max_reply_tokens=256,
)
"""For models of a million parameters or two: 20 frames of a token a pair, then 8 of four a pair."""

PRESETS: Mapping[str, Budget] = MappingProxyType(
    {budget.name: budget for budget in (QWEN2_5_VL, QWEN3_VL, LAPTOP, TINY)}
)


def get_budget(budget: str | Budget) -> Budget:
    """A preset by its name; a budget is returned as it is.

    Raises:
        BudgetError: If no preset has that name.
    """
    if isinstance(budget, Budget):
        return budget
    if budget not in PRESETS:
        raise BudgetError(f"no budget is named {budget!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[budget]
