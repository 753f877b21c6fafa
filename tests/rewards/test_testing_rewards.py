from typing import NamedTuple

import pytest

from rewards import (
    Accuracy,
    Clipped,
    Format,
    Gate,
    Grounding,
    OverlongPenalty,
    RewardFunction,
    TokenEfficiency,
    TrajectoryGuidedReward,
    TurnEfficiency,
    WeightedSum,
    token_f1,
)
from rewards.testing import (
    PROPERTIES,
    check_reward,
)

PAID_BY_THE_PUBLISHED_PRESET = {
    "whole_video_crop",
    "sliced_video",
    "missed_crop",
    "phantom_grounding",
    "every_form",
    "hedged_answer",
    "several_answers",
    "whole_video_answer",
    "reversed_segment",
    "zero_length_segment",
    "sub_second_segment",
    "negative_segment",
    "beyond_the_end",
    "infinite_segment",
    "nan_segment",
}


def test_the_hardened_reward_keeps_every_property() -> None:
    report = check_reward(TrajectoryGuidedReward.hardened(), low=0, high=3, max_examples=60)
    assert report.examples == dict.fromkeys(PROPERTIES, 60)
    assert (
        str(report)
        == f"{len(PROPERTIES)} properties, {60 * len(PROPERTIES)} examples, broken: none"
    )


@pytest.mark.parametrize("weights", [(3.0, 0.1), (0.2, 2.0)])
def test_the_hardened_reward_keeps_them_at_other_weights(weights: tuple[float, float]) -> None:
    reward = TrajectoryGuidedReward.hardened(accuracy_weight=weights[0], format_weight=weights[1])
    check_reward(reward, low=0, high=sum(weights) + 1, max_examples=10)


def test_the_published_preset_keeps_all_but_the_exploits_that_it_pays() -> None:
    report = check_reward(TrajectoryGuidedReward(), low=0, high=3, max_examples=40, keep_going=True)
    assert set(report.broken) == PAID_BY_THE_PUBLISHED_PRESET


ANSWER_EXPLOITS = {"every_form", "hedged_answer", "several_answers", "whole_video_answer"}
SHOWN = {"gold_is_maximal", "whole_video_crop", "sliced_video"}
WRITTEN = SHOWN | {"phantom_grounding", "reversed_segment", "sub_second_segment"}
CHEAP = {"empty_is_minimal", "gold_is_maximal", "never_cropping"}
LENGTH = {"time_translation", "clock_shift", "time_scaling", "json_whitespace"}


METRICS = ("iou", "iop", "iog", "coverage", "multi")


class Component(NamedTuple):
    reward: RewardFunction
    low: float
    high: float
    broken: set[str]


# Each part of a reward is blind to what the others read, and keeps all that it can.
COMPONENTS = {
    "accuracy": Component(Accuracy(), 0, 1, ANSWER_EXPLOITS | {"never_cropping"}),
    "accuracy by words": Component(
        Accuracy(open_ended=token_f1), 0, 1, ANSWER_EXPLOITS | {"never_cropping", "stuffed_answer"}
    ),
    "format": Component(Format(), 0, 1, {"never_cropping"}),
    **{f"{name} shown": Component(Grounding(metric=name), 0, 1, SHOWN) for name in METRICS},
    **{
        f"{name} written": Component(Grounding(metric=name, source="written"), 0, 1, WRITTEN)
        for name in METRICS
    },
    # The distance tells how far off a crop is, so a miss earns something.
    "single shown": Component(Grounding(metric="single"), 0, 1, SHOWN | {"missed_crop"}),
    "diou shown": Component(Grounding(metric="diou"), -1, 1, SHOWN | {"empty_is_minimal"}),
    # Doing nothing costs nothing.
    "turns": Component(TurnEfficiency(), 0, 1, CHEAP),
    "tokens": Component(TokenEfficiency(budget_tokens=100), 0, 1, CHEAP),
    "overlong": Component(
        OverlongPenalty(limit_tokens=100, buffer_tokens=50), -1e6, 0, CHEAP | LENGTH
    ),
    "sum": Component(
        WeightedSum({"acc": (1.0, Accuracy()), "format": (0.2, Format())}),
        0,
        1.2,
        ANSWER_EXPLOITS | {"never_cropping"},
    ),
    "gate": Component(
        Gate(condition=Accuracy(), reward=Format()),
        0,
        1,
        ANSWER_EXPLOITS - {"whole_video_answer"} | {"never_cropping"},
    ),
    "clipped": Component(Clipped(TrajectoryGuidedReward(), 0, 1), 0, 1, {"never_cropping"}),
    # Word overlap pays for a list that holds the right word.
    "hardened by words": Component(
        TrajectoryGuidedReward.hardened(open_ended=token_f1),
        0,
        3,
        {"hedged_answer", "stuffed_answer"},
    ),
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_break_exactly_what_they_cannot_keep(name: str) -> None:
    reward, low, high, broken = COMPONENTS[name]
    kept = [name for name in PROPERTIES if name not in broken]
    check_reward(reward, low=low, high=high, properties=kept, max_examples=5)
    report = check_reward(
        reward, low=low, high=high, properties=broken, max_examples=50, keep_going=True
    )
    assert set(report.broken) == broken
