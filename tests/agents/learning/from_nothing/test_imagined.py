from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agents.learning.from_nothing.examples import Stage
from agents.learning.from_nothing.imagined import NoPixels, PlannedVideo
from agents.learning.from_nothing.settings import needle_config
from agents.llm.roles import TokenRole
from tests.agents.learning.from_nothing.small import imagined_examples, small_model
from videoseek_env.datasets.needle import load_needle, plan_tasks
from videoseek_env.errors import VideoDecodeError
from videoseek_env.video import ClipCache, open_video

MODEL = small_model()


def test_an_imagined_episode_equals_the_one_on_the_real_video_but_for_pixels(
    tmp_path: Path,
) -> None:
    config = needle_config("real", 1)
    real, planned = (
        Stage(MODEL, cache=cache, slip_probability=0.5) for cache in (ClipCache(2**24), NoPixels())
    )
    tasks = load_needle(config, root=tmp_path)
    for task, plan in zip(tasks, plan_tasks(config), strict=True):
        (seen,) = real.demonstrate(task, open_video(task.video), seed=7)
        (imagined,) = planned.demonstrate(plan, PlannedVideo(plan, config), seed=7)
        for field in seen.tokens.dtype.names or ():
            np.testing.assert_array_equal(seen.tokens[field], imagined.tokens[field])
        np.testing.assert_array_equal(seen.words, imagined.words)
        assert [len(clip) for clip in imagined.frames] == [0] * len(seen.frames)


def test_a_planned_video_has_nothing_to_decode() -> None:
    config = needle_config("planned", 1)
    reader = PlannedVideo(plan_tasks(config)[0], config)
    with pytest.raises(VideoDecodeError, match="never made"):
        reader.read([0])
    reader.close()


def test_imagining_goes_through_the_quadrants_and_never_repeats_a_scene() -> None:
    examples = imagined_examples()
    overviews = [example.words[:12].tobytes() for example in examples]
    # Twelve tasks about each of two scenes.
    assert len(set(overviews)) == 2


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 8, 28), (1.0, 36, 36)])
def test_drills_come_as_often_as_asked_for(probability: float, low: int, high: int) -> None:
    # A drill is one reply without an end; a demonstration ends with an answer.
    drills = sum(
        bool((one.tokens["role"] != TokenRole.ANSWER).all())
        for one in imagined_examples(36, probability)
    )
    assert low <= drills <= high
