import dataclasses
from pathlib import Path

from agents.llm.decoupled_policy import DecoupledPolicy
from agents.llm.generation import Sampling
from agents.llm.tiny import TINY_PROMPTS
from agents.rollout import RolloutConfig, play_episodes
from envs.decoupled import DecoupledSession
from tests.agents.llm.models import tiny
from tests.sample_trajectories import make_task
from videoseek_env.session import SessionConfig
from videoseek_env.trajectory import Trajectory


def test_the_answerers_context_holds_nothing_of_the_seekers(minute_video: Path) -> None:
    model = tiny()
    make = DecoupledPolicy.factory(model, sampling=Sampling(max_tokens=8))
    rules = model.counting(SessionConfig(budget="tiny", prompts=TINY_PROMPTS))
    (played,) = play_episodes(
        make,
        [dataclasses.replace(make_task(), video=str(minute_video))],
        RolloutConfig(),
        lambda episode: (episode.policy, episode.trajectory, episode.error),
        session=rules,
        make_session=DecoupledSession,
    )
    policy, trajectory, error = played
    assert isinstance(policy, DecoupledPolicy) and isinstance(trajectory, Trajectory)
    assert error is None
    # Random weights write no action: the seeker hands over at once, and found nothing.
    assert policy.clips == () and not policy.context.clips
    text = model.vocabulary.tokenizer.decode(policy.context["id"].tolist())
    assert text.count("<|im_start|>") == 3 and "You answer a question" in text
    assert int(policy.context["trained"].sum()) <= 8
