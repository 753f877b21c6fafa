from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import numpy.typing as npt
import pytest

from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.datasets.needle_render import Painter, to_yuv, write_video
from videoseek_env.datasets.needle_scene import COLOURS, LETTERS, Event, Scene, plan_scene
from videoseek_env.glyphs import glyph
from videoseek_env.sampling import OverviewMode, plan_crop, plan_overview
from videoseek_env.video import VideoReader, open_video

SETS: dict[str, dict[str, Any]] = {
    "laptop": {"width": 320, "height": 180},
    "tiny": {"budget": "tiny", "width": 128, "height": 128, "duration_seconds": (100, 120)},
    "qwen3-vl": {"budget": "qwen3-vl", "width": 320, "height": 180},
    "short groups": {"width": 256, "height": 144, "gop_frames": 6},
}

Film = tuple[NeedleConfig, Scene, VideoReader]
Frame = npt.NDArray[np.uint8]


@pytest.fixture(params=SETS, scope="module")
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Film:
    config = NeedleConfig(**SETS[request.param])
    scene = plan_scene(config, 0)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, scene, config)
    return config, scene, open_video(str(path))


def read_symbol(frame: Frame, config: NeedleConfig, box: list[int], symbols: str) -> str | None:
    """What a 5 x 7 template finds at that place of the video, in a frame of any size."""
    x, y, width, height = box
    columns = (x + (np.arange(5) + 0.5) * width / 5) * frame.shape[1] / config.width
    rows = (y + (np.arange(7) + 0.5) * height / 7) * frame.shape[0] / config.height
    dots = frame[rows.astype(int)[:, None], columns.astype(int)].mean(-1) < 128
    wrong = {symbol: int((dots ^ glyph(symbol)).sum()) for symbol in symbols}
    best = min(wrong, key=lambda symbol: wrong[symbol])
    return best if wrong[best] <= 1 else None


def is_face_up(event: Event, frame: int) -> bool:
    assert event.reveal_frames is not None
    return event.reveal_frames[0] <= frame < event.reveal_frames[1]


def test_the_file_is_what_was_planned(film: Film) -> None:
    config, scene, reader = film
    assert reader.info.codec == "h264"
    assert reader.info.frame_count == scene.timeline.frame_count
    assert reader.info.duration_seconds == pytest.approx(scene.timeline.duration_seconds)
    assert (reader.info.width, reader.info.height) == (config.width, config.height)
    assert set(reader.keyframe_indices.tolist()) == scene.keyframes
    assert np.allclose(reader.timestamps, np.arange(reader.info.frame_count) / config.fps)


@pytest.mark.parametrize("mode", get_args(OverviewMode))
def test_the_overview_shows_every_card_face_down_only(film: Film, mode: OverviewMode) -> None:
    config, scene, reader = film
    overview = plan_overview(reader, config.design_budget, mode)
    for card in scene.of_kind("card"):
        indices = [i for i in overview.indices if card.start_frame <= i < card.end_frame]
        assert len(indices) >= 2
        box = scene.describe(card)["glyph_box"]
        colour = np.array(COLOURS[card.colour])
        for index, frame in zip(indices, reader.read(indices), strict=True):
            assert not is_face_up(card, index)
            x, y, width, height = box
            face = frame[y : y + height, x : x + width].reshape(-1, 3).mean(0)
            # The lattice is darker than the card: 0.78 of its colour on a part of it.
            assert np.abs(face - 0.92 * colour).max() < 32


@pytest.mark.parametrize("mode", get_args(OverviewMode))
def test_other_digits_give_the_same_overview_to_the_pixel(
    film: Film, mode: OverviewMode, tmp_path: Path
) -> None:
    config, scene, reader = film
    events = tuple(
        replace(event, symbol=str((int(event.symbol) + 5) % 10)) if event.kind == "card" else event
        for event in scene.events
    )
    write_video(tmp_path / "other.mp4", replace(scene, events=events), config)
    other = open_video(str(tmp_path / "other.mp4"))
    overview = plan_overview(reader, config.design_budget, mode)
    assert plan_overview(other, config.design_budget, mode).indices == overview.indices
    assert (reader.read(overview.indices) == other.read(overview.indices)).all()
    card = scene.of_kind("card")[0]
    assert card.reveal_frames is not None
    face_up = [card.reveal_frames[0]]
    assert (reader.read(face_up) != other.read(face_up)).any()


@pytest.mark.parametrize("strategy", ["medium", "fine"])
def test_a_crop_of_a_cards_span_shows_its_digit(film: Film, strategy: Any) -> None:
    config, scene, reader = film
    for card in scene.of_kind("card"):
        crop = plan_crop(reader, card.span(config.fps), strategy, config.design_budget)
        indices = [index for index in crop.indices if is_face_up(card, index)]
        assert indices
        box = scene.describe(card)["glyph_box"]
        for frame in reader.read(indices, crop.height, crop.width):
            assert read_symbol(frame, config, box, "0123456789") == card.symbol


@pytest.mark.parametrize("mode", get_args(OverviewMode))
def test_the_overview_shows_every_banner_and_shape(film: Film, mode: OverviewMode) -> None:
    config, scene, reader = film
    overview = plan_overview(reader, config.design_budget, mode)
    for event in [*scene.of_kind("banner"), *scene.of_kind("shape")]:
        indices = [i for i in overview.indices if event.start_frame <= i < event.end_frame]
        assert indices
        place = scene.describe(event)
        for frame in reader.read(indices, overview.height, overview.width):
            if event.kind == "banner":
                assert read_symbol(frame, config, place["glyph_box"], LETTERS) == event.symbol
            else:
                x, y, width, height = place["box"]
                row = int((y + 0.55 * height) * overview.height / config.height)
                column = int((x + 0.5 * width) * overview.width / config.width)
                assert np.abs(frame[row, column] - np.array(COLOURS[event.colour])).max() < 40


def test_every_side_of_a_card_is_drawn_in_its_frames(film: Film) -> None:
    config, scene, reader = film
    for card in scene.of_kind("card"):
        assert card.reveal_frames is not None
        first, end = card.reveal_frames
        x, y, width, height = scene.describe(card)["box"]
        frames = reader.read([card.start_frame, first - 1, first, end - 1, end, end + 1])
        # Just inside the card's left edge: turning, it is too narrow to reach it.
        strip = frames[:, y + height // 2, x + width // 10].astype(int)
        # Cards are of strong colours, the background is dull.
        on_card = (strip.max(-1) - strip.min(-1) > 80).tolist()
        assert on_card[0]
        assert on_card[5]
        up = read_symbol(frames[2], config, scene.describe(card)["glyph_box"], "0123456789")
        last = read_symbol(frames[3], config, scene.describe(card)["glyph_box"], "0123456789")
        assert up == last == card.symbol
        assert not on_card[1]
        assert not on_card[4]


def test_the_same_scene_gives_the_same_bytes(tmp_path: Path) -> None:
    config = NeedleConfig(width=64, height=64, clutter=0.3)
    for name in "ab":
        write_video(tmp_path / name, plan_scene(config, 1), config)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_carries_no_time_of_making(tmp_path: Path) -> None:
    config = NeedleConfig(width=64, height=64)
    write_video(tmp_path / "a.mp4", plan_scene(config, 0), config)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert "creation_time" not in container.metadata
        assert "creation_time" not in container.streams.video[0].metadata


def test_the_background_moves_and_is_not_flat() -> None:
    config = NeedleConfig(width=128, height=128)
    scene = plan_scene(config, 0)
    painter = Painter(replace(scene, events=()), config)
    first, later = painter.draw(0).copy(), painter.draw(10).copy()
    assert first[:128].std() > 5
    assert (first != later).mean() > 0.3


def test_without_clutter_the_background_is_plain() -> None:
    config = NeedleConfig(width=128, height=128, clutter=0.0)
    scene = plan_scene(config, 0)
    painter = Painter(replace(scene, events=()), config)
    assert painter.draw(0)[:128].std() == 0


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_survive_the_way_through_yuv(colour: str) -> None:
    rgb = np.full((16, 16, 3), COLOURS[colour], np.uint8)
    packed = np.concatenate([plane.reshape(-1) for plane in to_yuv(rgb)]).reshape(24, 16)
    back = av.VideoFrame.from_ndarray(packed, format="yuv420p").to_ndarray(format="rgb24")
    assert np.abs(back.astype(int) - rgb).max() <= 4


def test_colours_are_far_from_each_other() -> None:
    values = np.array(list(COLOURS.values()), float)
    distances = np.linalg.norm(values[:, None] - values, axis=-1)
    assert distances[~np.eye(len(values), dtype=bool)].min() > 80
