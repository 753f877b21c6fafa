import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.llm.builder import ContextBuilder
from agents.llm.context import Context, TokenRole
from agents.llm.layout import ClipLayout
from agents.llm.tiny import Family
from agents.llm.tiny_tokenizer import tiny_tokenizer
from agents.llm.vocabulary import Vocabulary
from tests.agents.llm.clips import clip_of, clip_ref
from tests.agents.llm.models import FAMILIES, tiny
from tests.agents.llm.tokenizers_for_tests import merging_tokenizer
from videoseek_env.errors import ConfigError
from videoseek_env.session import Observation
from videoseek_env.video.clip import ClipRef

TOKENIZER = tiny_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER, size=len(TOKENIZER))
QWEN3 = ContextBuilder(VOCABULARY, ClipLayout(cell_px=32, timestamp="<{seconds:.1f} seconds>"))
QWEN2_5 = ContextBuilder(VOCABULARY, ClipLayout(cell_px=28, tokens_per_second=2.0))
each_family = pytest.mark.parametrize("family", FAMILIES)


def seen(text: str, ref: ClipRef | None = None, system: str = "") -> Observation:
    clip = None if ref is None else clip_of(ref)
    return Observation(text, clip, system=system, clip_ref=ref)


def rendered(context: Context, *, tokenizer: object = TOKENIZER) -> str:
    return str(tokenizer.decode(context["id"].tolist()))  # type: ignore[attr-defined]


def test_a_conversation_is_rendered_as_the_chat_template_has_it() -> None:
    context = Context()
    QWEN3.observe(context, seen("Which digit?", system="Seek."))
    QWEN3.reply(context, VOCABULARY.encode("<think>Hm.</think><answer>A</answer>"))
    QWEN3.observe(context, seen("Again."))
    messages = [
        {"role": "system", "content": "Seek."},
        {"role": "user", "content": "Which digit?"},
        {"role": "assistant", "content": "<think>Hm.</think><answer>A</answer>"},
        {"role": "user", "content": "Again."},
    ]
    ids = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert context["id"].tolist() == ids


def test_qwen3_writes_the_time_of_every_pair() -> None:
    context = Context()
    QWEN3.observe(context, seen("Hm.", clip_ref(frames=4, step_seconds=2.0, width=64)))
    # Pairs at (0 + 2) / 2 and (4 + 6) / 2 seconds, of 1 x 2 cells.
    group = "<|vision_start|><|video_pad|><|video_pad|><|vision_end|>"
    assert f"user\n<1.0 seconds>{group}<5.0 seconds>{group}Hm." in rendered(context)


def test_qwen2_5_writes_one_block() -> None:
    context = Context()
    QWEN2_5.observe(context, seen("Hm.", clip_ref(frames=3, height=28, width=28)))
    block = "<|vision_start|>" + 2 * "<|video_pad|>" + "<|vision_end|>"
    assert f"user\n{block}Hm." in rendered(context)


def test_a_clips_span_lies_between_its_outer_brackets() -> None:
    context = Context()
    QWEN3.observe(context, seen("Hm.", clip_ref(frames=4)))
    QWEN3.reply(context, VOCABULARY.encode("<grounding>"))
    QWEN3.observe(context, seen("Hm.", clip_ref(frames=4, start_seconds=8.0)))
    for number in (0, 1):
        inside = np.flatnonzero(context["clip"] == number)
        assert inside.tolist() == list(range(inside[0], inside[-1] + 1))
        assert context["id"][inside[0] - 1] == VOCABULARY.vision_start
        assert context["id"][inside[-1] + 1] == VOCABULARY.vision_end
        assert context["role"][inside[0]] == context["role"][inside[-1]] == TokenRole.VISION
        # The inner timestamp is inside, the first one is not.
        text = TOKENIZER.decode(context["id"][inside].tolist())
        assert text.count(" seconds>") == 1


def test_only_what_the_model_wrote_is_trained() -> None:
    context = Context()
    QWEN3.observe(context, seen("Which?", clip_ref(frames=2), system="Seek."))
    ids = VOCABULARY.encode("<think>Hm.</think>")
    text = QWEN3.reply(context, ids, [-0.5] * len(ids))
    QWEN3.observe(context, seen("Again."))
    assert text == "<think>Hm.</think>"
    assert context["id"][context["trained"]].tolist() == ids
    assert (context["logprob"][context["trained"]] == -0.5).all()
    assert np.isnan(context["logprob"][~context["trained"]]).all()


def test_a_cut_last_turn_keeps_its_tokens() -> None:
    context = Context()
    QWEN3.observe(context, seen("Which?"))
    ids = VOCABULARY.encode("<think>I was interru")
    QWEN3.reply(context, ids)
    assert context["trained"][-len(ids) :].all()


def test_a_turn_that_the_model_ended_itself_is_not_ended_twice() -> None:
    context = Context()
    QWEN3.observe(context, seen("Which?"))
    assert QWEN3.reply(context, [*VOCABULARY.encode("B"), VOCABULARY.end_of_turn]) == "B"
    assert context["role"][-1] == TokenRole.TEXT and context["trained"][-1]
    QWEN3.observe(context, seen("Again."))
    assert "B<|im_end|>\n<|im_start|>user\nAgain." in rendered(context)


def test_roles_come_from_the_text_and_not_from_the_ids() -> None:
    tokenizer = merging_tokenizer()
    vocabulary = Vocabulary(tokenizer, size=len(tokenizer))
    builder = ContextBuilder(vocabulary, QWEN3.layout)
    context = Context()
    builder.observe(context, seen("Which?"))
    first = len(context)
    reply = '<grounding>{"temporal_segment": [3, 12], "sampling_strategy": "fine"}</grounding>'
    ids = vocabulary.encode(reply + "<answer>B</answer>")
    pieces = [tokenizer.decode([index]) for index in ids]
    assert any(">{" in piece for piece in pieces), "no token straddles the opening tag"
    assert any("B<" in piece for piece in pieces), "no token straddles the closing tag"
    builder.reply(context, ids)
    contents = {
        role: "".join(
            piece
            for piece, found in zip(pieces, context["role"][first:], strict=True)
            if found == role
        )
        for role in (TokenRole.GROUNDING, TokenRole.ANSWER)
    }
    assert (
        '{"temporal_segment": [3, 12], "sampling_strategy": "fine"}'
        in contents[TokenRole.GROUNDING]
    )
    assert "B" in contents[TokenRole.ANSWER] and "{" not in contents[TokenRole.ANSWER]


@each_family
def test_positions_are_those_that_the_model_would_give(family: Family) -> None:
    model = tiny(family)
    cell = model.builder.layout.cell_px
    refs = [
        clip_ref(frames=6, height=cell, width=3 * cell, step_seconds=4.0),
        clip_ref(frames=3, height=2 * cell, width=2 * cell, start_seconds=7.0, step_seconds=0.5),
    ]
    context = Context()
    for ref in refs:
        model.builder.observe(context, seen("Which?", ref, system="Seek."))
        model.builder.reply(context, model.vocabulary.encode("<think>Hm.</think>"))
    grids = [[clip.grid.pairs, 2 * clip.grid.rows, 2 * clip.grid.columns] for clip in context.clips]
    if family == "qwen3_vl":
        expected, _ = model.base.model.get_rope_index(
            torch.tensor(context["id"].astype(np.int64))[None],
            mm_token_type_ids=2 * torch.tensor(context["role"] == TokenRole.VISION)[None].int(),
            video_grid_thw=torch.tensor(grids),
        )
        assert context["position"].T.tolist() == expected[:, 0].tolist()
        return
    # Within a clip as transformers has it, two frames a pair that are 4 s and 0.5 s apart; what
    # follows as the model was trained: one behind the largest position of any axis.
    is_vision, start = context["role"] == TokenRole.VISION, 0
    clips = iter(zip(grids, (8.0, 1.0), strict=True))
    tokens_per_second = model.base.config.vision_config.tokens_per_second
    for has_frames, run in itertools.groupby(range(len(context)), key=is_vision.__getitem__):
        found = context["position"][list(run)]
        if has_frames:
            grid, seconds = next(clips)
            wanted = model.base.model.get_vision_position_ids(
                start, torch.tensor(grid), 1, 2, tokens_per_second * seconds
            ).T.numpy()
        else:
            wanted = start + np.arange(len(found))[:, None].repeat(3, 1)
        assert found.tolist() == wanted.tolist()
        start = int(wanted.max()) + 1
    assert next(clips, None) is None and context.next_position == start


def test_frames_that_do_not_fit_the_cells_are_refused_whole() -> None:
    context = Context()
    match = r"28 x 32 pixels do not divide .* cells of 32 .* patch_px=16: qwen3-vl or laptop"
    with pytest.raises(ConfigError, match=match):
        QWEN3.observe(context, seen("Which?", clip_ref(frames=2, height=28)))
    assert len(context) == 0


def test_a_clip_without_its_reference_is_refused() -> None:
    observation = Observation("Which?", clip_of(clip_ref(frames=2)))
    with pytest.raises(ConfigError, match="needs its clip_ref"):
        QWEN3.observe(Context(), observation)


@pytest.mark.parametrize("builder", [QWEN3, QWEN2_5])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_a_clips_tokens_are_counted_before_it_is_written(
    builder: ContextBuilder, frames: int
) -> None:
    cell = builder.layout.cell_px
    ref = clip_ref(frames=frames, height=2 * cell, width=cell, start_seconds=98.0)
    without, with_clip = Context(), Context()
    builder.observe(without, seen("Which?"))
    builder.observe(with_clip, seen("Which?", ref))
    assert builder.count_clip_tokens(ref) == len(with_clip) - len(without)


@settings(max_examples=50)
@given(data=st.data())
def test_masks_sum_to_what_was_written_and_placeholders_equal_grids(data: st.DataObject) -> None:
    builder = data.draw(st.sampled_from([QWEN3, QWEN2_5]))
    cell = builder.layout.cell_px
    context, written, cells = Context(), 0, 0
    for _ in range(data.draw(st.integers(1, 4))):
        ref = None
        if data.draw(st.booleans()):
            ref = clip_ref(
                frames=data.draw(st.integers(1, 5)),
                height=cell * data.draw(st.integers(1, 3)),
                width=cell * data.draw(st.integers(1, 3)),
                start_seconds=data.draw(st.floats(0, 5000)),
            )
            cells += -(-len(ref.indices) // 2) * (ref.height // cell) * (ref.width // cell)
        builder.observe(context, seen(data.draw(st.text(max_size=20)), ref))
        ids = data.draw(st.lists(st.integers(0, 300), max_size=20))
        builder.reply(context, ids)
        written += len(ids)
    assert context["trained"].sum() == written
    assert (context["role"] == TokenRole.VISION).sum() == cells
    assert (context["id"] == VOCABULARY.video_pad).sum() == cells
    assert sum(clip.grid.tokens for clip in context.clips) == cells
    assert context.next_position == context["position"].max() + 1 or builder is QWEN2_5
