import torch

from agents.llm.cache import KeyValues, RaggedCache

HEADS, WIDTH, LAYERS = 2, 3, 2


def known(length: int, value: float) -> KeyValues:
    states = torch.full((HEADS, length, WIDTH), value)
    return KeyValues([(states + layer, -states) for layer in range(LAYERS)], length)


def new(rows: int, added: int, value: float) -> torch.Tensor:
    return torch.full((rows, HEADS, added, WIDTH), value)


def test_each_row_is_written_where_it_ends() -> None:
    cache = RaggedCache([known(3, 1.0), known(1, 2.0)], room=4)
    for layer in range(LAYERS):
        keys, values = cache.update(new(2, 2, 9.0), new(2, 2, 8.0), layer)
    assert keys.shape == (2, HEADS, 5, WIDTH)
    assert keys[0, 0, :, 0].tolist() == [2, 2, 2, 9, 9]
    assert keys[1, 0, :3, 0].tolist() == [3, 9, 9]
    assert values[1, 0, :3, 0].tolist() == [-2, 8, 8]


def test_rows_come_back_with_what_was_counted() -> None:
    cache = RaggedCache([known(3, 1.0), known(1, 2.0)], room=4)
    for layer in range(LAYERS):
        cache.update(new(2, 2, 9.0), new(2, 2, 8.0), layer)
    cache.advance(torch.tensor([2, 1]))
    first, second = cache.rows()
    assert (first.length, second.length) == (5, 2)
    assert second.layers[0][0][0, :, 0].tolist() == [2, 9]


def test_rows_that_are_taken_hold_on_to_nothing_else() -> None:
    cache = RaggedCache([known(3, 1.0), known(1, 2.0)], room=40)
    for layer in range(LAYERS):
        cache.update(new(2, 2, 9.0), new(2, 2, 8.0), layer)
    cache.advance(torch.tensor([2, 1]))
    expected = cache.rows()
    taken = cache.take_rows()
    for row, wanted in zip(taken, expected, strict=True):
        assert row.length == wanted.length and len(row.layers) == LAYERS
        for pair, wanted_pair in zip(row.layers, wanted.layers, strict=True):
            for states, wanted_states in zip(pair, wanted_pair, strict=True):
                assert torch.equal(states, wanted_states)
                assert states.untyped_storage().nbytes() == states.nbytes


def test_rubbish_behind_a_row_is_overwritten() -> None:
    cache = RaggedCache([known(1, 1.0), known(1, 2.0)], room=4)
    cache.update(new(2, 2, 7.0), new(2, 2, 7.0), 0)
    cache.advance(torch.tensor([2, 0]))
    keys, _ = cache.update(new(2, 1, 9.0), new(2, 1, 9.0), 0)
    assert keys[1, 0, :2, 0].tolist() == [2, 9]
    assert keys[0, 0, :4, 0].tolist() == [1, 7, 7, 9]


def test_a_cache_from_nothing_takes_its_shape_from_the_first_states() -> None:
    cache = RaggedCache([KeyValues.empty(), KeyValues.empty()], room=2)
    keys, _ = cache.update(new(2, 2, 5.0), new(2, 2, 6.0), 0)
    assert keys.shape == (2, HEADS, 2, WIDTH) and cache.get_seq_length() == 0
    cache.advance(torch.tensor([2, 1]))
    assert [row.length for row in cache.rows()] == [2, 1]


def test_a_full_cache_grows_and_keeps_what_it_has() -> None:
    cache = RaggedCache([known(2, 1.0)], room=1)
    keys, _ = cache.update(new(1, 40, 9.0), new(1, 40, 9.0), 0)
    assert keys[0, 0, :3, 0].tolist() == [1, 1, 9] and keys.shape[2] == 42


def test_the_rows_stacked_are_not_written_to() -> None:
    row = known(2, 1.0)
    cache = RaggedCache([row, row], room=2)
    cache.update(new(2, 1, 9.0), new(2, 1, 9.0), 0)
    assert row.layers[0][0].unique().tolist() == [1.0]
