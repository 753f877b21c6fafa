import dataclasses
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest

from agents.needle_eyes import find_sightings, read_glyph
from agents.policy import Policy, PrivilegedPolicy
from agents.rollout import RolloutConfig, rollout
from agents.seeker import PixelSeeker
from videoseek_env.datasets import load_tasks
from videoseek_env.datasets.needle_scene import DIGITS, LETTERS
from videoseek_env.glyphs import draw_text
from videoseek_env.session import SessionConfig, VideoSession
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.video import ClipCache, open_video

TOOL_KINDS = (TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL)


@pytest.fixture(scope="module")
def needle_tasks() -> list[VideoTask]:
    return load_tasks("needle")


def accuracy_by_kind(
    make_policy: Callable[[], Policy], tasks: list[VideoTask]
) -> dict[TaskKind, float]:
    scores = defaultdict(list)
    for episode in rollout(make_policy, tasks, RolloutConfig(workers=2)):
        assert episode.error is None
        scores[episode.trajectory.task.kind].append(episode.reward.parts["acc"])
    return {kind: float(np.mean(values)) for kind, values in scores.items()}


def test_the_seeker_answers_from_pixels_and_needs_its_crops(needle_tasks: list[VideoTask]) -> None:
    seeking = accuracy_by_kind(PixelSeeker, needle_tasks)
    single_turn = accuracy_by_kind(lambda: PixelSeeker(may_crop=False), needle_tasks)
    for kind in TOOL_KINDS:
        assert seeking[kind] >= 0.8 > single_turn[kind]  # a guess is right one time in four
    for kind in (TaskKind.SINGLE_CLUE_DIRECT, TaskKind.MULTI_CLUE_DIRECT):
        assert seeking[kind] == single_turn[kind] >= 0.8
    assert seeking[TaskKind.TEMPORAL_GROUNDING] >= 0.5


def test_the_seeker_is_told_nothing() -> None:
    assert not isinstance(PixelSeeker(), PrivilegedPolicy)


def test_sightings_are_the_events_of_the_video(needle_tasks: list[VideoTask]) -> None:
    for task in {task.video: task for task in needle_tasks}.values():
        session = VideoSession(task, open_video(task.video), cache=ClipCache(2**28))
        clip = session.start().clip
        assert clip is not None
        seen = [
            (s.thing.colour, s.thing.kind, s.symbol, s.first_seconds) for s in find_sightings(clip)
        ]
        events = task.metadata["events"]
        assert len(seen) == len(events)
        for (colour, kind, symbol, first), event in zip(seen, events, strict=True):
            assert colour == event["colour"]
            assert kind == (event["symbol"] if event["kind"] == "shape" else event["kind"])
            assert symbol == (event["symbol"] if event["kind"] == "banner" else None)
            assert event["span"][0] <= first < event["span"][1]


@pytest.mark.parametrize("scale", [2, 3, 5, 8])
def test_every_glyph_is_read_at_any_size_and_place(scale: int) -> None:
    for alphabet in (DIGITS, LETTERS):
        for char in alphabet:
            patch = np.full((12 * scale, 10 * scale, 3), 248, np.uint8)
            x, y = 5 * scale // 2 + 1, 5 * scale // 2 - 1
            draw_text(patch, char, x=x, y=y, scale=scale, colour=(24, 26, 34))
            reading = read_glyph(patch, alphabet)
            assert reading is not None and reading[1] == char


def test_an_empty_panel_reads_as_nothing() -> None:
    assert read_glyph(np.full((40, 30, 3), 248, np.uint8), DIGITS) is None
    assert read_glyph(np.zeros((40, 30, 3), np.uint8), DIGITS) is None


def test_a_question_of_another_game_gets_an_answer_all_the_same(
    needle_tasks: list[VideoTask],
) -> None:
    tasks = [dataclasses.replace(needle_tasks[0], question="Who wins the match?")]
    (episode,) = rollout(PixelSeeker, tasks, session=SessionConfig())
    assert episode.trajectory.answer in ("A", "B", "C", "D")
