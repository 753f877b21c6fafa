import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.discrete import VideoSeekDiscreteEnv, make_video_seek_discrete
from envs.discrete_features import split_sheet
from envs.discrete_layout import DiscreteLayout
from envs.discrete_wrappers import FlatActions, PlainInfo
from rewards import Accuracy, CoverageShaping, TrajectoryGuidedReward
from tests.sample_trajectories import make_task
from tests.synthetic_video import read_barcodes, write_video
from videoseek_env.budget import FrameSize, get_budget
from videoseek_env.env import VideoSeekEnv
from videoseek_env.errors import EpisodeError, TaskError
from videoseek_env.session import SessionConfig
from videoseek_env.task import TaskKind, VideoTask

TINY = SessionConfig(budget="tiny")
CELL = FrameSize(32, 32)
CROP_FINE = np.array([1, 1, 2, 0])
"""Of a minute in ten parts: from 6 s, two parts long, so to 18 s."""
ANSWER_B = np.array([0, 0, 0, 2])


def make_tasks(path: Path, count: int = 4, **changes: Any) -> list[VideoTask]:
    return [
        dataclasses.replace(make_task(), id=f"task-{number}", video=str(path), **changes)
        for number in range(count)
    ]


def make_env(path: Path, config: SessionConfig = TINY, **arguments: Any) -> VideoSeekDiscreteEnv:
    return VideoSeekDiscreteEnv(
        make_tasks(path), TrajectoryGuidedReward(), config=config, **arguments
    )


def barcodes(sheet: npt.NDArray[np.uint8]) -> list[int]:
    return read_barcodes(split_sheet(sheet, CELL))


def test_gymnasium_checks_the_environment_without_a_warning(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gymnasium.make(
        "VideoSeekDiscrete-v0",
        tasks=make_tasks(minute_video),
        config=TINY,
        disable_env_checker=True,
    )
    assert isinstance(env.unwrapped, VideoSeekDiscreteEnv)
    check_env(env.unwrapped, skip_render_check=importlib.util.find_spec("pygame") is None)
    env.close()


def test_stable_baselines3_checks_the_environment_without_a_warning(minute_video: Path) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="an extra")
    checker.check_env(make_env(minute_video))
    checker.check_env(FlatActions(PlainInfo(make_env(minute_video))))


def test_the_overview_stays_on_view_and_the_clip_shows_the_crop(minute_video: Path) -> None:
    env = make_env(minute_video)
    first, _ = env.reset(seed=0)
    # The overview of 20 frames, evenly from frame 0 to 599: a step of 31.5.
    overview = [0, 32, 63, 95, 126, 158, 189, 221, 252, 284]
    overview += [315, 347, 378, 410, 441, 473, 504, 536, 567, 599]
    assert barcodes(first["overview"]) == overview
    assert not first["clip"].any() and (first["clip_times"] == -1).all()
    second, *_ = env.step(CROP_FINE)
    assert barcodes(second["overview"]) == overview
    # 12 s at 2 fps are 24 frames, of which 8 are allowed: from frame 60 to 180 in steps of 17.14.
    shown = [60, 77, 94, 111, 129, 146, 163, 180]
    assert barcodes(second["clip"])[:8] == shown
    # The first frame is at 0 s, the last at 59.9 s of 60 s.
    np.testing.assert_allclose(second["clip_times"], np.array(shown) / 600, atol=1e-6)
    np.testing.assert_allclose(second["overview_times"], np.array(overview) / 600, atol=1e-6)


def test_the_ninth_cell_of_a_sheet_of_eight_frames_stays_black(minute_video: Path) -> None:
    env = make_env(minute_video)
    env.reset(seed=0)
    observation, *_ = env.step(CROP_FINE)
    assert observation["clip"].shape == (3, 96, 96)
    cells = split_sheet(observation["clip"], CELL)
    assert [cell.any() for cell in cells] == [True] * 8 + [False]


def test_frames_beyond_the_cells_are_picked_evenly(minute_video: Path) -> None:
    layout = DiscreteLayout(overview_frames=4, clip_frames=3)
    env = make_env(minute_video, layout=layout)
    first, _ = env.reset(seed=0)
    # Of 20 frames the places 0, 6, 13, 19 (19 / 3 = 6.33, 12.67); of 8 the places 0, 4 (3.5), 7.
    assert barcodes(first["overview"]) == [0, 189, 410, 599]
    second, *_ = env.step(CROP_FINE)
    assert barcodes(second["clip"])[:3] == [60, 129, 180]


def test_coverage_and_turn_tell_what_was_looked_at(minute_video: Path) -> None:
    env = make_env(minute_video)
    first, _ = env.reset(seed=0)
    assert not first["coverage"].any() and first["turn"] == 0
    env.step(CROP_FINE)
    # A coarse crop of four parts from the last but one is cut at the end.
    last, *_ = env.step(np.array([8, 2, 0, 0]))
    expected = np.zeros((10, 3))
    expected[1:3, 2] = 1
    expected[8:10, 0] = 1
    np.testing.assert_allclose(last["coverage"].reshape(10, 3), expected, atol=1e-6)
    assert last["turn"] == pytest.approx(2 / 6)
    again, _ = env.reset()
    assert not again["coverage"].any() and again["turn"] == 0


def test_question_and_options_are_told_apart(minute_video: Path) -> None:
    tasks = make_tasks(minute_video, 3)
    tasks[1] = dataclasses.replace(tasks[1], question="Which digit does the blue card show?")
    tasks[2] = dataclasses.replace(tasks[2], options=("2", "1", "3"))
    env = VideoSeekDiscreteEnv(tasks, Accuracy(), config=TINY)
    plain, other_question, other_options = (
        env.reset(options={"task_id": task.id})[0] for task in tasks
    )
    differs = plain["question"].reshape(24, 32) != other_question["question"].reshape(24, 32)
    assert differs.any(axis=1).nonzero()[0].tolist() == [4]  # the fifth word
    options, others = plain["options"].reshape(4, -1), other_options["options"].reshape(4, -1)
    assert [o.any() for o in others] == [True, True, True, False]
    np.testing.assert_array_equal(options[[1, 0, 2]], others[:3])


def test_any_action_gives_an_observation_of_the_space(minute_video: Path) -> None:
    env = make_env(minute_video, shaping=CoverageShaping())
    env.action_space.seed(0)
    env.reset(seed=0)
    endings = set()
    for _ in range(200):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert observation in env.observation_space
        assert isinstance(reward, float)
        if terminated or truncated:
            endings.add(info["end_reason"])
            assert env.reset()[0] in env.observation_space
    assert "answered" in endings


ACTIONS = st.tuples(*(st.integers(0, size - 1) for size in (10, 3, 3, 5)))


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(actions=st.lists(ACTIONS, min_size=1, max_size=8))
def test_an_episode_is_what_its_replies_make_of_the_text_environment(
    minute_video: Path, actions: list[tuple[int, ...]]
) -> None:
    config = SessionConfig(budget="tiny", max_turns=4, max_clips=3)
    discrete = make_env(minute_video, config)
    text = VideoSeekEnv(make_tasks(minute_video), TrajectoryGuidedReward(), config=config)
    pinned = {"task_id": "task-1"}
    assert discrete.reset(options=pinned)[1] == text.reset(options=pinned)[1]
    for action in actions:
        # Both from the start, so that the replies are those of a session, not of this test.
        *outcome, info = discrete.step(np.array(action))[1:]
        reply = discrete.text_env.session.trajectory.replies[-1]
        *text_outcome, text_info = text.step(reply)[1:]
        assert outcome == text_outcome
        assert info == text_info
        if outcome[1] or outcome[2]:
            break


@pytest.mark.parametrize(
    ("action", "meaning"),
    [
        ((0, 0, 0, 0), (0.0, 6.0, "coarse")),
        ((3, 2, 1, 0), (18.0, 42.0, "medium")),
        ((9, 2, 2, 0), (54.0, 60.0, "fine")),
    ],
)
def test_crops_are_written_as_replies(
    minute_video: Path, action: tuple[int, ...], meaning: tuple[float, float, str]
) -> None:
    env = make_env(minute_video)
    env.reset(seed=0)
    env.step(np.array(action))
    (crop,) = env.text_env.session.trajectory.crops
    found = crop.segment.start_seconds, crop.segment.end_seconds, crop.strategy
    assert found == pytest.approx(meaning)


def test_the_right_answer_pays_and_ends(minute_video: Path) -> None:
    env = make_env(minute_video)
    env.reset(seed=0)
    assert env.step(CROP_FINE)[1:4] == (0.0, False, False)
    observation, reward, terminated, truncated, info = env.step(ANSWER_B)
    assert (terminated, truncated, info["end_reason"]) == (True, False, "answered")
    # Right, in form, and a crop of [6, 18] for a clue of [10, 20] earns a part of the bonus.
    assert 2 < reward < 3 and info["trajectory"].answer == "B"
    assert not observation["clip"].any()


def test_an_option_that_the_task_lacks_is_a_wrong_answer(minute_video: Path) -> None:
    tasks = make_tasks(minute_video, options=("1", "2"))
    env = VideoSeekDiscreteEnv(tasks, Accuracy(), config=TINY)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(np.array([0, 0, 0, 4]))
    assert (reward, terminated, info["trajectory"].answer) == (0.0, True, "D")


def test_a_video_shorter_than_any_crop_costs_turns(tmp_path: Path) -> None:
    path = write_video(tmp_path / "blink.mp4", 5, fps=10)
    env = make_env(path)
    first, _ = env.reset(seed=0)
    assert first["overview_times"].tolist()[4:] == [-1.0] * 16
    observation, _, terminated, truncated, info = env.step(CROP_FINE)
    assert (terminated, truncated, info["malformed_replies"]) == (False, False, 1)
    assert observation in env.observation_space and not observation["clip"].any()


def test_a_crop_spans_a_second_at_least(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", 25, fps=10)
    env = make_env(path)
    env.reset(seed=0)
    for start_bin, expected in ((0, (0.0, 1.0)), (5, (1.25, 2.25)), (9, (1.5, 2.5))):
        env.step(np.array([start_bin, 0, 2, 0]))
        segment = env.text_env.session.trajectory.crops[-1].segment
        assert (segment.start_seconds, segment.end_seconds) == pytest.approx(expected)


def test_a_prompt_over_the_context_shows_nothing_and_ends_with_the_first_step(
    minute_video: Path,
) -> None:
    budget = dataclasses.replace(get_budget("tiny"), context_tokens=60, reserve_tokens=0)
    env = make_env(minute_video, SessionConfig(budget=budget))
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space and not observation["overview"].any()
    assert info["end_reason"] == "prompt_too_long"
    assert env.step(CROP_FINE)[2:4] == (False, True)


def test_limits_truncate_unless_told_to_terminate(minute_video: Path) -> None:
    config = SessionConfig(budget="tiny", max_turns=1)
    for limits_terminate in (False, True):
        env = make_env(minute_video, config, limits_terminate=limits_terminate)
        env.reset(seed=0)
        *_, terminated, truncated, info = env.step(CROP_FINE)
        assert (terminated, truncated) == (limits_terminate, not limits_terminate)
        assert info["end_reason"] == "turns_exhausted"


def test_a_host_that_stops_the_episode_truncates_it(minute_video: Path) -> None:
    env = make_env(minute_video, limits_terminate=True)
    env.reset(seed=0)
    env.text_env.session.abandon()
    assert env.step(CROP_FINE)[2:4] == (False, True)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_shaping_pays_turn_by_turn_what_it_says_of_the_whole(
    minute_video: Path, gamma: float
) -> None:
    shaping = CoverageShaping(gamma=gamma, weight=2.0)
    env = make_env(minute_video, shaping=shaping)
    actions = [(5, 0, 0, 0), (1, 1, 2, 0), (2, 1, 1, 0), (0, 0, 0, 2)]
    env.reset(seed=0)
    paid = [env.step(np.array(action))[1] for action in actions]
    trajectory = env.text_env.session.trajectory
    paid[-1] -= TrajectoryGuidedReward()(trajectory).value
    assert paid == pytest.approx(shaping(trajectory))
    # The clue is [10, 20]; the second crop shows [6, 18] of it, the third all of it.
    assert paid[:3] == pytest.approx([0, 2 * gamma * 0.8, 2 * (gamma * 1.0 - 0.8)])


def test_shaping_pays_back_when_a_limit_ends_the_episode(minute_video: Path) -> None:
    config = SessionConfig(budget="tiny", max_turns=2)
    env = make_env(minute_video, config, shaping=CoverageShaping())
    env.reset(seed=0)
    assert env.step(CROP_FINE)[1] == pytest.approx(0.8)
    assert env.step(CROP_FINE)[1] == pytest.approx(-0.8)
    env.reset()
    assert env.step(CROP_FINE)[1] == pytest.approx(0.8)


def test_the_same_seed_gives_the_same_episodes(minute_video: Path) -> None:
    def play(seed: int) -> list[Any]:
        env = make_env(minute_video)
        env.action_space.seed(seed)
        seen: list[Any] = [env.reset(seed=seed)]
        for _ in range(20):
            seen.append(env.step(env.action_space.sample()))
            if seen[-1][2] or seen[-1][3]:
                seen.append(env.reset())
        return seen

    assert data_equivalence(play(3), play(3))
    assert not data_equivalence(play(3), play(4))


def test_observations_are_the_callers_own(minute_video: Path) -> None:
    env = make_env(minute_video)
    pinned = {"task_id": "task-0"}
    kept, _ = env.reset(options=pinned)
    kept = {name: array.copy() for name, array in kept.items()}
    for array in env.reset(options=pinned)[0].values():
        array[:] = 1
    for array in env.step(CROP_FINE)[0].values():
        array[:] = 1
    assert data_equivalence(env.reset(options=pinned)[0], kept)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_it_vectorises_with_shared_memory(minute_video: Path, kind: str) -> None:
    factories = [lambda: make_env(minute_video)] * 2
    vector = SyncVectorEnv(factories) if kind == "sync" else AsyncVectorEnv(factories)
    observations, _ = vector.reset(seed=0)
    assert observations["overview"].shape == (2, 3, 128, 160)
    actions = np.array([[1, 1, 2, 0], [3, 1, 2, 0]])
    observations, *_ = vector.step(actions)
    assert barcodes(observations["clip"][0])[0] == 60
    assert barcodes(observations["clip"][1])[0] == 180
    vector.close()


def test_it_renders_what_the_text_environment_renders(minute_video: Path) -> None:
    env = make_env(minute_video, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(CROP_FINE)
    assert first.shape == env.render().shape and not np.array_equal(first, env.render())
    env.close()
    ansi = make_env(minute_video, render_mode="ansi")
    ansi.reset(seed=0)
    ansi.step(ANSWER_B)
    assert "answered" in ansi.render()


def test_stepping_out_of_order_is_an_error(minute_video: Path) -> None:
    env = make_env(minute_video)
    with pytest.raises(EpisodeError, match="reset"):
        env.step(CROP_FINE)
    env.reset(seed=0)
    env.step(ANSWER_B)
    with pytest.raises(EpisodeError, match="the episode is over"):
        env.step(ANSWER_B)


@pytest.mark.parametrize(
    "action", [[10, 0, 0, 0], [0, 0, 0, -1], [0, 0, 0], [0.5, 0, 0, 0], "crop", None]
)
def test_an_action_outside_the_space_is_an_error(minute_video: Path, action: Any) -> None:
    env = make_env(minute_video)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected an action of MultiDiscrete"):
        env.step(action)
    assert env.step(ANSWER_B)[2]


@pytest.mark.parametrize(
    "task",
    [
        make_task(TaskKind.OPEN_ENDED),
        make_task(TaskKind.TEMPORAL_GROUNDING),
        dataclasses.replace(make_task(), options=()),
        dataclasses.replace(make_task(), options=("1", "2", "3", "4", "5")),
    ],
    ids=["open", "grounding", "no options", "too many"],
)
def test_only_multiple_choice_fits(task: VideoTask) -> None:
    with pytest.raises(TaskError, match="multiple choice with 1 to 4 options"):
        VideoSeekDiscreteEnv([task], Accuracy())


def test_no_tasks_and_unknown_render_modes_are_errors(minute_video: Path) -> None:
    with pytest.raises(TaskError, match="at least one task"):
        VideoSeekDiscreteEnv([], Accuracy())
    with pytest.raises(ValueError, match="'gif'"):
        make_env(minute_video, render_mode="gif")


def test_the_factory_takes_the_rules_of_an_episode(minute_video: Path) -> None:
    tasks = make_tasks(minute_video)
    env = make_video_seek_discrete(tasks, budget="tiny", max_turns=1, reward=Accuracy())
    assert env.text_env.config == SessionConfig(budget="tiny", max_turns=1)
    assert env.layout == DiscreteLayout()
    env.reset(seed=0)
    assert env.step(ANSWER_B)[1] == 1.0
    with pytest.raises(TypeError, match=r"unknown arguments \['turns'\]"):
        make_video_seek_discrete(tasks, turns=1)
    with pytest.raises(TypeError, match="either config or its fields"):
        make_video_seek_discrete(tasks, config=TINY, max_turns=1)
    with pytest.raises(TaskError, match="at least one task"):
        make_video_seek_discrete([])
