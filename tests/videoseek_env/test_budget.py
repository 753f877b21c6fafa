import dataclasses
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseek_env.budget import (
    LAPTOP,
    MAX_TOKENS_PER_PAIR,
    PRESETS,
    QWEN2_5_VL,
    QWEN3_VL,
    TINY,
    Budget,
    FrameSize,
    Quota,
    approximate_text_tokens,
    clip_size,
    frame_count,
    get_budget,
    overview_frame_count,
    smart_resize,
    temporal_pairs,
    visual_tokens,
)
from videoseek_env.errors import BudgetError


def published_smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The formula as the method states it, written out once more."""
    new_height = max(factor, round(height / factor) * factor)
    new_width = max(factor, round(width / factor) * factor)
    if new_height * new_width > max_pixels:
        b = math.sqrt(height * width / max_pixels)
        return (
            max(factor, math.floor(height / b / factor) * factor),
            max(factor, math.floor(width / b / factor) * factor),
        )
    if new_height * new_width < min_pixels:
        b = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * b / factor) * factor, math.ceil(width * b / factor) * factor
    return new_height, new_width


# The published constants, pair by pair: 128 frames are 64 pairs; 6144 // 64 = 96 tokens a pair,
# that is 96 * 32 * 32 = 98304 pixels. b = sqrt(360 * 640 / 98304) = 1.5309; floor(360 / b / 32) =
# floor(7.35) = 7 and floor(640 / b / 32) = floor(13.06) = 13, hence 224 x 416 and 64 * 7 * 13 =
# 5824 tokens.
def test_the_4b_overview_of_a_360p_video() -> None:
    size = clip_size(360, 640, 128, quota=QWEN3_VL.overview, grid_px=QWEN3_VL.grid_px)
    assert size == FrameSize(224, 416)
    assert visual_tokens(128, size, grid_px=32) == 5824


# 768 frames are 384 pairs; 16384 // 384 = 42 tokens a pair, 42 * 28 * 28 = 32928 pixels.
# b = sqrt(230400 / 32928) = 2.6452; floor(360 / b / 28) = floor(4.86) = 4, floor(640 / b / 28) =
# floor(8.64) = 8, hence 112 x 224 and 384 * 4 * 8 = 12288 tokens.
def test_the_7b_overview_of_an_hour() -> None:
    frames = overview_frame_count(3600.0, 108_000, budget=QWEN2_5_VL)
    assert frames == 768
    size = clip_size(360, 640, frames, quota=QWEN2_5_VL.overview, grid_px=QWEN2_5_VL.grid_px)
    assert size == FrameSize(112, 224)
    assert visual_tokens(frames, size, grid_px=28) == 12288


# 10 s at 2 fps are 20 frames, 10 pairs; fine: 3072 // 10 = 307 tokens, 314368 pixels >= 352 * 640 =
# 225280.
def test_a_short_fine_crop_keeps_the_source_resolution() -> None:
    size = clip_size(360, 640, 20, quota=QWEN3_VL.crops["fine"], grid_px=32)
    assert size == FrameSize(352, 640)


def test_the_tiny_preset_is_one_token_a_pair_and_then_four() -> None:
    assert overview_frame_count(200.0, 1000, budget=TINY) == 20
    assert clip_size(128, 128, 20, quota=TINY.overview, grid_px=32) == FrameSize(32, 32)
    assert clip_size(128, 128, 8, quota=TINY.crops["fine"], grid_px=32) == FrameSize(64, 64)


@pytest.mark.parametrize(
    ("duration_seconds", "total", "expected"),
    [
        (10.0, 300, 20),
        (10.4, 312, 20),  # 20.8 rounds down to an even number
        (0.5, 15, 4),  # at least 4
        (1.0, 5, 4),
        (1.0, 3, 2),  # fewer than 4 in the source: what it has, evenly
        (1.0, 2, 2),
        (0.04, 1, 1),  # the published code divides by zero
        (3600.0, 108_000, 768),
        (1e9, 10**12, 768),
        (100.0, 101, 100),
    ],
)
def test_frame_counts(duration_seconds: float, total: int, expected: int) -> None:
    assert frame_count(duration_seconds, total) == expected


def test_a_fixed_overview_count_is_limited_by_the_source_alone() -> None:
    assert overview_frame_count(1.0, 10_000, budget=QWEN3_VL) == 128
    assert overview_frame_count(3600.0, 51, budget=QWEN3_VL) == 50


def test_no_frames_are_an_error() -> None:
    with pytest.raises(BudgetError, match="total_frames=0"):
        frame_count(10.0, 0)


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    factor=st.sampled_from([28, 32]),
    min_tokens=st.integers(1, 50),
    more=st.integers(0, 5000),
)
def test_smart_resize_is_the_published_formula(
    height: int, width: int, factor: int, min_tokens: int, more: int
) -> None:
    limits = {
        "min_pixels": min_tokens * factor**2,
        "max_pixels": (min_tokens + more) * factor**2,
    }
    if max(height, width) / min(height, width) > 200:
        with pytest.raises(BudgetError, match="aspect ratio"):
            smart_resize(height, width, factor=factor, **limits)
        return
    size = smart_resize(height, width, factor=factor, **limits)
    assert size == published_smart_resize(height, width, factor, *limits.values())
    assert size.height % factor == size.width % factor == 0


def test_a_side_of_zero_is_an_error() -> None:
    with pytest.raises(BudgetError, match="0 x 640"):
        smart_resize(0, 640, factor=28, min_pixels=784, max_pixels=784)


@given(
    height=st.integers(16, 4320),
    width=st.integers(16, 4320),
    frames=st.integers(1, 768),
    budget=st.sampled_from(list(PRESETS.values())),
    which=st.sampled_from(["overview", "coarse", "medium", "fine"]),
)
def test_clips_fit_the_spaces_of_their_budget(
    height: int, width: int, frames: int, budget: Budget, which: str
) -> None:
    quota = budget.overview if which == "overview" else budget.crops[which]  # type: ignore[index]
    if max(height, width) / min(height, width) > 200:
        return
    size = clip_size(height, width, frames, quota=quota, grid_px=budget.grid_px)
    assert max(size) <= budget.max_side_px
    assert min(size) >= budget.grid_px
    assert visual_tokens(frames, size, grid_px=budget.grid_px) >= temporal_pairs(frames)


# At ordinary aspect ratios the quota holds: floor() only shrinks, and one cell a pair is the least.
@given(
    height=st.integers(200, 1080),
    width=st.integers(200, 1920),
    frames=st.integers(1, 384).map(lambda pairs: 2 * pairs),
)
def test_a_clip_keeps_within_its_quota(height: int, width: int, frames: int) -> None:
    quota = QWEN3_VL.crops["fine"]
    size = clip_size(height, width, frames, quota=quota, grid_px=32)
    tokens = visual_tokens(frames, size, grid_px=32)
    per_pair = tokens // temporal_pairs(frames)
    assert tokens <= quota.max_tokens or per_pair * 32 in (size.height, size.width)
    assert per_pair <= MAX_TOKENS_PER_PAIR


def test_a_one_frame_clip_has_tokens() -> None:
    size = clip_size(360, 640, 1, quota=QWEN3_VL.crops["coarse"], grid_px=32)
    assert visual_tokens(1, size, grid_px=32) == (size.height // 32) * (size.width // 32)


def test_presets_are_found_by_name_and_budgets_pass_through() -> None:
    assert get_budget("laptop") is LAPTOP
    assert get_budget(TINY) is TINY
    with pytest.raises(BudgetError, match=r"'huge'.*qwen2.5-vl, qwen3-vl, laptop, tiny"):
        get_budget("huge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_px": 0}, "above zero"),
        ({"overview_frames": 0}, "above zero"),
        ({"reserve_tokens": 8192}, "reserve_tokens"),
    ],
)
def test_impossible_budgets_are_refused(change: dict[str, object], message: str) -> None:
    fields = {name: getattr(LAPTOP, name) for name in LAPTOP.__dataclass_fields__}
    with pytest.raises(BudgetError, match=message):
        Budget(**(fields | change))


def test_a_quota_needs_min_below_max() -> None:
    with pytest.raises(BudgetError, match="min_tokens <= max_tokens"):
        Quota(4, 5)


def test_budgets_travel_to_worker_processes() -> None:
    assert pickle.loads(pickle.dumps(QWEN3_VL)) == QWEN3_VL


def test_presets_hash_and_spell_out_for_logs() -> None:
    assert len({hash(budget) for budget in PRESETS.values()}) == len(PRESETS)
    assert dataclasses.asdict(LAPTOP)["crops"]["fine"] == {"max_tokens": 1024, "min_tokens": 32}


# The table of the method, section 3.
@pytest.mark.parametrize(
    ("budget", "grid", "overview", "crops", "frames"),
    [
        (QWEN2_5_VL, 28, Quota(16384, 512), [Quota(n, 512) for n in (2048, 4096, 6144)], None),
        (QWEN3_VL, 32, Quota(6144, 256), [Quota(n, 256) for n in (1024, 2048, 3072)], 128),
    ],
)
def test_presets_carry_the_published_numbers(
    budget: Budget, grid: int, overview: Quota, crops: list[Quota], frames: int | None
) -> None:
    assert (budget.grid_px, budget.overview, budget.overview_frames) == (grid, overview, frames)
    assert [budget.crops["coarse"], budget.crops["medium"], budget.crops["fine"]] == crops
    assert (budget.context_tokens, budget.reserve_tokens) == (32768, 2000)
    assert (budget.max_reply_tokens, budget.max_crop_frames) == (8192, 768)
    assert (budget.sampling_fps, MAX_TOKENS_PER_PAIR) == (2.0, 768)


def test_the_overview_has_at_most_768_frames() -> None:
    many = dataclasses.replace(QWEN3_VL, overview_frames=1000)
    assert overview_frame_count(3600.0, 10_000, budget=many) == 768


# 512 // 2 = 256 tokens a pair at least: 32 x 64 pixels are 2 cells, scaled by sqrt(256 / 2) = 11.3
# a side.
def test_small_frames_are_enlarged_to_the_least_quota() -> None:
    size = clip_size(32, 64, 4, quota=Quota(16384, 512), grid_px=32)
    assert size == FrameSize(384, 736)  # ceil(11.3), ceil(22.6) cells


@given(st.text())
def test_text_tokens_are_counted_for_any_text(text: str) -> None:
    assert 0 <= approximate_text_tokens(text) <= len(text)


def test_text_tokens_survive_lone_surrogates() -> None:
    assert approximate_text_tokens("\ud800") == 1
