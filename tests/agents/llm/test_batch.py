import numpy as np
import torch

from agents.llm.batch import TokenBatch
from agents.llm.context import Chunk, Context, TokenRole


def context(count: int) -> Context:
    made = Context()
    chunk = Chunk(made)
    chunk.text(range(5, 5 + count), roles=TokenRole.THINK, trained=True, logprobs=[-0.5] * count)
    made.append(chunk)
    return made


def test_contexts_are_padded_on_the_right() -> None:
    batch = TokenBatch.stack([context(3).tokens, context(1).tokens], pad_id=99)
    assert batch.ids.tolist() == [[5, 6, 7], [5, 99, 99]]
    assert batch.valid.tolist() == [[True, True, True], [True, False, False]]
    assert batch.lengths.tolist() == [3, 1]
    assert batch.role.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.clip.unique().tolist() == [-1]
    assert batch.trained.sum() == 4
    assert batch.positions.shape == (3, 2, 3)
    assert batch.positions[:, 0].tolist() == [[0, 1, 2]] * 3
    assert batch.logprob[0].tolist() == [-0.5] * 3 and batch.logprob[1, 1:].isnan().all()
    assert batch.ids.dtype == batch.positions.dtype == torch.int64


def test_an_empty_part_is_all_padding() -> None:
    batch = TokenBatch.stack([context(2).tokens, context(1).tokens[1:]], pad_id=0)
    assert batch.lengths.tolist() == [2, 0]


def test_a_batch_does_not_share_memory_with_its_contexts() -> None:
    made = context(2)
    batch = TokenBatch.stack([made.tokens], pad_id=0)
    batch.trained[:] = False
    batch.logprob[:] = 0
    assert made["trained"].all() and np.allclose(made["logprob"], -0.5)


def test_a_batch_moves_as_a_whole() -> None:
    batch = TokenBatch.stack([context(2).tokens], pad_id=0).to("cpu")
    assert batch.ids.tolist() == [[5, 6]]
    assert not batch.vision.any()
