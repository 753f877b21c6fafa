"""From frames to what the vision towers of Qwen2.5-VL and Qwen3-VL take: pixels, no model.

A patch is a square of p x p pixels over a temporal pair of frames. The towers want patches as rows,
the squares of one visual token next to each other, and inside a row channel, frame, height, width:
the layout of transformers' processors, which can't be used here because their video side needs
torchvision. `patchify` equals them bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from videoseek_env.errors import ConfigError, VideoSeekError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Colour = tuple[float, float, float]
"""One number for each of red, green and blue."""

FAMILY_MEAN_AND_STD: dict[str, tuple[Colour, Colour]] = {
    "qwen2_5_vl": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    "qwen3_vl": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""What the families' video processors subtract and divide by, for colours from 0 to 1."""

_PROCESSOR_FILES = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", None),
    ("preprocessor_config.json", None),
    ("processor_config.json", "image_processor"),
)
"""Where a checkpoint may keep its mean and deviation, and under which key; the first wins."""


_BLOCK_VALUES = 2**17
"""Numbers that are normalised at a time: half a megabyte, which stays in a core's cache."""


class FramesError(VideoSeekError, ValueError):
    """Frames that can't be turned into patches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSpec:
    """How a vision tower wants its pixels.

    Raises:
        ConfigError: If a size is below one, or a deviation is not above zero.
    """

    patch_px: int
    """Side of a patch."""
    merge: int = 2
    """Patches a side of one visual token."""
    temporal: int = 2
    """Frames under one patch."""
    mean: Colour
    """Subtracted from colours that range from 0 to 1."""
    std: Colour
    """What the difference is divided by."""
    files: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The checkpoint's processor files by name: for other programs, and written as they were."""

    def __post_init__(self) -> None:
        sizes = (self.patch_px, self.merge, self.temporal)
        if not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise ConfigError(
                f"patch_px, merge and temporal must be whole numbers above zero, got {self}"
            )
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ConfigError(f"mean and std need three numbers each, got {self}")
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise ConfigError(f"mean must be finite and std above zero, got {self}")

    @property
    def grid_px(self) -> int:
        """Side of a visual token: 28 or 32 pixels. Sides of frames are multiples of it."""
        return self.patch_px * self.merge

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> VisionSpec:
        """The spec of a model that comes without processor files: its family's mean and deviation.

        Args:
            config: Of a Qwen2.5-VL or Qwen3-VL model.

        Raises:
            ConfigError: If the model is of another family.
        """
        model_type = getattr(config, "model_type", None)
        if model_type not in FAMILY_MEAN_AND_STD:
            raise ConfigError(
                f"expected a config of model_type {' or '.join(FAMILY_MEAN_AND_STD)}, "
                f"got {model_type!r}; other vision towers want other patches"
            )
        mean, std = FAMILY_MEAN_AND_STD[model_type]
        vision = config.vision_config
        return cls(
            patch_px=vision.patch_size,
            merge=vision.spatial_merge_size,
            temporal=vision.temporal_patch_size,
            mean=mean,
            std=std,
        )

    @classmethod
    def from_pretrained(
        cls, name: str | Path, config: PretrainedConfig, **hub_options: Any
    ) -> VisionSpec:
        """The spec of a checkpoint: mean and deviation as its processor files say.

        Sizes come from the model's own config. Files of the video processor win over the image
        processor's; without any (offline: without any in the cache) the family's numbers hold.

        Args:
            name: A folder, or a name on the Hugging Face hub.
            config: The model's config.
            hub_options: Such as `revision` and `token`, as everywhere in transformers.

        Raises:
            ConfigError: If the model is of another family, or a file asks for another arithmetic.
            OSError: If there is no such folder, or the hub is needed and can't be reached.
        """
        spec = cls.from_config(config)
        files = _processor_files(name, hub_options)
        fields = _processor_fields(files)
        if not fields:
            return replace(spec, files=files)
        is_usual = fields.get("do_rescale", True) and fields.get("do_normalize", True)
        if not is_usual or not math.isclose(fields.get("rescale_factor", 1 / 255) * 255, 1):
            raise ConfigError(
                f"the processor of {name} does not divide colours by 255 and normalise them, which "
                "is all that patchify does; build a VisionSpec by hand if it fits"
            )
        try:
            mean, std = _colour(fields["image_mean"]), _colour(fields["image_std"])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the processor of {name} needs lists of three numbers") from error
        return replace(spec, mean=mean, std=std, files=files)


def _colour(numbers: Any) -> Colour:
    red, green, blue = map(float, numbers)
    return red, green, blue


def _processor_files(name: str | Path, hub_options: Mapping[str, Any]) -> dict[str, Any]:
    """The processor files of a checkpoint by their names, read as JSON."""
    from transformers.utils import cached_file

    options = dict(hub_options, _raise_exceptions_for_missing_entries=False)
    files = {}
    for file in dict.fromkeys(file for file, _ in _PROCESSOR_FILES):
        path = cached_file(str(name), file, **options)
        if path is None:
            continue
        try:
            files[file] = json.loads(Path(path).read_text("utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is not valid JSON: {error}; download it again") from error
    return files


def _processor_fields(files: Mapping[str, Any]) -> dict[str, Any]:
    """The first processor settings that have a mean and a deviation, or nothing."""
    for file, key in _PROCESSOR_FILES:
        fields = files.get(file)
        if key and isinstance(fields, dict):
            fields = fields.get(key)
        if isinstance(fields, dict) and {"image_mean", "image_std"} <= fields.keys():
            return fields
    return {}


class Grid(NamedTuple):
    """Patches of a clip along time, height and width."""

    pairs: int
    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """Patches of the clip."""
        return self.pairs * self.rows * self.columns


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """One clip as a vision tower takes it."""

    values: torch.Tensor
    """float32 [pairs * rows * columns, 3 * temporal * p * p], normalised colours."""
    grid: Grid


@dataclass(frozen=True, slots=True, eq=False)
class PackedPatches:
    """Several clips one after another: `pixel_values_videos` and `video_grid_thw`."""

    values: torch.Tensor
    """float32 [patches of all clips, 3 * temporal * p * p]."""
    grids: torch.Tensor
    """int64 [C, 3]: pairs, rows, columns."""


def pack(clips: Sequence[Patches]) -> PackedPatches:
    """Put clips one after another; a single clip is not copied.

    Raises:
        FramesError: If there is no clip.
    """
    if not clips:
        raise FramesError("there is no clip to pack")
    values = clips[0].values if len(clips) == 1 else torch.cat([clip.values for clip in clips])
    return PackedPatches(values, torch.tensor([clip.grid for clip in clips]))


def patchify(frames: npt.NDArray[np.uint8], spec: VisionSpec) -> Patches:
    """One clip's patches: ceil(N / temporal) pairs, the last frame repeated to fill the last one.

    Args:
        frames: uint8 [N, H, W, 3], RGB; H and W divide by `spec.grid_px`.
        spec: What the tower wants.

    Raises:
        FramesError: If the frames are of another type or shape.
    """
    grid = grid_of(frames, spec)
    return Patches(patchify_clips([frames], spec).values, grid)


def patchify_clips(clips: Sequence[npt.NDArray[np.uint8]], spec: VisionSpec) -> PackedPatches:
    """The patches of clips of any sizes and lengths, written into one tensor.

    Args:
        clips: Frames of each, as `patchify` takes them.
        spec: What the tower wants.

    Raises:
        FramesError: If there is no clip, or a clip's frames are of another type or shape.
    """
    if not clips:
        raise FramesError("there is no clip to turn into patches")
    grids = [grid_of(frames, spec) for frames in clips]
    ends = np.cumsum([grid.patches for grid in grids])
    pixels = np.empty((ends[-1], 3, spec.temporal * spec.patch_px**2), np.uint8)
    for frames, grid, end in zip(clips, grids, ends, strict=True):
        _arrange(frames, grid, spec, out=pixels[end - grid.patches : end])
    return PackedPatches(_normalise(pixels, spec), torch.tensor(grids))


def grid_of(frames: npt.NDArray[np.uint8], spec: VisionSpec) -> Grid:
    """How many pairs, rows and columns of patches a clip has.

    Raises:
        FramesError: If the frames are of another type or shape.
    """
    _require_frames(frames)
    count, height, width, _ = frames.shape
    if height % spec.grid_px or width % spec.grid_px:
        raise FramesError(
            f"both sides of a frame must divide by {spec.grid_px} pixels, got {height} x {width}; "
            "resize it to videoseek_env.budget.smart_resize(...), or check the budget's patch_px"
        )
    return Grid(-(-count // spec.temporal), height // spec.patch_px, width // spec.patch_px)


def _require_frames(frames: npt.NDArray[np.uint8]) -> None:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        kind = getattr(frames, "dtype", type(frames).__name__)
        raise FramesError(f"expected frames as a uint8 array, got {kind}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise FramesError(
            f"expected frames [N, H, W, 3] with at least one pixel, got {list(frames.shape)}"
        )


def _arrange(
    frames: npt.NDArray[np.uint8], grid: Grid, spec: VisionSpec, *, out: npt.NDArray[np.uint8]
) -> None:
    """Copy pixels into the tower's order, as bytes: a quarter of what moving floats would cost."""
    patch, merge, temporal = spec.patch_px, spec.merge, spec.temporal
    down, across = grid.rows // merge, grid.columns // merge

    def in_order(part: npt.NDArray[np.uint8], pairs: int) -> npt.NDArray[np.uint8]:
        split = part.reshape(pairs, temporal, down, merge, patch, across, merge, patch, 3)
        return split.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)

    target = out.reshape(grid.pairs, down, across, merge, merge, 3, temporal, patch, patch)
    whole = len(frames) // temporal
    target[:whole] = in_order(frames[: whole * temporal], whole)
    if whole < grid.pairs:
        repeats = np.repeat(frames[-1:], grid.pairs * temporal - len(frames), axis=0)
        target[whole:] = in_order(np.concatenate([frames[whole * temporal :], repeats]), 1)


def _normalise(pixels: npt.NDArray[np.uint8], spec: VisionSpec) -> torch.Tensor:
    """Colours [P, 3, n] from 0 to 255 as float32 [P, 3 * n] with the spec's mean and deviation."""
    # numpy asks for huge pages where torch does not: half the time of a large clip is page faults.
    values = torch.from_numpy(np.empty(pixels.shape, np.float32))
    # Scaling mean and deviation, not the colours, gives the same bits as the video processors.
    mean, std = (
        (torch.tensor(colour, dtype=torch.float32) * 255)
        .unsqueeze(1)
        .expand(values.shape[1:])
        .contiguous()
        for colour in (spec.mean, spec.std)
    )
    rows = max(1, _BLOCK_VALUES // values[0].numel())
    blocks = (torch.split(colours, rows) for colours in (values, torch.from_numpy(pixels)))
    for block, source in zip(*blocks, strict=True):
        block.copy_(source).sub_(mean).div_(std)
    return values.flatten(1)


def resize_frames(
    frames: npt.NDArray[np.uint8], *, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Frames of another size, by PIL's bicubic filter as transformers' PIL image processors do it.

    The readers of this library resize while they decode; this is for frames from elsewhere.

    Args:
        frames: uint8 [N, H, W, 3], RGB.
        height: Pixels, at least 1.
        width: Pixels, at least 1.

    Returns:
        uint8 [N, height, width, 3]; the frames themselves if they have that size.

    Raises:
        FramesError: If the frames are of another type or shape, or a side is below one.
    """
    _require_frames(frames)
    if min(height, width) < 1:
        raise FramesError(f"frames need at least one pixel a side, got {height} x {width}")
    if frames.shape[1:3] == (height, width):
        return frames
    resized = np.empty((len(frames), height, width, 3), np.uint8)
    for frame, out in zip(frames, resized, strict=True):
        image = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        out[:] = np.asarray(image)
    return resized


def pair_times(timestamps_seconds: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """When each pair of frames is shown: the mean of its two times; an odd last frame's own time.

    This is the time that Qwen3-VL's prompt writes before a pair.

    Args:
        timestamps_seconds: One time for each frame, at least one.

    Returns:
        float64 [ceil(N / 2)].

    Raises:
        FramesError: If there is no frame, or more than one axis.

    >>> pair_times([0.0, 0.5, 1.0, 1.5, 2.0]).tolist()
    [0.25, 1.25, 2.0]
    """
    times = _times(timestamps_seconds)
    seconds = times[1::2] if len(times) % 2 == 0 else np.append(times[1::2], times[-1])
    return (times[::2] + seconds) / 2


def seconds_per_pair(timestamps_seconds: npt.ArrayLike) -> float:
    """How far apart pairs of frames are: Qwen2.5-VL's `second_per_grid_ts` of a clip.

    Twice the mean spacing of the frames, which for frames at a steady rate is 2 / fps whether their
    number is even or odd. A single frame has no spacing: 1.0, transformers' own default, which no
    position depends on.

    Args:
        timestamps_seconds: One time for each frame, at least one.

    Raises:
        FramesError: If there is no frame, or more than one axis.

    >>> seconds_per_pair([0.0, 0.5, 1.0, 1.5, 2.0])
    1.0
    """
    times = _times(timestamps_seconds)
    if len(times) == 1:
        return 1.0
    return float(2 * (times[-1] - times[0]) / (len(times) - 1))


def _times(timestamps_seconds: npt.ArrayLike) -> npt.NDArray[np.float64]:
    times = np.asarray(timestamps_seconds, np.float64)
    if times.ndim != 1 or not len(times):
        raise FramesError(f"expected one time for each frame, got the shape {list(times.shape)}")
    return times
