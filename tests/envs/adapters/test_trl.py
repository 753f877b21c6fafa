import dataclasses
import inspect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl", reason="TRL is an extra")
pytest.importorskip("PIL")

import datasets

from envs.adapters.content import TOOL_SYSTEM, for_tools, image_of
from envs.adapters.trl import environment_factory, train_dataset
from rewards import Reward
from tests.envs.adapters.same_episode import (
    EPISODES,
    REWARD,
    RULES,
    Move,
    Played,
    check_same_episode,
    seen_in,
)
from tests.synthetic_video import read_barcodes
from videoseek_env.errors import (
    ConfigError,
    EpisodeError,
    MissingExtraError,
    TaskError,
    VideoDecodeError,
)
from videoseek_env.prompts import DEFAULT_PROMPTS, Prompts
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import ClipCache


def environment(task: VideoTask, rules: SessionConfig = RULES, **options: Any) -> Any:
    environment = environment_factory([task], config=rules, **options)()
    environment.reset(task_id=task.id)
    return environment


def text_of(blocks: Sequence[dict[str, Any]]) -> str:
    """The text of an observation without frames."""
    [block] = blocks
    assert block["type"] == "text"
    return str(block["text"])


def play(task: VideoTask, rules: SessionConfig, moves: Sequence[Move]) -> Played:
    environment = environment_factory([task], config=rules, reward=REWARD)()
    system, *blocks = environment.reset(task_id=task.id, prompt=[{"role": "user", "content": ""}])
    seen = [blocks, *(getattr(environment, move.tool)(**move.arguments) for move in moves)]
    ending = text_of(seen.pop())
    reward = environment.get_reward()
    assert environment.session is not None
    assert ending == f"The episode is over: {environment.session.end_reason}."
    assert reward is not None
    return Played(
        system=system["text"].removesuffix("\n\n"),
        observations=list(map(seen_in, seen)),
        end_reason=str(environment.session.end_reason),
        reward=reward,
    )


@pytest.mark.parametrize("moves", EPISODES.values(), ids=EPISODES)
def test_an_episode_is_the_sessions(moves: Sequence[Move], task: VideoTask) -> None:
    check_same_episode(play, moves, task, for_tools(RULES))


def test_the_only_public_methods_are_the_tools_and_what_trl_asks_for(task: VideoTask) -> None:
    methods = inspect.getmembers(environment(task), callable)
    assert {name for name, _ in methods if not name.startswith("_")} == {
        "reset", "crop", "answer", "get_reward"
    }  # fmt: skip


def test_after_the_end_tools_say_so_and_change_nothing(task: VideoTask) -> None:
    environment_ = environment(task)
    environment_.crop(start=10, end=20, detail="fine")
    environment_.answer(text="B")
    before = environment_.session.trajectory
    for _ in range(2):
        assert text_of(environment_.answer(text="C")) == "The episode is over: answered."
        assert text_of(environment_.crop(1, 9, "fine")) == "The episode is over: answered."
    assert environment_.session.trajectory == before
    # Accuracy 1, format 1, and at most 1 for having cropped the clue.
    assert 2 < environment_.get_reward() <= 3


def test_an_episode_without_an_answer_is_scored_and_over(task: VideoTask) -> None:
    environment_ = environment(task)
    environment_.crop(start=10, end=20, detail="fine")
    assert environment_.get_reward() == 0
    assert environment_.session.end_reason is EndReason.ABANDONED
    assert text_of(environment_.answer(text="B")) == "The episode is over: abandoned."
    assert environment_.get_reward() == 0
    assert environment(task).get_reward() == 0, "not even a crop"


def test_the_reward_is_that_of_the_function_given(task: VideoTask) -> None:
    seen: list[Trajectory] = []

    def count(trajectory: Trajectory) -> Reward:
        seen.append(trajectory)
        return Reward(np.float32(7), {})  # type: ignore[arg-type]

    environment_ = environment(task, reward=count)
    environment_.answer(text="B")
    assert type(environment_.get_reward()) is float
    assert seen == [environment_.session.trajectory]


def test_a_reset_leaves_nothing_of_the_episode_before(task: VideoTask) -> None:
    other = dataclasses.replace(task, id="other", question="Which letter?")
    environment_ = environment_factory([task, other], config=RULES)()
    first = environment_.reset(task_id=task.id)
    environment_.crop(10, 20, "fine")
    environment_.answer("B")
    again = environment_.reset(task_id="other")
    assert environment_.session is not None
    assert environment_.session.trajectory.turns == ()
    assert environment_.session.task == other
    assert again[-1]["text"] == first[-1]["text"].replace(task.question, "Which letter?")
    assert environment_.get_reward() == 0


def test_members_of_a_group_see_the_same_and_decode_it_once(task: VideoTask) -> None:
    cache = ClipCache(2**24)
    make = environment_factory([task], config=RULES, cache=cache)
    first, second = (seen_in(make().reset(task_id=task.id)) for _ in range(2))
    for frame, other in zip(first.frames, second.frames, strict=True):
        np.testing.assert_array_equal(frame, other)
    assert (cache.stats.misses, cache.stats.hits) == (1, 1)


def test_rows_name_their_tasks(task: VideoTask) -> None:
    other = dataclasses.replace(task, id="other")
    rows = train_dataset([task, other])
    assert isinstance(rows, datasets.Dataset)
    assert rows["task_id"] == [task.id, "other"]
    environment_ = environment_factory([task, other], config=RULES)()
    for row in rows:
        assert environment_.reset(**row)
        assert environment_.session is not None
        assert environment_.session.task.id == row["task_id"]


@pytest.mark.parametrize("row", [{"task_id": "nobody"}, {"prompt": []}])
def test_a_row_of_no_task_is_an_error(row: dict[str, Any], task: VideoTask) -> None:
    with pytest.raises(TaskError, match=r"no task .* such as: .*train_dataset"):
        environment_factory([task])().reset(**row)


def test_tasks_have_ids_of_their_own(task: VideoTask) -> None:
    for tasks, count in (([], 0), ([task, task], 1)):
        with pytest.raises(TaskError, match=f"got {len(tasks)} tasks with {count} ids"):
            environment_factory(tasks)


def test_nothing_happens_before_a_reset(task: VideoTask) -> None:
    environment_ = environment_factory([task])()
    for call in (
        environment_.get_reward,
        lambda: environment_.answer("B"),
        lambda: environment_.crop(1, 5, "fine"),
    ):
        with pytest.raises(EpisodeError, match="call reset"):
            call()


def test_a_video_that_cannot_be_opened_ends_its_episode_alone(
    task: VideoTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = dataclasses.replace(task, id="broken", video=str(tmp_path / "none.mp4"))
    environment_ = environment_factory([task, broken], config=RULES)()
    with caplog.at_level(logging.WARNING):
        assert text_of(environment_.reset(task_id="broken")) == "The video can't be shown."
    assert "task broken" in caplog.text and "none.mp4" in caplog.text
    assert text_of(environment_.crop(1, 5, "fine")) == "The episode is over: video_failed."
    assert environment_.get_reward() is None
    assert len(environment_.reset(task_id=task.id)) > 1


def test_a_video_that_fails_midway_has_no_reward(task: VideoTask, tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(Path(task.video).read_bytes())
    environment_ = environment(dataclasses.replace(task, video=str(path)))
    environment_.session._reader.close()
    path.write_bytes(b"")
    with pytest.raises(VideoDecodeError, match=r"v\.mp4"):  # TRL tells the model
        environment_.crop(10, 20, "fine")
    assert text_of(environment_.answer("B")) == "The episode is over: video_failed."
    assert environment_.get_reward() is None


def test_the_prompt_explains_tools_unless_it_is_ones_own(task: VideoTask) -> None:
    assert "<grounding>" in DEFAULT_PROMPTS.system
    assert for_tools().prompts.system_text() == TOOL_SYSTEM
    own = SessionConfig(prompts=Prompts(system="Look."), max_turns=9)
    assert for_tools(own) == own
    blocks = environment_factory([task], config=own)().reset(task_id=task.id)
    assert blocks[0]["text"] == "Look.\n\n"


def test_frames_beyond_the_limit_are_thinned_out(task: VideoTask) -> None:
    _, *blocks = environment_factory([task], config=RULES, max_images=3)().reset(task_id=task.id)
    seen = seen_in(blocks)
    # The tiny overview has 20 frames, evenly spaced over frames 0 to 599: of 19 steps, 0, 10 (9.5
    # rounds to even) and 19.
    assert read_barcodes(np.stack(seen.frames)) == [0, 315, 599]
    assert seen.text.endswith("\n3 of the 20 frames are shown.")


def test_at_least_one_frame_is_shown(task: VideoTask) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        environment_factory([task], max_images=0)().reset(task_id=task.id)


def test_without_its_packages_the_adapter_says_what_to_install(
    task: VideoTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"videoseek-env\[trl\]"):
        train_dataset([task])
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="pillow"):
        image_of(np.zeros((1, 1, 3), np.uint8))
