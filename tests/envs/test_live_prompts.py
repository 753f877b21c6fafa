from __future__ import annotations

from pathlib import Path

import pytest

from envs.live_prompts import LivePrompts
from envs.live_sampling import plan_update
from tests.envs.live_episodes import make_session, replay
from videoseek_env.budget import LAPTOP
from videoseek_env.errors import ConfigError


def test_the_system_prompt_explains_all_three_actions() -> None:
    text = LivePrompts().system_text()
    assert all(f"<{tag}>" in text for tag in ("wait", "grounding", "answer"))
    assert '{"temporal_segment"' in text


def test_an_update_says_what_it_shows_or_that_nothing_is_new(minute_video: Path) -> None:
    reader, prompts = replay(minute_video), LivePrompts(update="{sampling}", nothing_new="Wait.")
    reader.wait(10.0)
    update = plan_update(reader, since_seconds=2.0, budget=LAPTOP, fps=0.5)
    # 8 s at 0.5 fps.
    text = "Update: 4 frames from 2.0 s to 10.0 s, 0.50 frames per second."
    assert prompts.update_text(update) == text
    assert prompts.update_text(None) == "Wait."


def test_the_time_comes_with_a_deadline_once_there_is_one() -> None:
    prompts = LivePrompts(running="{now:.0f}", ended="{now:.0f} of {deadline:.0f}")
    assert prompts.now_text(5.0, None) == "5"
    assert prompts.now_text(65.0, 90.0) == "65 of 90"


@pytest.mark.parametrize(
    ("template", "text", "message"),
    [
        ("update", "{later}", "'later'"),
        ("nothing_new", "{sampling}", "'sampling'"),
        ("running", "{deadline}", "'deadline'"),
        ("ended", "{", "doubled"),
        ("system", "{now}", "'now'"),
    ],
)
def test_a_template_with_another_name_is_refused(template: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LivePrompts(**{template: text})


def test_prompts_are_replaceable(minute_video: Path) -> None:
    short = LivePrompts(running=" [{now:.0f}]", question="{question}")
    text = make_session(minute_video, prompts=short).start().text
    assert text == "Which digit does the red card show? [0]"
