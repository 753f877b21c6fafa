import json
from dataclasses import replace
from pathlib import Path

import pytest

from agents.llm.tiny import TINY_PROMPTS
from agents.named_policy import rules_of
from agents.session_rules import FILE_NAME, read_rules, write_rules
from videoseek_env.budget import TINY, Quota, get_budget
from videoseek_env.errors import ConfigError
from videoseek_env.session import SessionConfig


@pytest.mark.parametrize(
    "rules",
    [
        SessionConfig(),
        SessionConfig(budget="qwen2.5-vl", overview="keyframe", max_turns=3, max_clips=5),
        SessionConfig(
            budget=replace(TINY, name="own", overview=Quota(7, 3), overview_frames=None),
            prompts=TINY_PROMPTS,
        ),
    ],
)
def test_rules_come_back_as_they_were(rules: SessionConfig, tmp_path: Path) -> None:
    write_rules(tmp_path, rules)
    found = read_rules(tmp_path)
    assert found is not None
    for name in ("prompts", "overview", "max_turns", "max_clips"):
        assert getattr(found, name) == getattr(rules, name)
    assert found == replace(rules, budget=found.budget)
    write_rules(tmp_path, found)
    assert read_rules(tmp_path) == found


def test_a_folder_without_rules_has_none(tmp_path: Path) -> None:
    assert read_rules(tmp_path) is None
    assert read_rules("Qwen/Qwen3-VL-4B-Instruct") is None


def test_a_budget_may_be_named(tmp_path: Path) -> None:
    fields = json.loads(write_rules(tmp_path, SessionConfig()).read_text(encoding="utf-8"))
    (tmp_path / FILE_NAME).write_text(json.dumps(fields | {"budget": "tiny"}), encoding="utf-8")
    rules = read_rules(tmp_path)
    assert rules is not None and rules.budget == get_budget("tiny")


NO_RULES = ("", "[]", "{}", "null", '{"budget": {"name": 1}, "prompts": {}}', "\x00")


@pytest.mark.parametrize("text", NO_RULES)
def test_a_file_of_something_else_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=FILE_NAME):
        read_rules(tmp_path)


def test_policies_play_by_the_rules_of_the_model_among_them(tmp_path: Path) -> None:
    for name, turns in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        write_rules(tmp_path / name, SessionConfig(budget="tiny", max_turns=turns))
    a, b, c = (f"hf:{tmp_path / name}" for name in "abc")
    assert rules_of(["random", "oracle"]) == SessionConfig()
    assert rules_of(["random", a]).max_turns == 3
    assert rules_of([a, b]) == rules_of([b])
    with pytest.raises(ConfigError, match="trained by different rules"):
        rules_of([a, c])
    assert rules_of([a], adapter=str(tmp_path / "c")).max_turns == 4
    assert rules_of([a], adapter=str(tmp_path)).max_turns == 3
