import importlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pettingzoo", reason="PettingZoo is an extra")

with warnings.catch_warnings():
    # Its tests import one of its own games the old way, and say so.
    warnings.simplefilter("ignore", DeprecationWarning)
    from pettingzoo.test import (
        api_test,
        parallel_api_test,
        parallel_seed_test,
        render_test,
        seed_test,
    )
from pettingzoo.utils.conversions import aec_to_parallel

from envs import seeker_answerer
from envs.decoupled import AGENTS
from tests.envs.decoupled_games import make_arguments
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.errors import MissingExtraError
from videoseek_env.spaces import UnicodeText

NOT_BOXES = {
    "Observation is not a NumPy array",
    *(
        f"{name} space for each agent probably should be gymnasium.spaces.box or "
        "gymnasium.spaces.discrete"
        for name in ("Observation", "Action")
    ),
}
"""What PettingZoo's test says of any environment without boxes, but for a list of its own ones."""


class Replies(UnicodeText):
    """Samples what agents write, so that PettingZoo's tests crop, hand over and answer."""

    def sample(self, mask: None = None, probability: None = None) -> str:  # type: ignore[override]
        start = int(self.np_random.integers(0, 50))
        replies = [crop_reply(start, start + 8), crop_reply(9, 3), answer_reply("B"), "<answer>"]
        return replies[self.np_random.choice(4, p=[0.5, 0.2, 0.2, 0.1])]


def with_replies(env: Any) -> Any:
    for agent in AGENTS:
        env.unwrapped.action_spaces[agent] = Replies(1024)
    return env


@pytest.mark.parametrize("make", [seeker_answerer.env, seeker_answerer.raw_env])
@pytest.mark.parametrize("prepare", [lambda env: env, with_replies])
def test_pettingzoo_finds_nothing_but_that_texts_are_no_boxes(
    minute_video: Path, make: Callable[..., Any], prepare: Callable[[Any], Any]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        api_test(prepare(make(**make_arguments(minute_video))))
    assert {str(warning.message) for warning in caught} == NOT_BOXES


@pytest.mark.parametrize("prepare", [lambda env: env, with_replies])
def test_pettingzoo_finds_nothing_in_the_parallel_environment(
    minute_video: Path, prepare: Callable[[Any], Any]
) -> None:
    parallel_api_test(prepare(seeker_answerer.parallel_env(**make_arguments(minute_video))))


@pytest.mark.parametrize("prepare", [lambda env: env, with_replies])
def test_pettingzoo_finds_the_same_episode_for_the_same_seed(
    minute_video: Path, prepare: Callable[[Any], Any]
) -> None:
    arguments = make_arguments(minute_video)
    seed_test(lambda: prepare(seeker_answerer.env(**arguments)))
    parallel_seed_test(lambda: prepare(seeker_answerer.parallel_env(**arguments)))


def test_pettingzoo_renders_every_mode(minute_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame", reason="the window is an extra")
    monkeypatch.setitem(os.environ, "SDL_VIDEODRIVER", "dummy")
    arguments = make_arguments(minute_video)
    render_test(lambda render_mode: seeker_answerer.env(render_mode=render_mode, **arguments))


def test_the_conversion_for_agents_that_act_in_cycles_is_refused(minute_video: Path) -> None:
    with pytest.raises(AssertionError, match="is_parallelizable"):
        aec_to_parallel(seeker_answerer.env(**make_arguments(minute_video)))


def test_without_pettingzoo_the_import_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    monkeypatch.delitem(sys.modules, "envs.seeker_answerer")
    with pytest.raises(MissingExtraError, match=r"videoseek-env\[pettingzoo\]"):
        importlib.import_module("envs.seeker_answerer")
