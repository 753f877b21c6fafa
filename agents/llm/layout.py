"""How each model family reads a clip: which tokens, at which rotary positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from agents.llm.context import Chunk, ContextClip, Grid
from agents.llm.vision import pair_times, seconds_per_pair
from agents.llm.vocabulary import Vocabulary
from videoseek_env.budget import PRESETS, temporal_pairs
from videoseek_env.errors import ConfigError
from videoseek_env.video.clip import ClipRef


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLayout:
    """How a clip becomes tokens.

    Qwen3-VL writes the time of every pair of frames before its visual tokens. Qwen2.5-VL has one
    block of visual tokens, whose rotary time positions follow the clock.

    Raises:
        ConfigError: If not exactly one of `timestamp` and `tokens_per_second` is given.
    """

    cell_px: int
    """Side of a visual token's cell in pixels: patch times merge."""
    timestamp: str | None = None
    """Template of the text before each pair of frames; may use {seconds}."""
    tokens_per_second: float | None = None
    """Rotary time positions per second of video."""

    def __post_init__(self) -> None:
        if (self.timestamp is None) == (self.tokens_per_second is None):
            raise ConfigError("a clip carries its times either as text or as rotary positions")

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The layout of a transformers model.

        A `timestamp_format` in the configuration replaces Qwen3-VL's "<12.5 seconds>".

        Raises:
            ConfigError: If the model is neither Qwen2.5-VL nor Qwen3-VL.
        """
        if config.model_type not in ("qwen2_5_vl", "qwen3_vl"):
            raise ConfigError(
                f"expected a model of type qwen2_5_vl or qwen3_vl, got {config.model_type!r}"
            )
        vision = config.vision_config
        cell_px = vision.patch_size * vision.spatial_merge_size
        if config.model_type == "qwen2_5_vl":
            return cls(cell_px=cell_px, tokens_per_second=float(vision.tokens_per_second))
        timestamp = getattr(config, "timestamp_format", None) or "<{seconds:.1f} seconds>"
        return cls(cell_px=cell_px, timestamp=timestamp)

    def grid(self, ref: ClipRef) -> Grid:
        """The cells of a clip.

        Raises:
            ConfigError: If the frames' sides are no multiples of a cell.
        """
        if ref.height % self.cell_px or ref.width % self.cell_px:
            patch_px = self.cell_px // 2
            fitting = " or ".join(name for name, b in PRESETS.items() if b.patch_px == patch_px)
            raise ConfigError(
                f"frames of {ref.height} x {ref.width} pixels do not divide into the model's cells "
                f"of {self.cell_px} pixels; use a budget with patch_px={patch_px}: {fitting}"
            )
        pairs = temporal_pairs(len(ref.indices))
        return Grid(pairs, ref.height // self.cell_px, ref.width // self.cell_px)

    def write(self, chunk: Chunk, ref: ClipRef, vocabulary: Vocabulary) -> None:
        """Add a clip's tokens; its span reaches from its first visual token to its last."""
        grid = self.grid(ref)
        number = chunk.first_clip + len(chunk.clips)
        chunk.clips.append(ContextClip(ref, grid))
        opening, closing = [vocabulary.vision_start], [vocabulary.vision_end]
        times = np.asarray(ref.timestamps_seconds)
        if self.tokens_per_second is not None:
            scale = self.tokens_per_second * seconds_per_pair(times)
            chunk.text(opening)
            chunk.vision(vocabulary.video_pad, grid, clip=number, seconds_scale=scale)
            chunk.text(closing)
            return
        frame = Grid(1, grid.rows, grid.columns)
        for place, text in enumerate(self._timestamps(ref)):
            inside = number if place else -1
            chunk.text(vocabulary.encode(text), clip=inside)
            chunk.text(opening, clip=inside)
            chunk.vision(vocabulary.video_pad, frame, clip=number)
            chunk.text(closing, clip=number if place < grid.pairs - 1 else -1)

    def count(self, ref: ClipRef, vocabulary: Vocabulary) -> int:
        """Tokens of a clip, timestamps and brackets included."""
        grid = self.grid(ref)
        if self.timestamp is None:
            return grid.tokens + 2
        timestamps = sum(vocabulary.count(text) for text in self._timestamps(ref))
        return grid.tokens + 2 * grid.pairs + timestamps

    def _timestamps(self, ref: ClipRef) -> list[str]:
        template = self.timestamp or ""
        times = pair_times(np.asarray(ref.timestamps_seconds))
        return [template.format(seconds=seconds) for seconds in times.tolist()]
