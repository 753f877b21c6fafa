from __future__ import annotations

import re

import numpy as np

from agents.learning.demonstrations import Demonstrator
from agents.learning.from_nothing.drills import drill
from agents.learning.from_nothing.imagined import NoPixels, PlannedVideo
from agents.learning.from_nothing.settings import NEEDLE_SESSION, needle_config
from agents.llm.tiny_tokenizer import byte_fallbacks, tiny_tokenizer
from videoseek_env.datasets.needle import plan_tasks
from videoseek_env.session import VideoSession

CONFIG = needle_config("drills", 2)


def test_a_drill_looks_up_every_option_card_banner_and_shape_of_its_scene() -> None:
    tokenizer = tiny_tokenizer()
    for task in plan_tasks(CONFIG):
        session = VideoSession(task, PlannedVideo(task, CONFIG), NEEDLE_SESSION, cache=NoPixels())
        demonstrator = Demonstrator()
        demonstrator.reveal(task)
        first = demonstrator.act(session.start())
        pieces = drill(first, demonstrator, task, rng=np.random.default_rng(0))
        text = "".join(piece.text for piece in pieces)
        thought = first.partition("</think>")[0]
        assert text.startswith(thought)
        queries = text.removeprefix(thought)
        for letter, option in zip("ABCD", task.options, strict=True):
            assert f"{letter} {option}" in queries
            assert f". {option} {letter}" in queries
        for place, event in enumerate(task.metadata["events"]):
            time = demonstrator.times_of(place)[0]
            if event["kind"] == "card":
                segment = demonstrator.segment_of(place)
                found = re.search(
                    rf"{event['colour']} card {time} \d+</think>.*?\[(.*?)\]", queries
                )
                assert found is not None
                assert found[1] == f"{segment.start_seconds}, {segment.end_seconds}"
            elif event["kind"] == "banner":
                assert f"{event['colour']} banner {event['symbol']}" in queries
            else:
                assert f"{event['colour']} {event['symbol']} {time}" in queries
        assert byte_fallbacks(tokenizer, text) == []
        whole = tokenizer.encode(text, add_special_tokens=False)
        parts = [tokenizer.encode(piece.text, add_special_tokens=False) for piece in pieces]
        assert [index for part in parts for index in part] == whole
