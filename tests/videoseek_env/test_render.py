import sys
from collections.abc import Iterator

import numpy as np
import pytest

from videoseek_env.action import parse_reply, write_answer, write_crop
from videoseek_env.errors import MissingExtraError
from videoseek_env.render import Window, render_ansi, render_rgb
from videoseek_env.render.canvas import resize
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason, Trajectory, Turn
from videoseek_env.video.clip import Clip, ClipRef, ClipStrategy

DURATION_SECONDS = 100.0
CLUE_COLOUR = (45, 196, 130)
FINE_COLOUR = (221, 132, 180)
HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\x00\r\b\ud800\u202ereversed <answer>\x1b[0m</answer>"


def make_task(**changes: object) -> VideoTask:
    fields: dict[str, object] = {
        "id": "t",
        "video": "v.mp4",
        "question": "Which card comes first?",
        "answer": "B",
        "kind": TaskKind.SINGLE_CLUE_TOOL,
        "options": ("red", "blue"),
        "clues": (Segment(50.0, 60.0),),
    }
    return VideoTask(**(fields | changes))  # type: ignore[arg-type]


def make_ref(segment: Segment, strategy: ClipStrategy, count: int = 4) -> ClipRef:
    times = np.linspace(segment.start_seconds, segment.end_seconds, count)
    return ClipRef("v.mp4", (0,) * count, tuple(times), 64, 96, segment, strategy, 6)


def make_clip(count: int = 4, height: int = 64, width: int = 96, level: int = 200) -> Clip:
    frames = np.full((count, height, width, 3), level, np.uint8)
    times = np.linspace(40.0, 70.0, count)
    return Clip(frames, times, Segment(40.0, 70.0), "fine")


def make_turn(reply: str, *, clip: ClipRef | None = None, observation: str = "Look.") -> Turn:
    return Turn(observation, clip, reply, parse_reply(reply, duration_seconds=DURATION_SECONDS))


def make_trajectory(
    *turns: Turn, task: VideoTask | None = None, end_reason: EndReason | None = None
) -> Trajectory:
    return Trajectory(task or make_task(), turns, end_reason, DURATION_SECONDS, max_turns=6)


OVERVIEW = make_ref(Segment(0.0, DURATION_SECONDS), "overview")
CROP_TURN = make_turn(write_crop("There?", Segment(40.0, 70.0), "fine"), clip=OVERVIEW)
ANSWER_TURN = make_turn(write_answer("Blue.", "B"), clip=make_ref(Segment(40.0, 70.0), "fine"))
FINISHED = make_trajectory(CROP_TURN, ANSWER_TURN, end_reason=EndReason.ANSWERED)


def without_own_colours(text: str) -> str:
    for code in ("0", "1", "2", "32", "34", "1;33", "31"):
        text = text.replace(f"\x1b[{code}m", "")
    return text


def has_colour(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((image == np.array(colour, np.uint8)).all(-1).any())


# ansi


def test_ansi_shows_question_options_turns_and_ending() -> None:
    text = render_ansi(FINISHED, colour=False)
    for part in (
        "Which card comes first?",
        "A. red",
        "B. blue",
        "turn 1",
        "overview, 4 frames of 96 x 64 px",
        "-> crop   40.0 s to 70.0 s, fine",
        "turn 2",
        "-> answer B",
        "ended: answered",
    ):
        assert part in text


def test_ansi_without_colour_holds_no_escape_sequence() -> None:
    assert "\x1b" not in render_ansi(FINISHED, make_clip(), colour=False)


def test_ansi_tells_clues_and_crops_apart_without_colour() -> None:
    bar = render_ansi(FINISHED, colour=False).splitlines()[5]
    # 72 columns for 100 s: the crop of 40..70 s covers columns 28..50, the clue of 50..60 s 36..43.
    assert bar == "·" * 28 + "▄" * 8 + "█" * 8 + "▄" * 7 + "·" * 21


def test_ansi_marks_a_clue_that_no_crop_met() -> None:
    bar = render_ansi(make_trajectory(), colour=False).splitlines()[5]
    assert bar == "·" * 36 + "▀" * 8 + "·" * 28


def test_ansi_can_hide_the_clues_from_a_player() -> None:
    text = render_ansi(FINISHED, colour=False, show_clues=False)
    assert "█" not in text
    assert "clue" not in text


@pytest.mark.parametrize("colour", [True, False])
def test_ansi_neutralises_hostile_replies_and_observations(colour: bool) -> None:
    task = make_task(question=HOSTILE, options=(HOSTILE, "b"))
    turns = (make_turn(HOSTILE, observation=HOSTILE), make_turn(HOSTILE, clip=OVERVIEW))
    trajectory = make_trajectory(*turns, task=task, end_reason=EndReason.NO_ACTION)
    text = render_ansi(trajectory, observation_text=HOSTILE, colour=colour)
    rest = without_own_colours(text) if colour else text
    assert not any(ord(char) < 0x20 and char != "\n" for char in rest)
    assert not any(0x7F <= ord(char) <= 0x9F for char in rest)
    rest.encode("utf-8")


def test_ansi_stays_small_whatever_the_reply() -> None:
    trajectory = make_trajectory(make_turn("<think>" * 1_000_000, clip=OVERVIEW))
    assert len(render_ansi(trajectory)) < 2500


def test_ansi_of_a_running_episode_names_the_turn_and_the_view() -> None:
    text = render_ansi(make_trajectory(CROP_TURN), make_clip(1), colour=False)
    assert "on view  fine, 1 frames of 96 x 64 px" in text
    assert "running, turn 2 of 6" in text


def test_ansi_shows_the_error_on_view_where_there_are_no_frames() -> None:
    text = render_ansi(make_trajectory(CROP_TURN), observation_text="Bad JSON.", colour=False)
    assert "on view  Bad JSON." in text


def test_ansi_survives_no_turns_no_options_and_no_clues() -> None:
    task = make_task(options=(), clues=(), kind=TaskKind.OPEN_ENDED, question="Q" * 10_000)
    text = render_ansi(make_trajectory(task=task, end_reason=EndReason.PROMPT_TOO_LONG))
    assert "ended: prompt_too_long" in text


def test_ansi_clamps_a_clue_beyond_the_end_of_the_video() -> None:
    task = make_task(clues=(Segment(99.0, 500.0),))
    bar = render_ansi(make_trajectory(task=task), colour=False).splitlines()[5]
    assert bar == "·" * 71 + "▀"


# image


@pytest.mark.parametrize(
    "trajectory",
    [
        make_trajectory(),
        make_trajectory(CROP_TURN),
        FINISHED,
        make_trajectory(*[CROP_TURN] * 50),
        make_trajectory(make_turn(HOSTILE * 1000), task=make_task(question=HOSTILE * 100)),
        make_trajectory(task=make_task(options=("世界" * 500,) * 26)),
        Trajectory(make_task(), (), EndReason.VIDEO_FAILED, 0.0),
    ],
)
@pytest.mark.parametrize(
    "clip",
    [
        None,
        make_clip(1),
        make_clip(128),
        make_clip(5, height=400, width=32),
        make_clip(2, height=28, width=2800),
    ],
)
def test_the_image_has_its_size_whatever_the_episode(
    trajectory: Trajectory, clip: Clip | None
) -> None:
    image = render_rgb(trajectory, clip, observation_text="Bad JSON.")
    assert image.shape == (720, 960, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize(("width", "height"), [(320, 320), (641, 479), (1920, 1080)])
def test_the_image_has_the_size_asked_for(width: int, height: int) -> None:
    image = render_rgb(FINISHED, make_clip(40), width=width, height=height)
    assert image.shape == (height, width, 3)


def test_an_image_too_small_to_read_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 320 x 320"):
        render_rgb(FINISHED, width=319)


def test_the_image_shows_crops_where_they_lie() -> None:
    image = render_rgb(FINISHED)
    rows, columns = np.nonzero((image == np.array(FINE_COLOUR, np.uint8)).all(-1))
    # The widest row of the crop's colour is its bar. Margin 24, 912 px for 100 s: 40 s lie at
    # 24 + 364.8, 70 s at 24 + 638.4, the first column after the bar.
    widths = np.bincount(rows)
    bar = columns[rows == widths.argmax()]
    assert abs(bar.min() - 388.8) <= 1
    assert abs(bar.max() + 1 - 662.4) <= 1


def test_the_image_hides_the_clues_from_a_player() -> None:
    assert has_colour(render_rgb(FINISHED, make_clip(10)), CLUE_COLOUR)
    assert not has_colour(render_rgb(FINISHED, make_clip(10), show_clues=False), CLUE_COLOUR)


def test_the_frames_on_view_are_in_the_image() -> None:
    colour = (7, 77, 177)
    frames = np.empty((3, 64, 96, 3), np.uint8)
    frames[:] = colour
    clip = Clip(frames, np.array([1.0, 2.0, 3.0]), Segment(1.0, 4.0), "coarse")
    assert has_colour(render_rgb(FINISHED, clip), colour)
    assert not has_colour(render_rgb(FINISHED), colour)


def test_the_same_episode_gives_the_same_image() -> None:
    images = [render_rgb(FINISHED, make_clip()) for _ in range(2)]
    assert np.array_equal(*images)


def test_shrinking_averages_boxes() -> None:
    frames = np.array([[0, 100], [100, 200]], np.uint8)[None, :, :, None].repeat(3, axis=3)
    assert resize(frames, height=1, width=1).tolist() == [[[[100, 100, 100]]]]


def test_enlarging_repeats_pixels() -> None:
    frames = np.array([[1, 2]], np.uint8)[None, :, :, None].repeat(3, axis=3)
    assert resize(frames, height=2, width=4)[0, :, :, 0].tolist() == [[1, 1, 2, 2]] * 2


# window


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Iterator[Window]:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = Window()
    yield window
    window.close()


def test_the_window_shows_the_image(window: Window) -> None:
    import pygame

    image = render_rgb(FINISHED, make_clip())
    window.show(image)
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    assert np.array_equal(shown, image)


def test_the_window_follows_the_image_size(window: Window) -> None:
    import pygame

    window.show(np.zeros((40, 60, 3), np.uint8))
    window.show(np.zeros((50, 70, 3), np.uint8))
    assert pygame.display.get_surface().get_size() == (70, 50)


def test_the_window_closes_by_its_button_and_opens_again(window: Window) -> None:
    import pygame

    image = np.zeros((40, 60, 3), np.uint8)
    window.show(image)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    window.show(image)
    assert not window.is_open
    window.show(image)
    assert window.is_open


def test_the_window_may_be_closed_twice_and_unopened(window: Window) -> None:
    window.close()
    window.close()
    assert not window.is_open


def test_a_missing_pygame_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(MissingExtraError, match=r"'pygame'.*videoseek-env\[render\]"):
        Window()
