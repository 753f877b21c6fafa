import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import Qwen2_5_VLConfig, Qwen2Config, Qwen3VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    smart_resize as image_smart_resize,
)
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import (
    smart_resize as video_smart_resize,
)

from agents.llm.vision import (
    FramesError,
    Grid,
    VisionSpec,
    pack,
    pair_times,
    patchify,
    patchify_clips,
    resize_frames,
    seconds_per_pair,
)
from videoseek_env.budget import get_budget, smart_resize
from videoseek_env.errors import ConfigError
from videoseek_env.sampling import plan_crop, plan_overview
from videoseek_env.segment import Segment
from videoseek_env.video import ClipCache, open_video

QWEN2_5 = VisionSpec.from_config(Qwen2_5_VLConfig())
QWEN3 = VisionSpec.from_config(Qwen3VLConfig())
SPECS = {"qwen2.5": QWEN2_5, "qwen3": QWEN3}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def noise(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(shape).integers(0, 256, (*shape, 3), dtype=np.uint8)


def write(folder: Path, name: str, fields: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(fields))


def video_processor_patches(frames: npt.NDArray[np.uint8], spec: VisionSpec) -> torch.Tensor:
    """What transformers' video processors compute.

    Their `patchify` and their scaling of mean and deviation are called; only the subtraction and
    the division, which they leave to torchvision, are written out. Qwen2.5-VL's processor imports
    torchvision at its top, so that Qwen3-VL's, of the same arithmetic, stands in for it.
    """
    processor = Qwen3VLVideoProcessor()
    mean, std, _ = processor._fuse_mean_std_and_rescale_factor(
        do_normalize=True,
        image_mean=spec.mean,
        image_std=spec.std,
        do_rescale=True,
        rescale_factor=processor.rescale_factor,
    )
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    video = (video - mean[:, None, None]) / std[:, None, None]
    patches, *_ = processor.patchify(video[None], spec.patch_px, spec.merge, spec.temporal)
    return patches[0]


# The spec


def test_the_families_numbers_are_those_of_the_installed_processors() -> None:
    video, image = Qwen3VLVideoProcessor(), Qwen2VLImageProcessorPil()
    assert QWEN3.mean == tuple(video.image_mean) and QWEN3.std == tuple(video.image_std)
    assert QWEN3.patch_px == video.patch_size
    assert (QWEN3.merge, QWEN3.temporal) == (video.merge_size, video.temporal_patch_size)
    assert QWEN2_5.mean == tuple(image.image_mean) and QWEN2_5.std == tuple(image.image_std)
    assert QWEN2_5.patch_px == image.patch_size
    assert (QWEN2_5.merge, QWEN2_5.temporal) == (image.merge_size, image.temporal_patch_size)
    assert (QWEN2_5.grid_px, QWEN3.grid_px) == (28, 32)


def test_sizes_come_from_the_models_own_config() -> None:
    sizes = {"patch_size": 8, "spatial_merge_size": 3, "temporal_patch_size": 4}
    spec = VisionSpec.from_config(Qwen3VLConfig(vision_config=sizes))
    assert (spec.patch_px, spec.merge, spec.temporal, spec.grid_px) == (8, 3, 4, 24)


@pytest.mark.parametrize("config", [Qwen2Config(), object()])
def test_another_family_is_refused_by_name(config: Any) -> None:
    with pytest.raises(ConfigError, match="qwen2_5_vl or qwen3_vl"):
        VisionSpec.from_config(config)


def test_a_checkpoint_without_processor_files_has_its_familys_numbers(tmp_path: Path) -> None:
    write(tmp_path, "processor_config.json", {"processor_class": "Qwen3VLProcessor"})
    assert VisionSpec.from_pretrained(tmp_path, Qwen3VLConfig()) == QWEN3


def test_the_newest_and_most_special_processor_file_wins(tmp_path: Path) -> None:
    def numbers(mean: float) -> dict[str, Any]:
        return {"image_mean": [mean] * 3, "image_std": [1, 1, 1]}

    def mean() -> float:
        return VisionSpec.from_pretrained(str(tmp_path), Qwen3VLConfig()).mean[0]

    write(tmp_path, "processor_config.json", {"image_processor": numbers(0.1)})
    assert mean() == 0.1
    write(tmp_path, "preprocessor_config.json", numbers(0.2))
    assert mean() == 0.2
    write(tmp_path, "video_preprocessor_config.json", numbers(0.3))
    assert mean() == 0.3
    write(tmp_path, "processor_config.json", {"video_processor": numbers(0.4)})
    assert mean() == 0.4


@pytest.mark.parametrize("processor", [Qwen2VLImageProcessorPil, Qwen3VLVideoProcessor])
def test_what_the_real_processors_save_is_read(tmp_path: Path, processor: Any) -> None:
    processor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    spec = VisionSpec.from_pretrained(tmp_path, Qwen3VLConfig())
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert spec.patch_px == 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"do_normalize": False}, "does not divide colours by 255"),
        ({"do_rescale": False}, "does not divide colours by 255"),
        ({"rescale_factor": 1 / 127.5}, "does not divide colours by 255"),
        ({"image_mean": 0.5}, "lists of three numbers"),
        ({"image_mean": [0.5, 0.5]}, "lists of three numbers"),
        ({"image_mean": ["a", 0, 0]}, "lists of three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "std above zero"),
    ],
)
def test_a_processor_file_of_another_arithmetic_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    usual = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 0.00392156862745098}
    write(tmp_path, "preprocessor_config.json", usual)
    VisionSpec.from_pretrained(tmp_path, Qwen3VLConfig())
    write(tmp_path, "preprocessor_config.json", usual | fields)
    with pytest.raises(ConfigError, match=message):
        VisionSpec.from_pretrained(tmp_path, Qwen3VLConfig())


def test_a_processor_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json is not valid JSON"):
        VisionSpec.from_pretrained(tmp_path, Qwen3VLConfig())


def test_a_missing_folder_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        VisionSpec.from_pretrained(tmp_path / "nowhere", Qwen3VLConfig())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_px": 0}, "whole numbers above zero"),
        ({"patch_px": [14, 14]}, "whole numbers above zero"),
        ({"merge": -1}, "whole numbers above zero"),
        ({"mean": (0.5, 0.5)}, "three numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, "finite"),
        ({"std": (0.5, 0.5, 0.0)}, "above zero"),
    ],
)
def test_an_impossible_spec_is_refused(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"patch_px": 16, **PLAIN, **change}
    with pytest.raises(ConfigError, match=message):
        VisionSpec(**fields)


# Patches


def test_a_row_is_colour_frame_height_width_and_a_tokens_squares_are_neighbours() -> None:
    # Patches of one pixel, tokens of 2 x 2 patches, two frames of 2 x 4 pixels. The colour of a
    # pixel is 100 * colour + 50 * frame + 10 * row + column.
    frame, row, column, colour = np.indices((2, 2, 4, 3))
    frames = (100 * colour + 50 * frame + 10 * row + column).clip(0, 255).astype(np.uint8)
    patches = patchify(frames, VisionSpec(patch_px=1, **PLAIN))
    assert patches.grid == Grid(pairs=1, rows=2, columns=4)
    values = (patches.values * 255).round().int().tolist()
    # Red of both frames, green of both, blue of both: of the pixel in the corner,
    assert values[0] == [0, 50, 100, 150, 200, 250]
    # and of red in the first frame: the four pixels of the left token, then of the right one.
    assert [row[0] for row in values] == [0, 1, 10, 11, 2, 3, 12, 13]


def test_inside_a_patch_rows_come_before_columns() -> None:
    # One patch of 2 x 2 pixels, two frames; red is 10 * row + column.
    frames = np.zeros((2, 2, 2, 3), np.uint8)
    frames[..., 0] = [[0, 1], [10, 11]]
    values = patchify(frames, VisionSpec(patch_px=2, merge=1, **PLAIN)).values * 255
    assert values.round().int().tolist() == [[0, 1, 10, 11] * 2 + [0] * 16]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@given(count=st.integers(1, 7), rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_patches_are_the_video_processors_bit_for_bit(
    spec: VisionSpec, count: int, rows: int, columns: int
) -> None:
    frames = noise(count, rows * spec.grid_px, columns * spec.grid_px)
    patches = patchify(frames, spec)
    assert torch.equal(patches.values, video_processor_patches(frames, spec))
    assert patches.grid == (-(-count // 2), 2 * rows, 2 * columns)
    assert patches.grid.patches == len(patches.values)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_frames_are_repeated_to_fill_longer_patches_too(count: int) -> None:
    spec = VisionSpec(patch_px=4, temporal=3, **PLAIN)
    frames = noise(count, 8, 16)
    assert torch.equal(patchify(frames, spec).values, video_processor_patches(frames, spec))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("size", [(100, 180), (33, 64), (250, 90), (64, 64)])
def test_resized_pairs_of_equal_frames_are_the_image_processors(
    spec: VisionSpec, size: tuple[int, int]
) -> None:
    images = noise(2, *size)
    limits = {"shortest_edge": 4 * spec.grid_px**2, "longest_edge": 12 * spec.grid_px**2}
    processor = Qwen2VLImageProcessorPil(
        patch_size=spec.patch_px, image_mean=spec.mean, image_std=spec.std, size=limits
    )
    theirs = processor(list(images), return_tensors="pt")
    height, width = smart_resize(
        *size,
        factor=spec.grid_px,
        min_pixels=limits["shortest_edge"],
        max_pixels=limits["longest_edge"],
    )
    ours = patchify(resize_frames(images.repeat(2, axis=0), height=height, width=width), spec)
    pairs, rows, columns = ours.grid
    assert theirs["image_grid_thw"].tolist() == [[1, rows, columns]] * pairs
    # They divide colours by 255 first, which rounds once more: up to 2e-7 at values around 2.
    torch.testing.assert_close(ours.values, theirs["pixel_values"], rtol=0, atol=1e-6)


def test_read_only_and_strided_frames_give_the_same_patches_and_stay_as_they_are() -> None:
    frames = noise(5, 64, 96)
    expected = patchify(frames, QWEN3).values
    wide = np.zeros((10, 64, 192, 3), np.uint8)
    wide[::2, :, ::2] = frames
    strided = wide[::2, :, ::2]
    strided.flags.writeable = False
    assert torch.equal(patchify(strided, QWEN3).values, expected)
    np.testing.assert_array_equal(strided, frames)


def test_patches_do_not_follow_later_changes_of_the_frames() -> None:
    frames = noise(1, 32, 32)
    patches = patchify(frames, QWEN3)
    before = patches.values.clone()
    frames[:] = 0
    assert torch.equal(patches.values, before)


def test_clips_of_mixed_sizes_and_lengths_are_packed_one_after_another() -> None:
    clips = [noise(5, 32, 64), noise(1, 96, 32), noise(8, 32, 64)]
    single = [patchify(frames, QWEN3) for frames in clips]
    for packed in (patchify_clips(clips, QWEN3), pack(single)):
        assert torch.equal(packed.values, torch.cat([patches.values for patches in single]))
        # Pairs; then sides over patches of 16 pixels.
        assert packed.grids.tolist() == [[3, 2, 4], [1, 6, 2], [4, 2, 4]]
        assert packed.grids.dtype == torch.int64


def test_no_clip_can_not_be_packed() -> None:
    with pytest.raises(FramesError, match="no clip"):
        patchify_clips([], QWEN3)
    with pytest.raises(FramesError, match="no clip"):
        pack([])


@pytest.mark.parametrize(
    ("preset", "spec"), [("tiny", QWEN3), ("laptop", QWEN3), ("qwen2.5-vl", QWEN2_5)]
)
def test_a_decoded_clip_has_as_many_tokens_as_its_reference_says(
    minute_video: Path, preset: str, spec: VisionSpec
) -> None:
    reader, cache = open_video(minute_video), ClipCache(2**26)
    budget = get_budget(preset)
    for ref in (
        plan_overview(reader, budget, "exact"),
        plan_crop(reader, Segment(10.0, 14.0), "fine", budget),
    ):
        clip = cache.load(ref, reader)
        assert not clip.frames.flags.writeable
        patches = patchify(clip.frames, spec)
        assert patches.grid.patches == ref.visual_tokens * spec.merge**2
        assert len(pair_times(clip.timestamps_seconds)) == patches.grid.pairs
    reader.close()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), "uint8 array, got float32"),
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), "uint8 array, got torch.uint8"),
        ([[0]], "uint8 array, got list"),
        (np.zeros((32, 32, 3), np.uint8), r"got \[32, 32, 3\]"),
        (np.zeros((2, 3, 32, 32), np.uint8), r"\[N, H, W, 3\]"),
        (np.zeros((0, 32, 32, 3), np.uint8), "at least one pixel"),
        (np.zeros((2, 0, 32, 3), np.uint8), "at least one pixel"),
        (np.zeros((2, 32, 48, 3), np.uint8), "divide by 32 pixels, got 32 x 48"),
    ],
)
def test_frames_that_fit_no_patches_are_refused(frames: Any, message: str) -> None:
    with pytest.raises(FramesError, match=message):
        patchify(frames, QWEN3)


# Sizes


def test_resized_frames_are_the_image_processors() -> None:
    # 50 / 28 rounds to two tokens, 80 / 28 to three.
    frames = noise(3, 50, 80)
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 6 * 28**2, "longest_edge": 6 * 28**2},
        do_rescale=False,
        do_normalize=False,
    )
    theirs = processor(list(frames), return_tensors="pt")
    assert theirs["image_grid_thw"].tolist() == [[1, 4, 6]] * 3
    ours = resize_frames(frames, height=56, width=84)
    assert ours.shape == (3, 56, 84, 3) and ours.dtype == np.uint8
    # With mean 0 and deviation 1 / 255 patchify leaves colours as they are.
    colours = VisionSpec(patch_px=14, mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255))
    patches = patchify(ours.repeat(2, axis=0), colours).values
    torch.testing.assert_close(patches, theirs["pixel_values"].float(), rtol=1e-6, atol=0)


def test_frames_of_the_wanted_size_are_returned_as_they_are() -> None:
    frames = noise(2, 32, 64)
    assert resize_frames(frames, height=32, width=64) is frames


def test_a_frame_may_shrink_to_a_pixel() -> None:
    frames = np.full((2, 5, 7, 3), 9, np.uint8)
    np.testing.assert_array_equal(
        resize_frames(frames, height=1, width=1), np.full((2, 1, 1, 3), 9)
    )


@pytest.mark.parametrize(("height", "width"), [(0, 32), (32, -1)])
def test_a_side_below_one_pixel_is_refused(height: int, width: int) -> None:
    with pytest.raises(FramesError, match="at least one pixel a side"):
        resize_frames(noise(1, 8, 8), height=height, width=width)


@pytest.mark.parametrize("factor", [28, 32])
@given(
    height=st.integers(28, 4000),
    width=st.integers(28, 4000),
    pairs=st.integers(1, 64),
    limits=st.tuples(st.integers(1, 800), st.integers(1, 800)),
)
def test_smart_resize_is_transformers_for_frames_of_at_least_a_cell_a_side(
    factor: int, height: int, width: int, pairs: int, limits: tuple[int, int]
) -> None:
    assume(min(height, width) >= factor)
    least, most = sorted(limits)
    ours = smart_resize(
        height,
        width,
        factor=factor,
        min_pixels=least * factor**2,
        max_pixels=most * factor**2,
    )
    assert ours == image_smart_resize(height, width, factor, least * factor**2, most * factor**2)
    # The video processor's limits are those of all frames together.
    frames = 2 * pairs
    pixels = factor**2 * frames
    assert ours == video_smart_resize(
        frames, height, width, 2, factor, least * pixels, most * pixels
    )


def test_smart_resize_keeps_the_long_side_of_thin_strips_where_transformers_does_not() -> None:
    # A strip of 10 x 1000 pixels in cells of 28. Ours is one cell high: 28 x 28 * round(35.7). The
    # image processor rounds the height to nothing, finds too few pixels and scales all of it by
    # sqrt(4 * 28**2 / 10**4) = 0.56: 28 x 28 * ceil(20). The video processor first enlarges the
    # strip to 28 x 2800, 100 cells.
    least, most = 4 * 28**2, 768 * 28**2
    assert smart_resize(10, 1000, factor=28, min_pixels=least, max_pixels=most) == (28, 1008)
    assert image_smart_resize(10, 1000, 28, least, most) == (28, 560)
    assert video_smart_resize(2, 10, 1000, 2, 28, 2 * least, 2 * most) == (28, 2800)


# Times


@given(
    indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=40).map(sorted),
    fps=st.sampled_from([1.0, 2.0, 23.976, 25.0, 29.97, 30.0, 60.0]),
)
def test_pair_times_are_those_of_qwen3_vls_processor(indices: list[int], fps: float) -> None:
    theirs = Qwen3VLProcessor._calculate_timestamps(None, list(indices), fps, 2)
    times = pair_times([index / fps for index in indices])
    assert times.dtype == np.float64
    assert times.tolist() == theirs


def test_a_single_frame_is_a_pair_at_its_own_time() -> None:
    assert pair_times(np.array([7.5], np.float32)).tolist() == [7.5]


@pytest.mark.parametrize("times", [[], [[0.0, 1.0]], 3.0])
def test_times_that_are_not_one_for_each_frame_are_refused(times: Any) -> None:
    with pytest.raises(FramesError, match="one time for each frame"):
        pair_times(times)
    with pytest.raises(FramesError, match="one time for each frame"):
        seconds_per_pair(times)


@pytest.mark.parametrize("count", [2, 3, 4, 11, 12])
def test_seconds_per_pair_at_a_steady_rate_are_two_frames(count: int) -> None:
    # What Qwen2.5-VL's processor takes: frames of a patch over frames per second.
    assert seconds_per_pair(3 + np.arange(count) / 4) == pytest.approx(2 / 4)


def test_seconds_per_pair_of_uneven_frames_are_a_mean() -> None:
    # From 0 to 9 s in three steps, 3 s each: 6 s for two.
    assert seconds_per_pair([0.0, 1.0, 4.0, 9.0]) == 6.0


def test_a_single_frame_has_transformers_own_default_spacing() -> None:
    assert seconds_per_pair([12.0]) == 1.0
