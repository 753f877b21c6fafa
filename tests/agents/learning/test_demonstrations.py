from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from statistics import mean
from typing import NamedTuple

import pytest

from agents.learning.demonstrations import Demonstrator
from agents.learning.from_nothing.imagined import NoPixels, PlannedVideo
from agents.learning.from_nothing.settings import NEEDLE_SESSION, needle_config
from agents.learning.needle_truth import describe_pairs
from agents.llm.tiny_tokenizer import byte_fallbacks, tiny_tokenizer
from rewards.intervals import iou
from rewards.trajectory_guided import TrajectoryGuidedReward
from tests.sample_trajectories import make_task
from videoseek_env.action import parse_reply
from videoseek_env.datasets.needle import plan_tasks
from videoseek_env.errors import ConfigError
from videoseek_env.session import VideoSession
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import Trajectory

CONFIG = needle_config("demonstrations", 20)
TEMPLATES = {
    "card_digit", "card_sum", "card_pair", "hop_card_digit", "banner_letter", "banner_colour",
    "shape_count", "banner_order", "hop_banner_letter",
}  # fmt: skip


@cache
def tasks() -> list[VideoTask]:
    planned = plan_tasks(CONFIG)
    assert {task.metadata["template"] for task in planned} == TEMPLATES
    return planned


class Written(NamedTuple):
    reply: str
    slip: str


def demonstrate(task: VideoTask, slip_probability: float = 0.0, seed: int = 0) -> list[Written]:
    return run_demonstration(task, slip_probability, seed)[1]


def play(task: VideoTask, slip_probability: float = 0.0, seed: int = 0) -> Trajectory:
    return run_demonstration(task, slip_probability, seed)[0]


def run_demonstration(
    task: VideoTask, slip_probability: float, seed: int
) -> tuple[Trajectory, list[Written]]:
    session = VideoSession(task, PlannedVideo(task, CONFIG), NEEDLE_SESSION, cache=NoPixels())
    demonstrator = Demonstrator(slip_probability=slip_probability)
    demonstrator.reset(seed=seed)
    demonstrator.reveal(task)
    observation = session.start()
    written = []
    while observation is not None:
        reply = demonstrator.act(observation)
        written.append(Written(reply, demonstrator.slip))
        observation = session.reply(reply)
    return session.trajectory, written


@pytest.mark.parametrize(
    ("kind", "score"),
    [
        # Accuracy 1 and format 1, and the bonus: of the direct kinds in full.
        (TaskKind.SINGLE_CLUE_DIRECT, 2.75),
        (TaskKind.MULTI_CLUE_DIRECT, 2.5),
        # The crops are close to their clues, not equal to them.
        (TaskKind.SINGLE_CLUE_TOOL, 2.85),
        (TaskKind.MULTI_CLUE_TOOL, 2.7),
    ],
)
def test_demonstrations_score_high(kind: TaskKind, score: float) -> None:
    chosen = [task for task in tasks() if task.kind is kind]
    for task in chosen:
        reward = TrajectoryGuidedReward()(play(task))
        assert reward.parts["acc"] == reward.parts["format"] == 1
        assert reward.value >= score


def test_each_crop_is_close_to_its_card_and_holds_its_face() -> None:
    for task in tasks():
        trajectory, events = play(task), task.metadata["events"]
        cards = [events[i] for i in task.metadata["clue_events"] if events[i]["kind"] == "card"]
        assert len(trajectory.crops) == len(cards)
        for crop in trajectory.crops:
            start, end = crop.segment.start_seconds, crop.segment.end_seconds
            card = max(cards, key=lambda card: iou([(start, end)], [tuple(card["span"])]))
            assert iou([(start, end)], [tuple(card["span"])]) > 0.6
            assert start <= card["reveal"][0] and card["reveal"][1] <= end


def test_crops_are_as_close_to_their_clues_as_the_results_say() -> None:
    chosen = [task for task in tasks() if task.kind is TaskKind.SINGLE_CLUE_TOOL]
    overlaps = [TrajectoryGuidedReward()(play(task)).parts["iou"] for task in chosen]
    assert mean(overlaps) == pytest.approx(0.87, abs=0.03)


def test_no_thought_tells_a_face_before_a_crop_showed_it() -> None:
    for task in tasks():
        shown: set[str] = set()
        for turn in play(task).turns:
            assert turn.clip is not None
            shown |= {pair.text for pair in describe_pairs(turn.clip, task)}
            told = set(re.findall(r"[a-z]+ [0-9](?=[:,.<]| [A-D])", turn.reply))
            faces = {f"{event['colour']} {event['symbol']}" for event in task.metadata["events"]}
            assert told & faces <= shown


def test_the_overview_is_gone_through_pair_by_pair_with_a_verdict() -> None:
    task = next(task for task in tasks() if task.metadata["template"] == "card_digit")
    turn = play(task).turns[0]
    assert turn.clip is not None
    colour = next(iter(re.findall(r"(\w+) card", task.question)))
    verdicts = {True: "yes", False: "no"}
    goal, _, scan = turn.reply.removeprefix("<think>").partition(": ")
    assert goal == f"{colour} card"
    entries = [entry.partition(" ")[2] for entry in scan.partition(".")[0].split(", ")]
    expected = [
        pair.text + ("" if pair.event is None else f": {verdicts[pair.text == f'{colour} card']}")
        for pair in describe_pairs(turn.clip, task)
    ]
    assert entries == expected


@pytest.mark.parametrize("template", ["card_digit", "hop_card_digit"])
def test_slips_go_astray_or_miss_the_face_or_are_off_by_a_little(template: str) -> None:
    astray = missed = loose = 0
    chosen = [task for task in tasks() if task.metadata["template"] == template] * 3
    for seed, task in enumerate(chosen):
        first, *later = demonstrate(task, slip_probability=1.0, seed=seed)
        (right, *_) = demonstrate(task)
        start, end = (one.reply.removesuffix(one.slip) for one in (first, right))
        assert end.startswith(start)
        assert [one.slip for one in later] == [""] * len(later)
        assert len(later) == (2 if any(". again " in one.reply for one in later) else 1)
        if first.slip.startswith("<grounding>"):  # the plan is right
            missed += len(later) == 2
            loose += len(later) == 1
        elif first.slip:  # a loose end may be rounded back
            assert first.slip.startswith(". ")
            astray += 1
    share = len(chosen) / 10
    assert astray > 3 * share
    assert missed > share
    assert loose > share


def test_who_went_astray_comes_back_to_the_right_plan() -> None:
    names = 0
    for seed, task in enumerate(one for one in tasks() if one.metadata["template"] == "card_digit"):
        first, second, *_ = demonstrate(task, slip_probability=1.0, seed=seed)
        if first.slip.startswith("<grounding>") or ". again" not in second.reply:
            continue
        ((plan, *_),) = re.findall(r"(?:\. |again )(\w+ card( \d+){2})<", second.reply)
        (right, *_) = demonstrate(task)
        assert f". {plan}</think>" in right.reply
        names += not first.slip.startswith(f". {plan.split()[0]} card ")
    assert names > 0  # some are about a card of another colour


def test_a_verdict_tells_the_colour_that_the_question_leaves_open() -> None:
    for task in tasks():
        (first, *_) = demonstrate(task)
        scan, _, rest = first.reply.partition(".")
        open_colours = set(re.findall(r": (?:yes|one|two|three) (\w+)", scan))
        asks_for_colour = task.metadata["template"] in (
            "hop_card_digit", "hop_banner_letter", "banner_colour", "banner_order",
        )  # fmt: skip
        assert bool(open_colours) == asks_for_colour
        if asks_for_colour:
            (found,) = re.findall(r"\. (?:yes|one|two|three) (\w+) ", rest)
            assert found in open_colours


def test_the_same_seed_gives_the_same_demonstration() -> None:
    task = next(task for task in tasks() if task.kind is TaskKind.MULTI_CLUE_TOOL)
    replies = [play(task, 0.5, seed).replies for seed in (1, 1, *range(2, 8))]
    assert replies[0] == replies[1]
    assert len(set(replies)) > 1


def test_demonstrations_need_no_bytes_and_parse_in_every_turn() -> None:
    tokenizer = tiny_tokenizer()
    for task in tasks():
        trajectory = play(task, 0.3)
        for turn in trajectory.turns:
            assert byte_fallbacks(tokenizer, turn.reply) == []
            assert parse_reply(turn.reply, duration_seconds=999.0) is not None
        assert trajectory.context_tokens < 620


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_a_probability_outside_its_range_is_refused(probability: float) -> None:
    with pytest.raises(ConfigError, match=r"slip_probability must lie in \[0, 1\]"):
        Demonstrator(slip_probability=probability)
    with pytest.raises(ConfigError, match=r"guess_probability must lie in \[0, 1\]"):
        Demonstrator(guess_probability=probability)


def test_a_task_of_another_dataset_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple-choice task of the needle set"):
        Demonstrator().reveal(replace(make_task(), metadata={}))


def test_it_counts_up_to_four() -> None:
    many = needle_config("many", 20, cards=1, banners=6, shapes=2)
    task = next(t for t in plan_tasks(many) if t.metadata["template"] == "banner_order")
    session = VideoSession(task, PlannedVideo(task, many), NEEDLE_SESSION, cache=NoPixels())
    demonstrator = Demonstrator()
    demonstrator.reveal(task)
    with pytest.raises(ConfigError, match="counts up to four, not to 5"):
        demonstrator.act(session.start())
