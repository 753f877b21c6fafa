"""The vision input path against transformers' own: frames to patches, patches to features.

    python benchmarks/vision.py            all rows
    python benchmarks/vision.py --quick    fewer rounds, smaller clips

Each row times all its sides in turns within one run. It prints the median time of the first, and of
each other side the median of the rounds' ratios to the first: on a busy machine, trust the ratios.
One torch thread. Every row first checks that its sides compute the same.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

sys.path.insert(0, str(Path(__file__).parents[1]))

from agents.llm.vision import Patches, VisionSpec, pack, patchify, patchify_clips
from agents.llm.vision_tower import (
    encode_clips,
    segment_attention,
    use_batched_vision_attention,
    use_matrix_patch_projection,
)

QWEN2_5 = VisionSpec.from_config(Qwen2_5_VLConfig())
QWEN3 = VisionSpec.from_config(Qwen3VLConfig())
Frames = npt.NDArray[np.uint8]
Side = Callable[[], object]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller clips")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    patchify_table(frames=16 if quick else 128, rounds=3 if quick else 15)
    attention_table(episodes=4 if quick else 16, rounds=10 if quick else 50)
    tower_table(episodes=4 if quick else 16, rounds=3 if quick else 15)


def compare(title: str, first: Side, *others: Side, rounds: int) -> None:
    """Time the sides in turns and print a line of a table."""
    times = [[milliseconds(side) for side in (first, *others)] for _ in range(rounds + 1)][1:]
    median = statistics.median(row[0] for row in times)
    ratios = (
        statistics.median(row[number] / row[0] for row in times)
        for number in range(1, len(others) + 1)
    )
    print(f"| {title} | {median:.2f} |", *(f"{ratio:.2f} |" for ratio in ratios), flush=True)


def milliseconds(action: Side) -> float:
    """The processor time of one call: one thread computes, and neighbours don't count."""
    started = time.process_time()
    action()
    return 1000 * (time.process_time() - started)


def heading(*columns: str) -> None:
    """Print the first lines of a table."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def patchify_table(*, frames: int, rounds: int) -> None:
    """`patchify` against the plain way, the image processor and the video processor."""
    heading(
        "frames to patches", "patchify, ms", "numpy, floats first",
        "PIL image processor, half the frames", "video processor's arithmetic",
    )  # fmt: skip
    for name, spec, size in (("Qwen3-VL", QWEN3, (224, 416)), ("Qwen2.5-VL", QWEN2_5, (224, 392))):
        clip = noise(frames, *size)
        check_patches(clip, spec)
        sides = (partial(way, clip, spec) for way in (patchify, plain, by_images, by_videos))
        compare(f"{name}, {frames} frames of {size[0]} x {size[1]}", *sides, rounds=rounds)
    clips = [noise(20, 32, 32), noise(8, 64, 64), noise(8, 64, 32)]
    compare(
        "3 clips of a tiny Qwen3-VL, in one call",
        lambda: patchify_clips(clips, QWEN3),
        *(partial(each, way, clips) for way in (plain, by_images, by_videos)),
        rounds=10 * rounds,
    )


def each(way: Callable[[Frames, VisionSpec], object], clips: Sequence[Frames]) -> None:
    """Clip by clip."""
    for clip in clips:
        way(clip, QWEN3)


def check_patches(frames: Frames, spec: VisionSpec) -> None:
    """All sides compute the same."""
    ours = patchify(frames, spec).values
    torch.testing.assert_close(torch.from_numpy(plain(frames, spec)), ours, rtol=0, atol=1e-6)
    torch.testing.assert_close(by_videos(frames, spec), ours, rtol=0, atol=0)
    pairs = frames[::2].repeat(2, axis=0)
    images = torch.from_numpy(by_images(pairs, spec))
    torch.testing.assert_close(images, patchify(pairs, spec).values, rtol=0, atol=1e-6)


def plain(frames: Frames, spec: VisionSpec) -> npt.NDArray[np.float32]:
    """The straightforward way: floats, normalised, then reordered."""
    count, height, width, _ = frames.shape
    patch, merge = spec.patch_px, spec.merge
    down, across = height // spec.grid_px, width // spec.grid_px
    colours = frames.astype(np.float32) / 255
    colours = (colours - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    split = colours.reshape(count // 2, 2, down, merge, patch, across, merge, patch, 3)
    ordered: npt.NDArray[np.float32] = split.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return ordered.reshape(-1, 6 * patch**2)


def by_images(frames: Frames, spec: VisionSpec) -> npt.NDArray[np.float32]:
    """Transformers' PIL image processor, which doubles each image: every second frame."""
    processor = Qwen2VLImageProcessorPil(
        patch_size=spec.patch_px, image_mean=spec.mean, image_std=spec.std, do_resize=False
    )
    patches: npt.NDArray[np.float32] = processor(list(frames[::2]))["pixel_values"]
    return patches


def by_videos(frames: Frames, spec: VisionSpec) -> torch.Tensor:
    """Transformers' video processors, with torchvision's two operations written out."""
    processor = Qwen3VLVideoProcessor()
    mean, std = (torch.tensor(colour)[:, None, None] * 255 for colour in (spec.mean, spec.std))
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float().sub_(mean).div_(std)
    patches: torch.Tensor = processor.patchify(video[None], spec.patch_px, spec.merge, 2)[0][0]
    return patches


def attention_table(*, episodes: int, rounds: int) -> None:
    """One call of attention, forward and backward, on lengths of segments."""
    heading("attention alone, 4 heads of 24", "transformers' loop, ms", "batched")
    for title, lengths in (
        ("64 pairs of 4 patches", [4] * 64),
        ("64 pairs of 16 patches", [16] * 64),
        (f"{episodes} episodes of 10, 4 and 4 pairs, sorted by size", sorted(MIXED * episodes)),
        (f"{episodes} episodes of 10, 4 and 4 pairs, in turns", MIXED * episodes),
        ("windows of 16, 8 and 4 patches in 32 pairs", WINDOWS * 32),
        ("16 pairs of 256 patches", [256] * 16),
    ):
        states = torch.randn(3, 1, 4, sum(lengths), 24, requires_grad=True)
        starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
        torch.testing.assert_close(batched(states, starts), looped(states, starts))
        sides = (partial(backward_of, way, states, starts) for way in (looped, batched))
        compare(title, *sides, rounds=rounds)


def backward_of(
    way: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    states: torch.Tensor,
    starts: torch.Tensor,
) -> None:
    """Forward and backward."""
    way(states, starts).sum().backward()


def batched(states: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """All segments by one call."""
    return segment_attention(torch.nn.Module(), *states, None, cu_seq_lens_q=starts)[0]


def looped(states: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Transformers' function on each segment, as its vision layers call it."""
    segments = torch.split(states, starts.diff().tolist(), dim=3)
    layer = torch.nn.Module()
    return torch.cat(
        [sdpa_attention_forward(layer, *part, None, is_causal=False)[0] for part in segments], dim=1
    )


def tower_table(*, episodes: int, rounds: int) -> None:
    """Towers of two layers: as they are, with batched attention, and with a matrix projection too.

    Sizes are frames, and rows and columns of tokens.
    """
    tiny, wide = {"hidden_size": 96, "num_heads": 4}, {"hidden_size": 384, "num_heads": 6}
    small = [(20, 1, 1), (8, 2, 2), (8, 1, 2)] * episodes
    edged = [(20, 1, 1), (8, 3, 3), (8, 1, 2)] * episodes
    heading("vision tower", "transformers, ms", "batched attention", "and matrix projection")
    for title, make, vision, sizes in (
        ("Qwen3-VL, 64 pairs of 1 token", qwen3, tiny, [(128, 1, 1)]),
        ("Qwen3-VL, 64 pairs of 4 tokens", qwen3, tiny, [(128, 2, 2)]),
        (f"Qwen3-VL, {episodes} episodes of 3 small clips", qwen3, tiny, small),
        ("Qwen3-VL, 8 pairs of 28 tokens", qwen3, wide, [(16, 4, 7)]),
        ("Qwen2.5-VL, 32 pairs of 3 x 5 tokens", qwen2_5, tiny, [(64, 3, 5)]),
        (f"Qwen2.5-VL, {episodes} episodes of 3 small clips", qwen2_5, tiny, edged),
        ("Qwen2.5-VL, 8 pairs of 4 x 7 tokens", qwen2_5, wide, [(16, 4, 7)]),
    ):
        models = variants(make(vision))
        clips = [clip_of(models[0], *size) for size in sizes]
        check_features(models, clips)
        for backward in (False, True):
            ways = (default_encode, encode, encode)
            sides = (
                partial(way, model, clips, backward)
                for way, model in zip(ways, models, strict=True)
            )
            name = f"{title}, width {vision['hidden_size']}, {'and backward' * backward}"
            compare(name.removesuffix(", "), *sides, rounds=rounds)


def variants(model: Any) -> list[Any]:
    """The model as it is, with batched attention, and with both."""
    batched = copy.deepcopy(model)
    use_batched_vision_attention(batched)
    both = copy.deepcopy(batched)
    use_matrix_patch_projection(both)
    return [model, batched, both]


def clip_of(model: Any, frames: int, down: int, across: int) -> Patches:
    """Noise of so many frames, and tokens a frame."""
    spec = VisionSpec.from_config(model.config)
    return patchify(noise(frames, down * spec.grid_px, across * spec.grid_px), spec)


def encode(model: Any, clips: Sequence[Patches], backward: bool) -> torch.Tensor:
    """`encode_clips`, as training uses it."""
    with torch.set_grad_enabled(backward):
        features = encode_clips(model, clips)
        embeddings = torch.cat([clip.embeddings for clip in features])
    if backward:
        embeddings.sum().backward()
    return embeddings


def default_encode(model: Any, clips: Sequence[Patches], backward: bool) -> torch.Tensor:
    """One forward over all clips as transformers does it."""
    packed = pack(clips)
    with torch.set_grad_enabled(backward):
        output = model.model.get_video_features(packed.values, packed.grids, return_dict=True)
        embeddings = torch.cat(output.pooler_output)
    if backward:
        embeddings.sum().backward()
    return embeddings


def check_features(models: Sequence[Any], clips: Sequence[Patches]) -> None:
    """All sides compute the same."""
    expected = default_encode(models[0], clips, False)
    for model in models[1:]:
        torch.testing.assert_close(encode(model, clips, False), expected, rtol=0, atol=1e-5)


def qwen3(vision: dict[str, int]) -> Any:
    """A Qwen3-VL with two vision layers and next to no language model."""
    config = Qwen3VLConfig(
        text_config=LANGUAGE | {"head_dim": 16},
        vision_config=vision
        | {
            "depth": 2,
            "intermediate_size": 4 * vision["hidden_size"],
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **IDS,
    )
    return Qwen3VLForConditionalGeneration(config)


def qwen2_5(vision: dict[str, int]) -> Any:
    """A Qwen2.5-VL with one windowed and one full vision layer; windows are 2 x 2 tokens."""
    config = Qwen2_5_VLConfig(
        text_config=LANGUAGE,
        vision_config=vision
        | {
            "depth": 2,
            "intermediate_size": 4 * vision["hidden_size"],
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        **IDS,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


MIXED = [4] * 10 + [16] * 4 + [8] * 4
WINDOWS = [16, 16, 8, 8, 8, 4]
IDS = {"image_token_id": 60, "video_token_id": 61}
LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
}


def noise(*shape: int) -> Frames:
    """Frames [*shape, 3]."""
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


if __name__ == "__main__":
    main()
