"""Episodes in which one model plays several roles, each in a context of its own."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agents.llm import hf_policy
from agents.llm.generation import Sampling
from agents.llm.hf_policy import HFPolicy
from agents.llm.tiny import TINY_PROMPTS
from agents.rollout import RolloutConfig, play_episodes
from envs.decoupled import DecoupledSession
from tests.agents.llm.models import tiny
from tests.sample_trajectories import make_task
from videoseek_env.session import Observation, SessionConfig
from videoseek_env.video import ClipCache, open_video


def observations(video: Path) -> tuple[Observation, Observation]:
    """The seeker's first one, and the answerer's."""
    task = dataclasses.replace(make_task(), video=str(video))
    rules = tiny().counting(SessionConfig(budget="tiny", prompts=TINY_PROMPTS))
    reader = open_video(task.video)
    game = DecoupledSession(task, reader, rules, cache=ClipCache(2**20))
    first, second = game.start(), game.reply("I found nothing.")
    reader.close()
    assert second is not None
    return first, second


def test_the_answerers_context_holds_nothing_of_the_seekers(minute_video: Path) -> None:
    model = tiny()
    rules = model.counting(SessionConfig(budget="tiny", prompts=TINY_PROMPTS))
    (episode,) = play_episodes(
        HFPolicy.factory(model, sampling=Sampling(max_tokens=8)),
        [dataclasses.replace(make_task(), video=str(minute_video))],
        RolloutConfig(),
        lambda episode: episode,
        session=rules,
        make_session=DecoupledSession,
    )
    assert episode.error is None and isinstance(episode.policy, HFPolicy)
    # Random weights write no action: the seeker hands over at once, and found nothing.
    seeker, answerer = episode.policy.roles
    assert len(seeker.clips) == len(seeker.context.clips) == 1
    assert answerer.clips == [] and not answerer.context.clips
    assert episode.policy.context is answerer.context
    text = model.vocabulary.tokenizer.decode(answerer.context["id"].tolist())
    assert text.count("<|im_start|>") == 3 and "You answer a question" in text
    assert 0 < int(answerer.context["trained"].sum()) <= 8


def test_a_new_role_that_fails_leaves_the_episode_as_it_was(
    minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = observations(minute_video)
    policies = [HFPolicy(tiny(), sampling=Sampling(max_tokens=8)) for _ in range(2)]
    for policy in policies:
        policy.reset(seed=7)
        policy.act(first)
    broken, sound = policies

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(hf_policy, "generate", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            broken.act(second)
    assert len(broken.roles) == 1
    assert broken.act(second) == sound.act(second)
    assert len(broken.roles) == 2


def test_an_episode_that_is_reset_begins_with_one_role(minute_video: Path) -> None:
    first, second = observations(minute_video)
    policy = HFPolicy(tiny(), sampling=Sampling(max_tokens=8))
    policy.act(first)
    policy.act(second)
    assert len(policy.roles) == 2
    policy.reset(seed=0)
    assert len(policy.roles) == 1 and len(policy.context) == 0
