from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.learning.from_nothing.examples import Example, Stage
from agents.learning.from_nothing.settings import NEEDLE_BUDGET, NEEDLE_SESSION, needle_config
from agents.learning.from_nothing.ways import DECOUPLED, NATIVE, SINGLE_TURN
from agents.llm.context import TokenRole
from tests.agents.learning.from_nothing.small import imagined_examples, small_model
from videoseek_env.budget import LAPTOP, Budget
from videoseek_env.datasets.needle import load_needle
from videoseek_env.errors import ConfigError
from videoseek_env.task import TaskKind
from videoseek_env.video import ClipCache, open_video

MODEL = small_model()


def stage(budget: Budget = NEEDLE_BUDGET) -> Stage:
    way = replace(NATIVE, rules=replace(NEEDLE_SESSION, budget=budget))
    return Stage(MODEL, cache=ClipCache(2**24), slip_probability=0.0, way=way)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Of twelve tasks about one real video."""
    tasks = load_needle(needle_config("examples", 1), root=tmp_path_factory.mktemp("needle"))
    played = stage()
    return [
        example
        for task in tasks
        for example in played.demonstrate(task, open_video(task.video), seed=0)
    ]


def test_each_visual_token_has_a_pair_of_frames_and_its_words(examples: list[Example]) -> None:
    for example in examples:
        visual = int((example.tokens["role"] == TokenRole.VISION).sum())
        assert example.words.shape == (visual, 3)
        assert sum(len(clip) for clip in example.frames) == 2 * visual
        assert example.frames[0].shape == (24, 32, 32, 3)


def test_words_are_those_that_the_thought_writes(examples: list[Example]) -> None:
    space = MODEL.vocabulary.encode(" ")[0]
    for example in examples:
        trained = example.tokens["id"][example.tokens["trained"]]
        written = [index for index in trained.tolist() if index != space]
        text = MODEL.vocabulary.decode(written)
        for row in example.words:
            assert MODEL.vocabulary.decode(row[row >= 0].tolist()) in text


def test_examples_of_a_video_share_the_frames_of_its_overview(examples: list[Example]) -> None:
    assert len({id(example.frames[0]) for example in examples}) == 1


def test_all_that_a_demonstrator_writes_is_trained_but_slips() -> None:
    astray = missed = 0
    for example in imagined_examples():
        tokens = example.tokens
        written = np.isin(tokens["role"], [1, 2, 3, 4])
        assert not tokens["trained"][~written].any()
        text = MODEL.vocabulary.decode(tokens["id"][written & ~tokens["trained"]].tolist())
        slips = text.split("</grounding>")[:-1]
        missed += sum(slip.startswith("<grounding>") for slip in slips)
        astray += sum(bool(re.match(r"\. .*</think><grounding>", slip)) for slip in slips)
        assert slips or not text
    assert astray > 0
    assert missed > 0


def test_each_role_is_an_example_of_its_own(tmp_path: Path) -> None:
    config = needle_config("roles", 1, kinds=(TaskKind.SINGLE_CLUE_TOOL,), tasks_per_video=1)
    (task,) = load_needle(config, root=tmp_path)
    played = [
        Stage(MODEL, cache=ClipCache(2**24), slip_probability=0.0, way=way).demonstrate(
            task, open_video(task.video), seed=0
        )
        for way in (NATIVE, SINGLE_TURN, DECOUPLED)
    ]
    # Overview and crop; the overview; a seeker that sees both, an answerer that sees the crop.
    clips = [[[len(clip) for clip in role.frames] for role in roles] for roles in played]
    assert clips == [[[24, 8]], [[24]], [[24, 8], [8]]]


def test_a_budget_of_more_tokens_a_pair_is_refused(tmp_path: Path) -> None:
    config = needle_config("laptop", 1, kinds=(TaskKind.SINGLE_CLUE_DIRECT,), tasks_per_video=1)
    (task,) = load_needle(config, root=tmp_path)
    for play in (stage(LAPTOP).demonstrate, stage(LAPTOP).drill):
        with pytest.raises(ConfigError, match="one visual token for each of"):
            play(task, open_video(task.video), seed=0)


def test_a_demonstration_that_the_budget_cuts_off_is_refused(tmp_path: Path) -> None:
    config = needle_config("cut", 1, kinds=(TaskKind.SINGLE_CLUE_TOOL,), tasks_per_video=1)
    (task,) = load_needle(config, root=tmp_path)
    small = stage(replace(NEEDLE_BUDGET, context_tokens=200))
    with pytest.raises(ConfigError, match="the demonstration ended as"):
        small.demonstrate(task, open_video(task.video), seed=0)


def test_a_drill_trains_what_is_found_and_not_what_is_asked_for(tmp_path: Path) -> None:
    config = needle_config("drill", 1, kinds=(TaskKind.SINGLE_CLUE_TOOL,), tasks_per_video=1)
    (task,) = load_needle(config, root=tmp_path)
    tokens = stage().drill(task, open_video(task.video), seed=0).tokens
    # The last look-up is an option's: ". 7", and then " A".
    assert tokens["trained"][-4:].tolist() == [False, False, True, True]
    assert MODEL.vocabulary.decode(tokens["id"][-2:].tolist()) in {" A", " B", " C", " D"}


def test_a_drill_leaves_out_where_a_thought_goes_astray(tmp_path: Path) -> None:
    config = needle_config("astray", 1, kinds=(TaskKind.SINGLE_CLUE_TOOL,), tasks_per_video=1)
    (task,) = load_needle(config, root=tmp_path)
    reader = open_video(task.video)
    slipping = Stage(MODEL, cache=ClipCache(2**24), slip_probability=1.0)

    def plans(played: Stage) -> set[str]:
        drills = [played.drill(task, reader, seed=seed).tokens["id"] for seed in range(12)]
        texts = [MODEL.vocabulary.decode(ids.tolist()) for ids in drills]
        return {plan for text in texts for plan in re.findall(r"\w+ card \d+ \d+", text)}

    assert len(plans(slipping)) == 3  # one for each card, and no other
    assert plans(slipping) == plans(stage())
