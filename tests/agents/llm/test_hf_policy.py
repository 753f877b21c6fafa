import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from agents.baselines import OraclePolicy
from agents.cli import main
from agents.episode import Episode, read_episodes
from agents.llm import generation
from agents.llm.generation import Sampling
from agents.llm.hf_policy import HFPolicy
from agents.llm.model import VisionLanguageModel
from agents.llm.tiny import TINY_PROMPTS, Family, TinyConfig, save_tiny, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer
from agents.policy import JointPolicy
from agents.rollout import RolloutConfig, rollout
from tests.agents.llm.models import FAMILIES, tiny, tiny_budget
from tests.sample_trajectories import make_task
from videoseek_env.errors import ConfigError
from videoseek_env.session import Observation, SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason

SAMPLING = Sampling(max_tokens=10)
each_family = pytest.mark.parametrize("family", FAMILIES)


def rules(family: Family, **more: object) -> SessionConfig:
    config = SessionConfig(budget=tiny_budget(family), prompts=TINY_PROMPTS, **more)  # type: ignore[arg-type]
    return tiny(family).counting(config)


def tasks_on(path: Path, count: int = 3) -> list[VideoTask]:
    return [
        dataclasses.replace(make_task(), id=f"task-{number}", video=str(path))
        for number in range(count)
    ]


class Parrot(HFPolicy):
    """Really reads and really writes, but what it samples is an oracle's reply."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__(model, sampling=Sampling(max_tokens=120), scope="tags")
        self.oracle = OraclePolicy()

    def reset(self, *, seed: int | None = None) -> None:
        super().reset(seed=seed)
        self.oracle.reset(seed=seed)

    def reveal(self, task: VideoTask) -> None:
        self.oracle.reveal(task)

    def act_together(
        self, policies: Sequence["Parrot"], observations: Sequence[Observation]
    ) -> list[str]:
        replies = [
            policy.oracle.act(seen) for policy, seen in zip(policies, observations, strict=True)
        ]
        script = [self.model.vocabulary.encode(reply) for reply in replies]

        def recite(logits: object, *_: object) -> tuple[list[int], list[float]]:
            unfinished = [ids for ids in script if ids]
            rows = unfinished if len(logits) == len(unfinished) else script  # type: ignore[arg-type]
            ids = [left.pop(0) if left else 0 for left in rows]
            return ids, [-1.0] * len(ids)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generation, "choose", recite)
            return super().act_together(policies, observations)


@each_family
def test_a_random_model_plays_episodes_to_a_named_end(family: Family, minute_video: Path) -> None:
    make = HFPolicy.factory(tiny(family), sampling=SAMPLING)
    config = RolloutConfig(episodes_per_task=2)
    episodes = list(rollout(make, tasks_on(minute_video), config, session=rules(family)))
    assert [e.trajectory.task.id for e in episodes] == [f"task-{n}" for n in (0, 0, 1, 1, 2, 2)]
    assert {e.trajectory.end_reason for e in episodes} == {EndReason.NO_ACTION}
    assert all(e.error is None and len(e.trajectory.replies) == 1 for e in episodes)
    assert len({e.trajectory.replies for e in episodes}) == 6


def replies(episodes: Sequence[Episode]) -> list[tuple[str, ...]]:
    return [episode.trajectory.replies for episode in episodes]


def test_replies_do_not_depend_on_batch_or_threads(minute_video: Path) -> None:
    make = HFPolicy.factory(tiny(), sampling=SAMPLING)
    played = [
        replies(
            list(
                rollout(
                    make,
                    tasks_on(minute_video),
                    RolloutConfig(episodes_per_task=2, batch_size=size, workers=workers),
                    session=rules("qwen3_vl"),
                )
            )
        )
        for size, workers in ((1, 1), (4, 2), (32, 1))
    ]
    assert played[0] == played[1] == played[2]


@each_family
def test_what_a_rollout_wrote_is_what_its_trajectory_renders(
    family: Family, minute_video: Path
) -> None:
    model = tiny(family)
    made: list[Parrot] = []

    def make() -> Parrot:
        made.append(Parrot(model))
        return made[-1]

    session = rules(family)
    episodes = list(rollout(make, tasks_on(minute_video), session=session))
    for policy, episode in zip(made, episodes, strict=True):
        assert episode.trajectory.end_reason is EndReason.ANSWERED and episode.reward.value > 2
        rendered = model.builder.render(episode.trajectory, prompts=session.prompts)
        for name in ("id", "role", "clip", "trained", "position"):
            assert np.array_equal(policy.context[name], rendered[name]), name
        assert [clip.ref for clip in policy.context.clips] == list(episode.trajectory.clips)
        # The session counted every token but those of the chat template.
        template = len(policy.context) - episode.trajectory.context_tokens
        assert 0 < template <= 12 * len(episode.trajectory.turns)


def test_a_trajectory_that_was_saved_renders_the_same(minute_video: Path) -> None:
    model, session = tiny(), rules("qwen3_vl")
    (episode,) = rollout(lambda: Parrot(model), tasks_on(minute_video, 1), session=session)
    again = Episode.from_dict(episode.to_dict()).trajectory
    first, second = (
        model.builder.render(trajectory, prompts=session.prompts)
        for trajectory in (episode.trajectory, again)
    )
    assert np.array_equal(first["id"], second["id"])


class Moody(HFPolicy):
    """Cannot stand one of its episodes."""

    def __init__(self) -> None:
        super().__init__(tiny(), sampling=SAMPLING)
        self.hates = False

    def act_together(
        self, policies: Sequence["Moody"], observations: Sequence[Observation]
    ) -> list[str]:
        if any(policy.hates for policy in policies):
            raise RuntimeError("no")
        return super().act_together(policies, observations)


def test_one_episode_that_fails_leaves_the_others_alone(minute_video: Path) -> None:
    made: list[Moody] = []

    def make() -> Moody:
        made.append(Moody())
        made[-1].hates = len(made) == 2
        return made[-1]

    episodes = list(rollout(make, tasks_on(minute_video), session=rules("qwen3_vl")))
    assert [e.error for e in episodes] == [None, "RuntimeError: no", None]
    assert episodes[1].trajectory.end_reason is EndReason.POLICY_FAILED
    untouched = rollout(
        HFPolicy.factory(tiny(), sampling=SAMPLING),
        tasks_on(minute_video),
        session=rules("qwen3_vl"),
    )
    assert replies(episodes)[2] == replies(list(untouched))[2]


class Crowded(HFPolicy):
    """Two at a time are as many as fit."""

    sizes: ClassVar[list[int]] = []

    def act_together(
        self, policies: Sequence["Crowded"], observations: Sequence[Observation]
    ) -> list[str]:
        self.sizes.append(len(policies))
        if len(policies) > 2:
            raise MemoryError
        return super().act_together(policies, observations)


def test_what_does_not_fit_at_once_is_asked_in_halves(minute_video: Path) -> None:
    tasks = tasks_on(minute_video, 5)
    played = [
        list(rollout(kind.factory(tiny(), sampling=SAMPLING), tasks, session=rules("qwen3_vl")))
        for kind in (Crowded, HFPolicy)
    ]
    assert Crowded.sizes == [5, 2, 3, 1, 2]
    assert all(episode.error is None for episode in played[0])
    assert replies(played[0]) == replies(played[1])


def test_finished_episodes_keep_no_keys_and_values(minute_video: Path) -> None:
    made: list[HFPolicy] = []

    def make() -> HFPolicy:
        made.append(HFPolicy(tiny(), sampling=SAMPLING))
        return made[-1]

    episodes = rollout(make, tasks_on(minute_video), session=rules("qwen3_vl"))
    next(episodes)
    assert len(made) == 3
    for policy in made:
        assert policy.context["trained"].any()
        assert [role.row.known.length for role in policy.roles] == [0]
    assert len(list(episodes)) == 2


def test_a_failed_call_leaves_every_context_as_it_was(minute_video: Path) -> None:
    good, bad = (HFPolicy(tiny(), sampling=SAMPLING) for _ in range(2))
    for policy in (good, bad):
        policy.reset(seed=0)
    seen = Observation("Which?", system="Seek.")
    broken = dataclasses.replace(seen, clip=object())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="clip_ref"):
        good.act_together([good, bad], [seen, broken])
    assert len(good.context) == len(bad.context) == 0
    reference = HFPolicy(tiny(), sampling=SAMPLING)
    reference.reset(seed=0)
    assert good.act(seen) == reference.act(seen)


def test_a_policy_begins_anew_after_reset() -> None:
    policy = HFPolicy(tiny(), sampling=SAMPLING)
    seen = Observation("Which?", system="Seek.")
    texts = []
    for _ in range(2):
        policy.reset(seed=3)
        texts.append(policy.act(seen))
    assert texts[0] == texts[1]
    assert policy.context["trained"].sum() <= SAMPLING.max_tokens


def test_policies_of_different_models_do_not_act_together() -> None:
    one, other = HFPolicy(tiny()), HFPolicy(tiny("qwen2_5_vl"))
    with pytest.raises(ConfigError, match="share model"):
        one.act_together([one, other], [Observation("a"), Observation("b")])


def test_scope_turn_is_for_training() -> None:
    with pytest.raises(ConfigError, match='scope "tags" or None'):
        HFPolicy(tiny(), scope="turn")


def test_an_hf_policy_is_a_joint_policy() -> None:
    assert isinstance(HFPolicy(tiny()), JointPolicy)
    assert not isinstance(OraclePolicy(), JointPolicy)


def test_the_command_line_evaluates_a_saved_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(TinyConfig(layers=1), tokenizer=tokenizer)
    folder = save_tiny(tmp_path / "model", model=model, tokenizer=tokenizer)
    options = [f"hf:{folder}", "--budget", "tiny", "--videos", "1", "--limit", "2"]
    options += ["--model.scope", "tags", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["videoseek", "eval", "--policy", *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert "accuracy" in capsys.readouterr().out
    episodes = list(read_episodes(tmp_path / "out" / "episodes.jsonl"))
    # Greedy, from random weights: it goes on until it is cut.
    assert [episode.trajectory.end_reason for episode in episodes] == [EndReason.REPLY_CUT] * 2
