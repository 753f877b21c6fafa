from __future__ import annotations

import numpy as np

from agents.learning.from_nothing.examples import Example
from agents.learning.from_nothing.optimise import optimise
from agents.learning.from_nothing.perception import MAX_SHIFT_PX, Pairs
from agents.llm.context import TOKEN
from tests.agents.learning.from_nothing.small import small_model

NONE = np.zeros(0, TOKEN)


def plain_examples() -> list[Example]:
    """Pairs of one colour each, with that colour's word; red is there ten times as often."""
    vocabulary = small_model().vocabulary
    examples = []
    for name, rgb, times in (("red", (220, 0, 0), 10), ("green", (0, 220, 0), 1)):
        frames = np.broadcast_to(np.array(rgb, np.uint8), (2 * times, 32, 32, 3)).copy()
        words = np.full((times, 3), -1)
        words[:, 0] = vocabulary.encode(name)[0]
        examples.append(Example(NONE, words, (frames,)))
    return examples


def test_a_clip_that_examples_share_counts_once() -> None:
    (red, green) = plain_examples()
    both = Example(NONE, np.concatenate([red.words, green.words]), (red.frames[0], green.frames[0]))
    pairs = Pairs(small_model(), [red, both, both], pairs=4, seed=0)
    assert pairs._frames.shape == (11, 2, 32, 32, 3)
    assert pairs._words.shape == (11, 3)


def test_rare_descriptions_are_drawn_as_often_as_frequent_ones() -> None:
    pairs = Pairs(small_model(), plain_examples(), pairs=4, seed=0)
    np.testing.assert_allclose(pairs._chances, [0.05] * 10 + [0.5])


def test_the_frames_of_a_pair_move_together_by_at_most_so_many_pixels() -> None:
    pairs = Pairs(small_model(), plain_examples(), pairs=4, seed=0)
    frames = np.zeros((50, 2, 32, 32, 3), np.uint8)
    frames[:, :, 16, 16] = 255
    moved = pairs._shifted(frames).reshape(50, 2, 32, 32, 3)
    places = np.argwhere(moved[..., 0])[:, 2:].reshape(50, 2, 2)
    assert (places[:, 0] == places[:, 1]).all()
    assert set(np.unique(places - 16)) == set(range(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1))


def test_the_tower_learns_to_name_two_colours() -> None:
    model = small_model()
    stage = Pairs(model, plain_examples(), pairs=16, seed=0)
    lines: list[dict[str, float]] = []
    optimise(
        model.network.model.visual.parameters(),
        stage.loss,
        steps=50,
        learning_rate=3e-3,
        log=lambda figures: lines.append(dict(figures)),
    )
    assert lines[-1]["right"] == 1.0
    assert lines[-1]["distance"] < lines[0]["distance"]
