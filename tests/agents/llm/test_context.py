import numpy as np
import pytest

from agents.llm.context import Chunk, Context, ContextClip, Grid, TokenRole
from tests.agents.llm.clips import clip_ref
from videoseek_env.errors import ConfigError


def with_text(context: Context, *ids: int) -> Context:
    chunk = Chunk(context)
    chunk.text(ids)
    context.append(chunk)
    return context


def test_an_empty_context_has_no_tokens() -> None:
    assert len(Context()) == 0 and Context()["id"].shape == (0,)


def test_text_takes_one_position_each() -> None:
    context = with_text(with_text(Context(), 5, 6), 7)
    assert context["id"].tolist() == [5, 6, 7]
    assert context["position"].tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert context["clip"].tolist() == [-1] * 3 and not context["trained"].any()
    assert np.isnan(context["logprob"]).all()


def test_visual_tokens_advance_by_their_longer_side() -> None:
    context = with_text(Context(), 1)
    chunk = Chunk(context)
    grid = Grid(2, 1, 3)
    chunk.clips.append(ContextClip(clip_ref(frames=4), grid))
    chunk.vision(9, grid, clip=0, seconds_scale=2.5)
    chunk.text([2])
    context.append(chunk)
    # From position 1: pairs at 1 and 1 + floor(2.5), one row, columns 1 to 3; then 1 + max(1, 3).
    pairs = [[t, 1, x] for t in (1, 3) for x in (1, 2, 3)]
    assert context["position"].tolist() == [[0, 0, 0], *pairs, [4, 4, 4]]
    assert (context["role"] == TokenRole.VISION).sum() == 6 == grid.tokens


def test_placeholders_and_clips_enter_together_or_not_at_all() -> None:
    context = with_text(Context(), 1)
    chunk = Chunk(context)
    chunk.clips.append(ContextClip(clip_ref(frames=4), Grid(2, 1, 1)))
    chunk.vision(9, Grid(1, 1, 1), clip=0)
    with pytest.raises(ConfigError, match="1 placeholders for clips of 2 visual tokens"):
        context.append(chunk)
    assert len(context) == 1 and context.clips == [] and context.next_position == 1


def test_a_chunk_made_for_another_place_is_refused() -> None:
    context = Context()
    late = Chunk(context)
    clip = Chunk(context)
    clip.clips.append(ContextClip(clip_ref(frames=2), Grid(1, 1, 1)))
    clip.vision(9, Grid(1, 1, 1), clip=0)
    context.append(clip)
    late.text([1])
    with pytest.raises(ConfigError, match="another place"):
        context.append(late)


def test_rollback_forgets_tokens_clips_and_positions() -> None:
    context = with_text(Context(), 1, 2)
    mark = context.mark()
    chunk = Chunk(context)
    chunk.clips.append(ContextClip(clip_ref(frames=2), Grid(1, 2, 2)))
    chunk.vision(9, Grid(1, 2, 2), clip=0)
    context.append(chunk)
    context.rollback(mark)
    assert len(context) == 2 and context.clips == [] and context.next_position == 2
    assert with_text(context, 3)["position"][-1].tolist() == [2, 2, 2]


def test_one_cannot_roll_forward() -> None:
    mark = with_text(Context(), 1, 2).mark()
    with pytest.raises(ConfigError, match="roll forward"):
        Context().rollback(mark)


def test_a_context_grows_beyond_its_first_buffer() -> None:
    context = Context()
    for number in range(700):
        with_text(context, number)
    assert context["id"].tolist() == list(range(700))


def test_what_is_read_can_not_be_written() -> None:
    context = with_text(Context(), 1)
    with pytest.raises(ValueError, match="read-only"):
        context["id"][0] = 2
