from __future__ import annotations

from pathlib import Path

from envs.live_sampling import plan_update
from tests.envs.live_episodes import replay
from videoseek_env.budget import LAPTOP, TINY
from videoseek_env.segment import Segment


def test_an_update_shows_what_is_new_evenly_and_as_small_as_an_overview(
    minute_video: Path,
) -> None:
    reader = replay(minute_video)
    reader.wait(20.0)
    update = plan_update(reader, since_seconds=10.0, budget=LAPTOP, fps=0.5)
    assert update is not None
    # 10 s at 0.5 fps are 5, so 4 frames, a fifth at 10 s being seen already: every 2.5 s.
    assert update.indices == (125, 150, 175, 200)
    assert (update.segment, update.strategy) == (Segment(10.0, 20.0), "overview")
    # 960 tokens over 32 pairs are 30 a pair; 96 x 128 pixels are 3 x 4 cells of 32.
    assert (update.height, update.width, update.visual_tokens) == (96, 128, 2 * 12)
    small = plan_update(reader, since_seconds=10.0, budget=TINY, fps=0.5)
    # 10 tokens over 10 pairs: one cell.
    assert small is not None and (small.height, small.width, small.visual_tokens) == (32, 32, 2)


def test_an_update_has_at_most_the_frames_that_there_are_or_that_an_overview_has(
    minute_video: Path,
) -> None:
    reader = replay(minute_video)
    reader.wait(50.0)

    def count(since: float, fps: float) -> int:
        update = plan_update(reader, since_seconds=since, budget=LAPTOP, fps=fps)
        return 0 if update is None else len(update.indices)

    assert count(since=0.0, fps=10.0) == 64
    assert count(since=49.9, fps=10.0) == 1
    assert count(since=49.65, fps=0.1) == 4
    assert count(since=50.0, fps=10.0) == 0
    first = plan_update(replay(minute_video), since_seconds=0.0, budget=LAPTOP, fps=1.0)
    assert first is None
