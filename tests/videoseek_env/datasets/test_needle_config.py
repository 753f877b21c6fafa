import dataclasses
from typing import Any

import pytest

from videoseek_env.budget import LAPTOP
from videoseek_env.datasets.needle import plan_tasks
from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.errors import BudgetError, DatasetError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"videos": 0}, "videos must be at least 1, got 0"),
        ({"fps": 0}, "fps must be at least 1"),
        ({"gop_frames": 0}, "gop_frames must be at least 1"),
        ({"tasks_per_video": 0}, "tasks_per_video must be at least 1"),
        ({"kinds": ()}, "kinds is empty"),
        ({"kinds": ("riddle",)}, "'riddle' is not a valid TaskKind; choose from clue_single_w"),
        ({"kinds": "open_ended"}, r"kinds must be a tuple, got 'open_ended'; write \('open"),
        ({"width": 641}, "must be even and at least 64"),
        ({"height": 62}, "must be even and at least 64"),
        ({"duration_seconds": (9, 3)}, r"\(shortest, longest\) above 0, got \(9, 3\)"),
        ({"duration_seconds": (0, 3)}, "above 0"),
        ({"duration_seconds": 240.0}, r"must be \(shortest, longest\), got 240\.0"),
        ({"duration_seconds": (1, 2, 3)}, r"got \(1, 2, 3\)"),
        ({"kinds": None}, "choose from clue_single_w_tool"),
        ({"cards": 9}, r"cards must lie in \[0, 8\], got 9"),
        ({"shapes": -1}, r"shapes must lie in \[0, 16\], got -1"),
        ({"clutter": 1.5}, r"clutter must lie in \[0, 1\]"),
        ({"jitter": -0.1}, r"jitter must lie in \[0, 1\]"),
        ({"quantiser": 51}, r"quantiser must lie in \[0, 40\]"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"split": "../x"}, "split must be letters"),
        ({"split": ""}, "split must be letters"),
    ],
)
def test_a_field_out_of_range_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        NeedleConfig(**fields)


def test_an_unknown_budget_is_answered_with_the_presets() -> None:
    with pytest.raises(BudgetError, match=r"choose one of qwen2.5-vl, qwen3-vl, laptop, tiny"):
        NeedleConfig(budget="huge")


def test_every_field_changes_the_digest() -> None:
    changes: dict[str, Any] = {
        "videos": 6, "tasks_per_video": 3, "kinds": ("open_ended",), "width": 320, "height": 240,
        "fps": 4, "duration_seconds": (200, 210), "gop_frames": 9, "budget": "tiny", "cards": 1,
        "banners": 1, "shapes": 1, "clutter": 0.5, "jitter": 0.5, "quantiser": 20, "seed": 1,
        "split": "test",
    }  # fmt: skip
    assert changes.keys() == NeedleConfig.__dataclass_fields__.keys()
    digests = {NeedleConfig(**{name: value}).digest() for name, value in changes.items()}
    assert len(digests | {NeedleConfig().digest()}) == len(changes) + 1


def test_a_preset_and_its_budget_are_the_same_set() -> None:
    assert NeedleConfig(budget="laptop").digest() == NeedleConfig(budget=LAPTOP).digest()
    other = dataclasses.replace(LAPTOP, overview_frames=32)
    assert NeedleConfig(budget=other).digest() != NeedleConfig(budget=LAPTOP).digest()


def test_streams_videos_seeds_and_splits_are_independent() -> None:
    config = NeedleConfig()
    draws = {
        config.rng(0, "scene").integers(2**60),
        config.rng(0, "look").integers(2**60),
        config.rng(1, "scene").integers(2**60),
        dataclasses.replace(config, seed=1).rng(0, "scene").integers(2**60),
        dataclasses.replace(config, split="test").rng(0, "scene").integers(2**60),
    }
    assert len(draws) == 5
    assert config.rng(0, "scene").integers(2**60) in draws


def test_default_videos_are_as_long_as_the_budget_needs_them() -> None:
    (task, *_) = plan_tasks(videos=1, budget="qwen2.5-vl")
    assert task.duration_seconds is not None and task.duration_seconds > 1200
    (task, *_) = plan_tasks(videos=1, budget="laptop")
    assert task.duration_seconds is not None and 210 <= task.duration_seconds <= 240
