from __future__ import annotations

import numpy as np
import pytest

from agents.learning.from_nothing.copying import MOST_BEFORE, PERIODS, Copying
from agents.learning.from_nothing.optimise import optimise
from agents.learning.from_nothing.planting import plant_previous_token_heads
from tests.agents.learning.from_nothing.small import small_model
from videoseek_env.errors import ConfigError

IDS = np.arange(300, 340)


def test_sequences_repeat_with_a_period_and_are_asked_for_from_the_second_time_on() -> None:
    stage = Copying(small_model(), IDS, rows=200, length=32, seed=0)
    drawn, is_copy = stage.draw_repeated()
    assert set(np.unique(drawn)) <= set(IDS)
    periods = is_copy.argmax(1)  # the first place that is asked for
    assert set(periods) == set(range(PERIODS[0], PERIODS[1] + 1))
    for row, period in zip(drawn, periods, strict=True):
        assert (row[period:] == row[:-period]).all()
    assert (is_copy == (np.arange(32) >= periods[:, None])).all()


def test_options_are_listed_and_asked_for_as_last_thoughts_do() -> None:
    model = small_model()
    stage = Copying(model, IDS, rows=50, length=32, seed=0)
    begins = set()
    for _ in range(100):
        listed, is_letter = stage.draw_listed()
        assert listed.shape == is_letter.shape == (50, 32)
        row, asked = listed[0], is_letter[0]
        text = [model.vocabulary.decode([index]) for index in row]
        begin = text.index(". ")
        begins.add(begin)
        assert set(row[:begin]) <= set(IDS)
        # 16 tokens of options, then four a query: "[. ][value][ ][letter]".
        options = text[begin : begin + 16]
        assert options[::4] == [". ", ", ", ", ", ", "]
        assert options[1::4] == list("ABCD")
        letters = dict(zip(options[3::4], "ABCD", strict=True))
        assert len(letters) == 4
        places = np.flatnonzero(asked).tolist()
        assert places == list(range(begin + 19, 32, 4))
        for place in places:
            value = text[place - 2]
            assert text[place - 3 : place + 1] == [". ", value, " ", letters[value]]
    assert begins == set(range(MOST_BEFORE + 1))


def test_sequences_too_short_to_ask_for_a_letter_are_refused() -> None:
    with pytest.raises(ConfigError, match="length must be at least 32, got 31"):
        Copying(small_model(), IDS, rows=4, length=31, seed=0)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    def loss(seed: int) -> float:
        return Copying(small_model(), IDS, rows=4, length=32, seed=seed).loss(0)[0].item()

    assert loss(0) == loss(0) != loss(1)


def test_planted_heads_let_copying_be_learned_in_a_hundred_steps() -> None:
    model = small_model()
    plant_previous_token_heads(model, (1, 2))
    stage = Copying(model, IDS, rows=24, length=32, seed=0)
    logs: list[float] = []
    optimise(
        model.network.model.language_model.parameters(),
        stage.loss,
        steps=100,
        learning_rate=5e-3,
        log=lambda figures: logs.append(figures["copy"]),
    )
    # By chance one of 40 is right.
    assert logs[0] < 0.1 < 0.2 < logs[-1]
