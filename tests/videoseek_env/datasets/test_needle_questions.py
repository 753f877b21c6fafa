import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from videoseek_env.datasets.needle import plan_tasks, plan_video_tasks
from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.datasets.needle_questions import MAKERS
from videoseek_env.errors import DatasetError
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind, VideoTask

VIDEOS = 300


@pytest.fixture(scope="module")
def tasks() -> list[VideoTask]:
    return plan_tasks(videos=VIDEOS, tasks_per_video=12)


@pytest.fixture(scope="module")
def closed(tasks: list[VideoTask]) -> list[VideoTask]:
    return [task for task in tasks if task.kind.is_multiple_choice]


@pytest.fixture(scope="module")
def other_split() -> list[VideoTask]:
    tasks = plan_tasks(videos=VIDEOS, tasks_per_video=12, split="test")
    return [task for task in tasks if task.kind.is_multiple_choice]


def right(task: VideoTask) -> str:
    return task.options["ABCD".index(task.answer)]


def events(task: VideoTask, kind: str) -> list[dict[str, Any]]:
    return [event for event in task.metadata["events"] if event["kind"] == kind]


# The answers are right: each is worked out again from the metadata and the words of the question.


def solve(task: VideoTask) -> str:
    cards = {event["colour"]: event for event in events(task, "card")}
    banners = {event["colour"]: event for event in events(task, "banner")}
    words = re.findall(r"[A-Za-z]+", task.question)
    colours = [word for word in words if word in COLOURS]
    template = task.metadata["template"]
    if template in ("card_digit", "open_card_digit"):
        return str(cards[colours[0]]["symbol"])
    if template == "card_sum":
        return str(sum(int(cards[colour]["symbol"]) for colour in colours))
    if template == "card_pair":
        return "".join(cards[colour]["symbol"] for colour in colours)
    if template in ("banner_letter", "open_banner_letter"):
        return str(banners[colours[0]]["symbol"])
    if template == "banner_colour":
        letter = words[-1]
        (found,) = (str(colour) for colour in banners if banners[colour]["symbol"] == letter)
        return found
    if template == "banner_order":
        in_order = sorted(banners, key=lambda colour: banners[colour]["span"][0])
        return str(in_order[0 if "first" in words else -1])
    if template == "shape_count":
        shape = next(word[:-1] for word in words if word[:-1] in SHAPES)
        return str(sum(event["symbol"] == shape for event in events(task, "shape")))
    kind = {"hop_card_digit": "card", "hop_banner_letter": "banner"}[template]
    shape = next(word for word in words if word in SHAPES)
    (mark,) = (
        e for e in events(task, "shape") if (e["colour"], e["symbol"]) == (colours[0], shape)
    )
    if "after" in words:
        assert "first" in words
        return str(
            min((e for e in events(task, kind) if e["span"] > mark["span"]), key=SPAN)["symbol"]
        )
    assert "last" in words
    return str(max((e for e in events(task, kind) if e["span"] < mark["span"]), key=SPAN)["symbol"])


COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("star", "circle", "triangle", "square")


def SPAN(event: dict[str, Any]) -> list[float]:  # noqa: N802
    return list(event["span"])


def test_every_answer_follows_from_what_the_video_shows(tasks: list[VideoTask]) -> None:
    for task in tasks:
        if task.kind is TaskKind.OPEN_ENDED:
            assert task.answer == solve(task)
        elif task.kind.is_multiple_choice:
            assert right(task) == solve(task)


def test_clues_are_the_spans_of_the_events_they_name(tasks: list[VideoTask]) -> None:
    for task in tasks:
        named = [task.metadata["events"][number] for number in task.metadata["clue_events"]]
        assert task.clues == tuple(Segment(*event["span"]) for event in named)
        assert task.clues
        for before, after in pairwise(task.clues):
            assert before.end_seconds < after.start_seconds


def test_a_task_that_needs_a_crop_has_a_card_among_its_clues(tasks: list[VideoTask]) -> None:
    for task in tasks:
        named = [task.metadata["events"][number] for number in task.metadata["clue_events"]]
        has_card = any(event["kind"] == "card" for event in named)
        if task.kind in (TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL):
            assert has_card
        if task.kind in (TaskKind.SINGLE_CLUE_DIRECT, TaskKind.MULTI_CLUE_DIRECT):
            assert not has_card
        if task.kind is TaskKind.MULTI_CLUE_TOOL:
            assert len(named) == 2


def test_the_span_of_a_stretch_to_find_is_that_of_the_thing_named(tasks: list[VideoTask]) -> None:
    for task in tasks:
        if task.kind is TaskKind.TEMPORAL_GROUNDING:
            (number,) = task.metadata["clue_events"]
            event = task.metadata["events"][number]
            noun = event["symbol"] if event["kind"] == "shape" else event["kind"]
            assert f"the {event['colour']} {noun}" in task.question
            assert task.answer == ""
            assert task.options == ()


def test_options_are_four_and_different(closed: list[VideoTask]) -> None:
    assert all(len(set(task.options)) == 4 for task in closed)


def test_every_template_is_asked(tasks: list[VideoTask]) -> None:
    found = Counter(task.metadata["template"] for task in tasks)
    assert len(found) == sum(len(makers) for makers in MAKERS.values())
    assert min(found.values()) > 50


# The text does not tell the answer: guessers are at chance, over all and in each template.

Guesser = Callable[[VideoTask], str]


def text_of(task: VideoTask) -> list[str]:
    return re.findall(r"\w+", task.question.lower())


def of_options(score: Callable[[VideoTask, str], float]) -> Guesser:
    """Guess the option of the highest score, the first among equals."""
    return lambda task: max(task.options, key=lambda option: score(task, option))


def shared_characters(task: VideoTask, option: str) -> float:
    return sum(a == b for other in task.options for a, b in zip(option, other, strict=False))


def nearness_to_nine(task: VideoTask, option: str) -> float:
    return -abs(int(option) - 9) if option.isdigit() else 0.0


def centrality(sign: int) -> Callable[[VideoTask, str], float]:
    def score(task: VideoTask, option: str) -> float:
        if not option.isdigit():
            return 0.0
        middle = float(np.median([int(other) for other in task.options]))
        return -sign * abs(int(option) - middle)

    return score


def trained(tasks: list[VideoTask], *, with_words: bool) -> Guesser:
    """How often each option was right where it was offered, naive Bayes over the words if asked."""
    wins: dict[Any, float] = defaultdict(float)
    offers: dict[Any, float] = defaultdict(float)

    def keys(task: VideoTask, option: str) -> list[Any]:
        template = task.metadata["template"]
        words = text_of(task) if with_words else []
        others = [other for other in task.options if other != option] if with_words else []
        return [(template, option), *((template, option, word) for word in [*words, *others])]

    for task in tasks:
        for option in task.options:
            for key in keys(task, option):
                offers[key] += 1
                wins[key] += option == right(task)

    def score(task: VideoTask, option: str) -> float:
        return sum(math.log((wins[key] + 1) / (offers[key] + 4)) for key in keys(task, option))

    return of_options(score)


def always(number: int) -> Guesser:
    return lambda task: task.options[number]


def guessers(train: list[VideoTask]) -> dict[str, Guesser]:
    rng = np.random.default_rng(0)
    return {
        **{f"always {letter}": always(number) for number, letter in enumerate("ABCD")},
        "random": lambda task: task.options[int(rng.integers(4))],
        "longest": lambda task: max(task.options, key=len),
        "first in the alphabet": lambda task: min(task.options),
        "last in the alphabet": lambda task: max(task.options),
        "in the question": of_options(lambda task, option: option.lower() in text_of(task)),
        "most like the others": of_options(shared_characters),
        "least like the others": of_options(lambda task, o: -shared_characters(task, o)),
        "nearest to the middle": of_options(centrality(1)),
        "farthest from the middle": of_options(centrality(-1)),
        "nearest to nine": of_options(nearness_to_nine),
        "how often it was right": trained(train, with_words=False),
        "naive Bayes": trained(train, with_words=True),
    }


def assert_at_chance(name: str, guess: Guesser, tasks: list[VideoTask]) -> None:
    hits, total = sum(guess(task) == right(task) for task in tasks), len(tasks)
    # Four standard deviations of a fair guess: one false alarm in 30,000.
    bound = total / 4 + 4 * math.sqrt(total * 3 / 16)
    assert hits <= bound, f"{name}: {hits} of {total}, at most {bound:.0f} by chance"


def test_no_guesser_that_reads_only_the_text_beats_chance(
    closed: list[VideoTask], other_split: list[VideoTask]
) -> None:
    by_template = defaultdict(list)
    for task in closed:
        by_template[task.metadata["template"]].append(task)
    for name, guess in guessers(other_split).items():
        assert_at_chance(name, guess, closed)
        for template, some in by_template.items():
            assert_at_chance(f"{name} on {template}", guess, some)


def test_the_guesser_would_find_a_leak(
    closed: list[VideoTask], other_split: list[VideoTask]
) -> None:
    def leaking(tasks: list[VideoTask]) -> list[VideoTask]:
        # Keep tasks about cards whose digit is low: "how often it was right" must notice.
        return [t for t in tasks if t.metadata["template"] == "card_digit" and right(t) < "5"]

    guess = trained(leaking(other_split), with_words=False)
    with pytest.raises(AssertionError, match="by chance"):
        assert_at_chance("leak", guess, leaking(closed))


def test_free_answers_are_not_guessed_either(tasks: list[VideoTask]) -> None:
    answers = Counter(task.answer for task in tasks if task.kind is TaskKind.OPEN_ENDED)
    assert max(answers.values()) < 0.12 * sum(answers.values())


def test_digits_are_evenly_spread(tasks: list[VideoTask]) -> None:
    # 300 videos of 5 cards: 150 of each digit, deviation sqrt(1500 * 0.1 * 0.9) = 11.6.
    digits = Counter(event["symbol"] for task in tasks[::12] for event in events(task, "card"))
    assert sum(digits.values()) == 1500
    assert all(abs(count - 150) < 4 * 11.6 for count in digits.values())


# Sets: what makes them the same, and what does not.


def test_a_larger_set_starts_with_the_videos_of_a_smaller_one() -> None:
    assert plan_tasks(videos=5)[:18] == plan_tasks(videos=3)


def test_other_seeds_and_splits_ask_other_things() -> None:
    first, second, third = plan_tasks(), plan_tasks(seed=1), plan_tasks(split="test")
    assert [task.metadata["events"] for task in first] != [t.metadata["events"] for t in second]
    assert [task.metadata["events"] for task in first] != [t.metadata["events"] for t in third]
    assert len({task.id for task in [*first, *second, *third]}) == 3 * len(first)


def test_every_kind_is_asked_about_every_video_by_default() -> None:
    tasks = plan_tasks()
    assert len(tasks) == 24
    for index in range(4):
        kinds = [task.kind for task in tasks if task.metadata["video_index"] == index]
        assert kinds == list(TaskKind)


def test_fewer_questions_than_kinds_go_round_the_kinds() -> None:
    kinds = [task.kind for task in plan_tasks(videos=3, tasks_per_video=2)]
    assert kinds == list(TaskKind)


def test_a_kind_that_needs_what_is_not_there_is_refused() -> None:
    config = NeedleConfig(cards=0, kinds=(TaskKind.SINGLE_CLUE_TOOL,))
    with pytest.raises(
        DatasetError, match="video 0 gives no question of kind 'clue_single_w_tool'"
    ):
        plan_video_tasks(config, 0)


def test_one_card_is_enough_for_the_simplest_question() -> None:
    config = NeedleConfig(
        cards=1, banners=0, shapes=0, kinds=("clue_single_w_tool",),  # type: ignore[arg-type]
        tasks_per_video=1,
    )  # fmt: skip
    (task,) = plan_video_tasks(config, 0)
    assert task.metadata["template"] == "card_digit"
    assert len(task.metadata["events"]) == 1


def test_a_wrong_field_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DatasetError, match="no field video; it has videos, tasks_per_video"):
        plan_tasks(video=3)
    with pytest.raises(DatasetError, match="either config or its fields, got both: videos"):
        plan_tasks(NeedleConfig(), videos=3)
