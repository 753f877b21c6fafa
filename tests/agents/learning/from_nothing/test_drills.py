from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from agents.learning.demonstrations import Demonstrator
from agents.learning.from_nothing.drills import OPTION_QUERIES, Piece, drill
from agents.learning.from_nothing.imagined import NoPixels, PlannedVideo
from agents.learning.from_nothing.settings import NEEDLE_SESSION, needle_config
from agents.llm.tiny_tokenizer import byte_fallbacks, tiny_tokenizer
from videoseek_env.datasets.needle import plan_tasks
from videoseek_env.session import VideoSession
from videoseek_env.task import VideoTask

CONFIG = needle_config("drills", 2)


def drills(seeds: int) -> Iterator[tuple[VideoTask, Demonstrator, str, list[Piece]]]:
    """Tasks, who plays them, how a drill begins, and its pieces."""
    for task in plan_tasks(CONFIG):
        for seed in range(seeds):
            session = VideoSession(
                task, PlannedVideo(task, CONFIG), NEEDLE_SESSION, cache=NoPixels()
            )
            demonstrator = Demonstrator()
            demonstrator.reveal(task)
            thought = demonstrator.act(session.start()).partition("</think>")[0]
            pieces = drill(thought, demonstrator, task, rng=np.random.default_rng(seed))
            yield task, demonstrator, thought, pieces


def test_a_drill_asks_for_cards_banners_and_shapes_of_its_scene_in_its_words() -> None:
    asked = set()
    for task, demonstrator, thought, pieces in drills(2):
        text = "".join(piece.text for piece in pieces)
        assert text.startswith(thought)
        queries = text.removeprefix(thought).partition(". A ")[0]
        for place, event in enumerate(task.metadata["events"]):
            time, colour = demonstrator.times_of(place)[0], event["colour"]
            if event["kind"] == "card":
                segment = demonstrator.segment_of(place)
                for found in re.findall(rf"{colour} card (\d+) \d+</think>.*?\[(.*?)\]", queries):
                    assert found == (time, f"{segment.start_seconds}, {segment.end_seconds}")
                    asked.add("card")
            elif event["kind"] == "banner":
                for found in re.findall(rf"{colour} banner (\w)", queries):
                    assert found == event["symbol"]
                    asked.add("banner")
            else:
                for found in re.findall(rf"{colour} {event['symbol']} (\d+)", queries):
                    assert found == time
                    asked.add("shape")
    assert asked == {"card", "banner", "shape"}


def test_options_are_asked_for_with_replacement() -> None:
    counts = set()
    for task, _, _, pieces in drills(4):
        letters = pieces[-2 * OPTION_QUERIES :]
        for query, found in zip(letters[::2], letters[1::2], strict=True):
            option = task.options[ord(found.text[1]) - ord("A")]
            assert query == (f". {option}", False)
            assert found.is_trained
        counts.add(len({piece.text for piece in letters[1::2]}))
        restated = ", ".join(f"{x} {o}" for x, o in zip("ABCD", task.options, strict=True))
        assert pieces[-2 * OPTION_QUERIES - 1] == (f". {restated}", True)
    assert min(counts) < 4  # of eight, an option is often left out


def test_the_tokens_of_a_drill_are_those_of_its_text() -> None:
    tokenizer = tiny_tokenizer()
    for _, _, _, pieces in drills(1):
        text = "".join(piece.text for piece in pieces)
        assert byte_fallbacks(tokenizer, text) == []
        whole = tokenizer.encode(text, add_special_tokens=False)
        parts = [tokenizer.encode(piece.text, add_special_tokens=False) for piece in pieces]
        assert [index for part in parts for index in part] == whole
