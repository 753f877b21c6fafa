import dataclasses
import sys
from pathlib import Path

import gymnasium
import pytest

import videoseek_env
from tests.sample_trajectories import answer_reply, make_task
from videoseek_env.errors import BudgetError, ConfigError, DatasetError
from videoseek_env.session import SessionConfig


def test_the_id_makes_an_environment_with_a_default_set_of_needle_tasks() -> None:
    env = gymnasium.make("VideoSeek-v0")
    observation, info = env.reset(seed=0)
    assert info["task_id"].startswith("needle")
    assert observation["frames"].shape[0] > 0
    _, _, terminated, _, info = env.step(answer_reply("A"))
    assert terminated and info["end_reason"] == "answered"
    env.close()


def test_the_id_can_name_the_package() -> None:
    env = gymnasium.make("videoseek_env:VideoSeek-v0", max_turns=2, max_clips=3)
    assert env.unwrapped.config == SessionConfig(max_turns=2, max_clips=3)  # type: ignore[attr-defined]


def test_rules_come_as_fields_or_as_a_whole(minute_video: Path) -> None:
    tasks = [dataclasses.replace(make_task(), video=str(minute_video))]
    config = SessionConfig(budget="tiny", force_answer=True)
    by_field = gymnasium.make("VideoSeek-v0", tasks=tasks, budget="tiny", force_answer=True)
    whole = gymnasium.make("VideoSeek-v0", tasks=tasks, config=config)
    assert by_field.unwrapped.config == whole.unwrapped.config == config  # type: ignore[attr-defined]


def test_an_unknown_rule_lists_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"max_turn.*max_turns"):
        gymnasium.make("VideoSeek-v0", max_turn=3)


def test_config_and_fields_together_are_an_error() -> None:
    with pytest.raises(TypeError, match="either config or its fields"):
        gymnasium.make("VideoSeek-v0", config=SessionConfig(), max_turns=3)


def test_an_unknown_budget_or_dataset_is_named() -> None:
    with pytest.raises(BudgetError, match="'huge'"):
        gymnasium.make("VideoSeek-v0", budget="huge")
    with pytest.raises(DatasetError, match="'no-such-set'"):
        gymnasium.make("VideoSeek-v0", tasks="no-such-set")


def test_another_package_named_envs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "envs"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"hidden by .*envs.__init__\.py\. Rename"):
        gymnasium.make("VideoSeek-v0")


def test_every_public_name_exists_and_is_documented() -> None:
    for name in videoseek_env.__all__:
        assert getattr(videoseek_env, name).__doc__, name
