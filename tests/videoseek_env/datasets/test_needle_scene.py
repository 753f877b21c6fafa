from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoseek_env.budget import TINY, clip_size, frame_count
from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.datasets.needle_scene import Scene, plan_scene
from videoseek_env.errors import DatasetError
from videoseek_env.sampling import evenly_spaced, snap_to_keyframes

SETS: dict[str, dict[str, Any]] = {
    "laptop": {},
    "tiny": {
        "budget": "tiny", "width": 128, "height": 128, "duration_seconds": (100, 400),
    },
    "tiny at two frames per second": {
        "budget": "tiny", "width": 128, "height": 128, "duration_seconds": (100, 400), "fps": 2,
    },
    "tiny of a wide video": {"budget": "tiny"},
    "qwen3-vl": {"budget": "qwen3-vl"},
    "qwen2.5-vl": {"budget": "qwen2.5-vl", "duration_seconds": (1500, 2400)},
    "hours": {"duration_seconds": (3600, 10800), "gop_frames": 250},
    "hours for qwen3-vl": {"budget": "qwen3-vl", "duration_seconds": (3600, 10800), "fps": 2},
    "every frame a keyframe": {"gop_frames": 1},
    "short groups": {"gop_frames": 7},
}  # fmt: skip


@pytest.fixture(params=SETS, scope="module")
def scenes(request: pytest.FixtureRequest) -> list[tuple[NeedleConfig, Scene]]:
    config = NeedleConfig(**SETS[request.param])
    return [(config, plan_scene(config, index)) for index in range(25)]


Scenes = list[tuple[NeedleConfig, Scene]]


def overviews(scene: Scene) -> list[np.ndarray[Any, Any]]:
    """Frames of the exact and of the keyframe overview, from the sampler's own functions."""
    line = scene.timeline
    times = np.arange(line.frame_count) / line.fps
    exact = evenly_spaced(times, 0, line.frame_count - 1, line.samples)
    return [exact, snap_to_keyframes(exact, times, np.array(sorted(scene.keyframes)))]


def crop(config: NeedleConfig, scene: Scene, start: float, end: float) -> np.ndarray[Any, Any]:
    """Frames of a crop in seconds, by the sampler's formula."""
    fps, frames = scene.timeline.fps, scene.timeline.frame_count
    first, last = int(np.ceil(start * fps - 1e-6)), int(min(np.floor(end * fps + 1e-6), frames - 1))
    budget = config.design_budget
    count = frame_count(
        end - start,
        last - first + 1,
        sampling_fps=budget.sampling_fps,
        max_frames=budget.max_crop_frames,
    )
    return evenly_spaced(np.arange(frames) / fps, first, last, count)


def test_a_card_lies_in_two_overview_frames_or_more(scenes: Scenes) -> None:
    for _, scene in scenes:
        for frames in overviews(scene):
            for card in scene.of_kind("card"):
                seen = (frames >= card.start_frame) & (frames < card.end_frame)
                assert seen.sum() >= 2


def test_everything_else_lies_in_an_overview_frame(scenes: Scenes) -> None:
    for _, scene in scenes:
        for frames in overviews(scene):
            for event in scene.events:
                assert ((frames >= event.start_frame) & (frames < event.end_frame)).any()


def test_no_overview_frame_shows_a_card_turned_or_turning(scenes: Scenes) -> None:
    for _, scene in scenes:
        for frames in overviews(scene):
            for card in scene.of_kind("card"):
                assert card.reveal_frames is not None
                first, end = card.reveal_frames
                assert card.start_frame < first - 1
                assert end + 1 < card.end_frame
                assert not ((frames >= first - 1) & (frames < end + 1)).any()


def test_a_crop_of_the_span_surely_meets_the_digit(scenes: Scenes) -> None:
    hits = []
    for config, scene in scenes:
        fps = scene.timeline.fps
        for card in scene.of_kind("card"):
            assert card.reveal_frames is not None
            span = card.span(fps)
            frames = crop(config, scene, span.start_seconds, span.end_seconds)
            hits.append(
                ((frames >= card.reveal_frames[0]) & (frames < card.reveal_frames[1])).sum()
            )
    assert min(hits) >= 1


def test_a_crop_one_spacing_wider_meets_the_digit_mostly_and_no_other_event(
    scenes: Scenes,
) -> None:
    hits = []
    for config, scene in scenes:
        line = scene.timeline
        spacing = line.spacing_frames / line.fps
        for card in scene.of_kind("card"):
            assert card.reveal_frames is not None
            span = card.span(line.fps)
            start = max(0.0, span.start_seconds - spacing)
            end = min(line.duration_seconds, span.end_seconds + spacing)
            frames = crop(config, scene, start, end)
            face_up = (frames >= card.reveal_frames[0]) & (frames < card.reveal_frames[1])
            hits.append(face_up.any())
            for other in scene.events:
                seen = (frames >= other.start_frame) & (frames < other.end_frame)
                assert other == card or not seen.any()
    assert np.mean(hits) >= 0.9


def test_events_are_in_order_and_inside_video_and_frame(scenes: Scenes) -> None:
    for config, scene in scenes:
        for event in scene.events:
            assert 0 <= event.start_frame < event.end_frame <= scene.timeline.frame_count
            x, y, width, height = scene.describe(event)["box"]
            assert x % 2 == y % 2 == 0
            assert 0 <= x <= config.width - width
            assert 0 <= y <= config.height - height
        for before, after in pairwise(scene.events):
            assert after.start_frame - before.end_frame > scene.timeline.spacing_frames


def test_digits_are_legible_in_a_fine_crop_and_letters_in_the_overview(scenes: Scenes) -> None:
    for config, scene in scenes:
        fps, budget, sizes = scene.timeline.fps, config.design_budget, scene.sizes
        for card in scene.of_kind("card"):
            span = card.span(fps)
            frames = len(crop(config, scene, span.start_seconds, span.end_seconds))
            size = clip_size(
                config.height, config.width, frames,
                quota=budget.crops["fine"], grid_px=budget.grid_px,
            )  # fmt: skip
            assert 7 * sizes.digit_scale * size.height / config.height >= 8
            assert 5 * sizes.digit_scale * size.width / config.width >= 5
        overview = scene.timeline.overview_size
        assert 7 * sizes.letter_scale * overview.height / config.height >= 12
        assert 5 * sizes.letter_scale * overview.width / config.width >= 8


def test_nothing_is_twice_the_same(scenes: Scenes) -> None:
    for _, scene in scenes:
        for kind in ("card", "banner"):
            colours = [event.colour for event in scene.of_kind(kind)]
            assert len(set(colours)) == len(colours)
        letters = [event.symbol for event in scene.of_kind("banner")]
        assert len(set(letters)) == len(letters)
        shapes = [(event.colour, event.symbol) for event in scene.of_kind("shape")]
        assert len(set(shapes)) == len(shapes)


def test_the_default_video_holds_as_much_as_it_should() -> None:
    scene = plan_scene(NeedleConfig(), 0)
    counts = [len(scene.of_kind(kind)) for kind in ("card", "banner", "shape")]
    assert counts == [5, 4, 5]


def test_by_default_a_crop_of_the_span_meets_every_digit_twice() -> None:
    config = NeedleConfig()
    for index in range(25):
        scene = plan_scene(config, index)
        for card in scene.of_kind("card"):
            span = card.span(5)
            frames = crop(config, scene, span.start_seconds, span.end_seconds)
            assert card.reveal_frames is not None
            face_up = (frames >= card.reveal_frames[0]) & (frames < card.reveal_frames[1])
            assert face_up.sum() >= 2


def test_a_short_overview_holds_what_fits() -> None:
    scene = plan_scene(NeedleConfig(**SETS["tiny"]), 0)
    # 20 frames, the outer two kept free: 18 >= 3 * 3 + 2 * 2 + 2 * 2.
    counts = [len(scene.of_kind(kind)) for kind in ("card", "banner", "shape")]
    assert counts == [3, 2, 2]


def test_more_than_fits_is_refused() -> None:
    config = NeedleConfig(**SETS["tiny"] | {"cards": 6, "banners": 1, "shapes": 1})
    message = "6 cards, 1 banners and 1 shapes don't fit between the 20 frames of the overview"
    with pytest.raises(DatasetError, match=message):
        plan_scene(config, 0)


def test_an_overview_without_gaps_is_refused_with_the_length_that_would_do() -> None:
    config = NeedleConfig(budget="qwen2.5-vl")
    with pytest.raises(DatasetError, match=r"'qwen2.5-vl' takes \d+ overview fra.* at least (\d+)"):
        plan_scene(config, 0)
    try:
        plan_scene(config, 0)
    except DatasetError as error:
        seconds = float(str(error).split("at least ")[1].split(" ")[0])
    plan_scene(NeedleConfig(budget="qwen2.5-vl", duration_seconds=(seconds, seconds)), 0)
    assert seconds < 1300


def test_without_cards_a_dense_overview_will_do() -> None:
    config = NeedleConfig(budget="qwen2.5-vl", cards=0)
    assert plan_scene(config, 0).of_kind("card") == []


def test_things_that_do_not_fit_the_frame_are_refused() -> None:
    config = NeedleConfig(budget=TINY, width=3000, height=64)
    with pytest.raises(DatasetError, match=r"a readable card would take .* a squarer frame"):
        plan_scene(config, 0)


def test_no_jitter_is_the_centre() -> None:
    scene = plan_scene(NeedleConfig(jitter=0.0), 0)
    for card in scene.of_kind("card"):
        x, y, width, height = scene.describe(card)["box"]
        assert abs(2 * x + width - 640) <= 4
        assert abs(2 * y + height - 360) <= 4


@settings(max_examples=60, deadline=None)
@given(
    minutes=st.floats(4, 600), fps=st.integers(2, 30), gop=st.integers(1, 400),
    seed=st.integers(0, 2**40),
)  # fmt: skip
def test_any_video_of_four_minutes_or_more_can_hide_digits_from_a_laptop(
    minutes: float, fps: int, gop: int, seed: int
) -> None:
    duration = 60 * minutes
    config = NeedleConfig(
        duration_seconds=(duration, duration), fps=fps, gop_frames=gop, seed=seed, height=640
    )
    scene = plan_scene(config, 0)
    for frames in overviews(scene):
        for card in scene.of_kind("card"):
            assert card.reveal_frames is not None
            seen = (frames >= card.start_frame) & (frames < card.end_frame)
            face_up = (frames >= card.reveal_frames[0]) & (frames < card.reveal_frames[1])
            assert seen.sum() >= 2
            assert not face_up.any()
