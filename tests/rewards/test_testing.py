import dataclasses
import importlib
import math
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from rewards import (
    Accuracy,
    Reward,
    TrajectoryGuidedReward,
)
from rewards.grounding import clue_intervals
from rewards.testing import (
    EXPLOITS,
    PROPERTIES,
    RewardPropertyError,
    check_reward,
    example_task,
    play,
)
from videoseek_env.errors import MissingExtraError, VideoSeekError
from videoseek_env.task import TaskKind
from videoseek_env.trajectory import EndReason, Trajectory

TOOL = (TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL)


# --- every property catches a reward that breaks it ---


def first_clue_seconds(trajectory: Trajectory) -> float:
    clues = clue_intervals(trajectory.task)
    return clues[0][1] - clues[0][0] if clues else 0.0


def shown_end(trajectory: Trajectory) -> float:
    return max((clip.segment.end_seconds for clip in trajectory.clips[1:]), default=0.0)


def mutating(trajectory: Trajectory) -> Reward:
    trajectory.task.metadata["nested"]["scores"].append(1)
    return Reward(0.0)


def raising(trajectory: Trajectory) -> Reward:
    return Reward(float(trajectory.answer or 0))


def nan_part(trajectory: Trajectory) -> Reward:
    return Reward(0.0, {"ratio": math.nan if trajectory.answer else 0.0})


def by_identity(trajectory: Trajectory) -> Reward:
    return Reward(id(trajectory) / 1e20)


def spaces(trajectory: Trajectory) -> Reward:
    return Reward(float(sum(reply.count(" ") for reply in trajectory.replies)))


BAD_REWARDS: dict[str, Callable[[Trajectory], Reward]] = {
    "never_raises": raising,
    "finite_and_in_range": nan_part,
    "deterministic": by_identity,
    "input_unchanged": mutating,
    "clue_order": lambda trajectory: Reward(first_clue_seconds(trajectory)),
    "time_translation": lambda trajectory: Reward(shown_end(trajectory)),
    "clock_shift": lambda trajectory: Reward(trajectory.duration_seconds),
    "time_scaling": lambda trajectory: Reward(first_clue_seconds(trajectory)),
    "json_whitespace": spaces,
    "gold_is_maximal": lambda trajectory: Reward(float(len(trajectory.turns))),
    "empty_is_minimal": lambda trajectory: Reward(-float(len(trajectory.turns))),
    "stuffed_answer": lambda trajectory: Reward(float(len(trajectory.answer or ""))),
    "repeated_crop": lambda trajectory: Reward(float(len(trajectory.crops))),
    "never_cropping": lambda trajectory: Reward(0.0),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_each_property_catches_a_reward_that_breaks_it(name: str) -> None:
    reward = BAD_REWARDS.get(name, TrajectoryGuidedReward())
    with pytest.raises(RewardPropertyError, match=f"breaks '{name}'") as caught:
        check_reward(reward, low=-1e6, high=1e6, properties=[name])
    assert caught.value.property_name == name
    assert len(caught.value.case) == len(caught.value.scores) >= 1


# --- what the error says ---


def test_the_error_shows_the_smallest_counterexample_and_both_scores() -> None:
    with pytest.raises(RewardPropertyError) as caught:
        check_reward(
            TrajectoryGuidedReward(),
            low=0,
            high=3,
            kinds=[TaskKind.MULTI_CLUE_TOOL],
            properties=["missed_crop"],
        )
    # A miss has g2 = 0, so it earns 1 + 1 + (0 + 1) / 2; the blind answer 1 + 1.
    assert str(caught.value).splitlines() == [
        "the reward breaks 'missed_crop': a crop that shows no clue must not score more than the "
        "right answer without any crop.",
        "Here the exploit's 2.5 is more than the honest 2.0.",
        "task: clue_multi_w_tool, 20 s, clues [0, 1), [10, 11), options ['A. red', 'B. blue'], "
        "answer 'A'",
        "honest: scores 2.0, answered",
        "  turn 1: '<think>So.</think><answer>A</answer>'",
        "exploit: scores 2.5, answered",
        '  turn 1: \'<think>I look.</think><grounding>{"temporal_segment": [1.0, 10.0], '
        '"sampling_strategy": "fine"}</grounding>\'',
        "  turn 2: '<think>So.</think><answer>A</answer>'",
        "If that is meant, pass skip=['missed_crop'].",
    ]
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, VideoSeekError)
    assert caught.value.scores == (2.0, 2.5)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (0.5, r"expected a Reward, got 0\.5; return Reward\(value\)"),
        (math.nan, "expected a Reward, got nan"),
        (None, "expected a Reward, got None"),
        (Reward("high"), "expected a number for the reward's value, got 'high'"),  # type: ignore[arg-type]
        (Reward(None), "expected a number for the reward's value, got None"),  # type: ignore[arg-type]
        (Reward(1.0, {"iou": None}), "expected a number for the reward's part 'iou', got None"),  # type: ignore[dict-item]
        (Reward(math.nan), "the value is nan, which is not finite"),
        (Reward(math.inf), "the value is inf, which is not finite"),
        (Reward(1.1), r"1\.1 lies outside \[0, 1\]"),
        (Reward(-0.1), r"-0\.1 lies outside \[0, 1\]"),
        (Reward(0.0, {"iou": math.inf}), "the part 'iou' is inf"),
    ],
)
def test_what_is_no_reward_is_told_so(returned: Any, told: str) -> None:
    with pytest.raises(RewardPropertyError, match=told):
        check_reward(lambda trajectory: returned, low=0, high=1, max_examples=5)


def test_a_reward_may_miss_its_range_by_a_rounding() -> None:
    report = check_reward(
        lambda trajectory: Reward(1 + 1e-12), low=0, high=1, properties=["finite_and_in_range"]
    )
    assert report.examples == {"finite_and_in_range": 100}


def test_an_exception_is_shown_and_chained() -> None:
    with pytest.raises(RewardPropertyError, match="it raised ValueError: could not") as caught:
        check_reward(raising, low=0, high=1)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.scores == (None,)
    assert "trajectory: scores nothing, answered" in str(caught.value)


def test_a_reward_that_fails_now_and_then_is_called_not_deterministic() -> None:
    dice = random.Random(0)

    def unsteady(trajectory: Trajectory) -> Reward:
        return Reward(2.0 if dice.random() < 0.1 else 0.0)

    with pytest.raises(RewardPropertyError, match="not deterministic"):
        check_reward(unsteady, low=0, high=1, properties=["finite_and_in_range"])


def test_a_long_reply_is_shortened() -> None:
    task = example_task(TaskKind.SINGLE_CLUE_TOOL)
    case = {
        "trajectory": play(task, ["a" * 300, "b"]),
        "other": play(task, ["[" * 151 + "]" * 151]),
    }
    shown = str(RewardPropertyError("never_raises", "it raised", case, (None, 1.0))).splitlines()
    assert shown[3:] == [
        "trajectory: scores nothing, no_action",
        f"  turn 1: {'a' * 300!r}",
        "other: scores 1.0, no_action",
        f"  turn 1: '{'[' * 150} ... {']' * 150}'",
        "If that is meant, pass skip=['never_raises'].",
    ]


def test_an_episode_without_an_ending_is_called_running() -> None:
    def dislikes_unfinished(trajectory: Trajectory) -> Reward:
        return Reward(-1.0 if trajectory.end_reason is None else 0.0)

    with pytest.raises(RewardPropertyError, match="still running"):
        check_reward(dislikes_unfinished, low=0, high=1, properties=["finite_and_in_range"])


# --- what to check ---


def test_skipped_properties_and_foreign_kinds_are_left_out() -> None:
    report = check_reward(
        TrajectoryGuidedReward(),
        low=0,
        high=3,
        kinds=[TaskKind.OPEN_ENDED],
        skip=["several_answers", "never_raises"],
        max_examples=3,
    )
    left_out = {name for name in PROPERTIES if name not in report.examples}
    # Letters and segments are no free text; only tool kinds need a crop.
    foreign = {"never_cropping", "every_form", "whole_video_answer"}
    assert left_out == {"several_answers", "never_raises"} | foreign


def test_only_tasks_of_the_kinds_are_drawn() -> None:
    seen: set[TaskKind] = set()

    def spying(trajectory: Trajectory) -> Reward:
        seen.add(trajectory.task.kind)
        return Reward(0.0)

    check_reward(spying, low=0, high=0, kinds=TOOL, skip=["never_cropping"], max_examples=10)
    assert seen == set(TOOL)


def test_the_same_seed_tries_the_same_cases() -> None:
    def trace(seed: int) -> list[str]:
        found: list[str] = []

        def spying(trajectory: Trajectory) -> Reward:
            found.append(repr(trajectory.replies))
            return Reward(0.0)

        check_reward(spying, low=0, high=0, properties=["never_raises"], seed=seed, max_examples=20)
        return found

    assert trace(1) == trace(1) != trace(2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"low": 1, "high": 0}, r"expected low <= high, got \[1, 0\]"),
        ({"low": math.nan, "high": 0}, "expected low <= high"),
        ({"kinds": []}, "expected at least one kind of task, of clue_single_w_tool"),
        ({"properties": ["gold"]}, "no property is named gold; choose from never_raises"),
        ({"skip": ["gold"]}, "no property is named gold"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_reward(Accuracy(), **({"low": 0, "high": 1} | arguments))


def test_without_a_range_only_finiteness_is_checked() -> None:
    name = "finite_and_in_range"
    check_reward(lambda _: Reward(-1e9), properties=[name], max_examples=5)
    with pytest.raises(RewardPropertyError, match="finite"):
        check_reward(lambda _: Reward(float("inf")), properties=[name], max_examples=5)


def test_exploits_are_properties() -> None:
    assert set(EXPLOITS) < set(PROPERTIES)


def test_a_missing_hypothesis_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    for name in [name for name in sys.modules if name.startswith("rewards.testing")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"pip install 'videoseek-env\[testing\]'"):
        importlib.import_module("rewards.testing")


def test_a_reward_that_fails_on_one_ending_is_found() -> None:
    def fails(trajectory: Trajectory) -> Reward:
        if trajectory.end_reason is EndReason.REPLY_CUT:
            raise RuntimeError("cut")
        return Reward(0.0)

    with pytest.raises(RewardPropertyError, match="it raised RuntimeError: cut"):
        check_reward(fails, low=0, high=0, max_examples=200)


def test_dataclass_rewards_and_plain_functions_are_checked_alike() -> None:
    @dataclasses.dataclass(frozen=True)
    class Constant:
        value: float

        def __call__(self, trajectory: Trajectory, /) -> Reward:
            return Reward(self.value)

    check_reward(Constant(0.5), low=0, high=1, skip=["never_cropping"], max_examples=3)
