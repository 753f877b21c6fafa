import pytest
import torch

from agents.llm import likelihood
from agents.llm.batch import TokenBatch
from agents.llm.context import Context, TokenRole
from agents.llm.decoupling import TaskDecoupling, decoupled_rows, dense_mask
from agents.llm.likelihood import log_probabilities
from agents.llm.tiny import Family
from tests.agents.llm.clips import clip_of, clip_ref
from tests.agents.llm.models import FAMILIES, tiny
from videoseek_env.errors import ConfigError
from videoseek_env.session import Observation
from videoseek_env.video.clip import Clip

each_family = pytest.mark.parametrize("family", FAMILIES)


def episode(family: Family, *replies: str, offset: float = 0.0) -> tuple[Context, list[Clip]]:
    """A context with a clip before each reply."""
    builder = tiny(family).builder
    cell = builder.layout.cell_px
    context, clips = Context(), []
    for turn, reply in enumerate(replies):
        ref = clip_ref(frames=4, height=cell, width=cell, start_seconds=offset + 10 * turn)
        clips.append(clip_of(ref))
        builder.observe(context, Observation("Which?", clips[-1], clip_ref=ref))
        builder.reply(context, builder.vocabulary.encode(reply))
    return context, clips


CROP = '<think>At 30.</think><grounding>{"temporal_segment": [3, 9]}</grounding>'
ANSWER = "<think>Red.</think><answer>B</answer>"


@each_family
def test_a_batch_scores_as_its_contexts_do_alone(family: Family) -> None:
    model = tiny(family)
    pairs = [episode(family, CROP, CROP, ANSWER), episode(family, ANSWER, offset=5.0)]
    batch = TokenBatch.stack([context.tokens for context, _ in pairs], pad_id=0)
    clips = [clip for _, shown in pairs for clip in shown]
    with torch.no_grad():
        together = log_probabilities(model, batch, model.encode(clips))
        for row, (context, shown) in enumerate(pairs):
            single = TokenBatch.stack([context.tokens], pad_id=0)
            alone = log_probabilities(model, single, model.encode(shown))
            assert torch.allclose(together[row, : len(context)], alone[0], atol=1e-4)
    assert (together[~batch.trained] == 0).all() and (together[batch.trained] < 0).all()


def test_scores_are_probabilities_over_the_allowed_ids() -> None:
    model = tiny()
    context, clips = episode("qwen3_vl", ANSWER)
    batch = TokenBatch.stack([context.tokens], pad_id=0)
    with torch.no_grad():
        hidden = model.hidden(batch.ids, batch.positions, model.encode(clips))
        scores = log_probabilities(model, batch, model.encode(clips), temperature=2.0)
    last = int(batch.lengths[0]) - 1
    allowed = torch.from_numpy(~model.vocabulary.banned)
    logits = model.base.lm_head(hidden[0, last - 1])[allowed] / 2.0
    expected = logits.softmax(0)[int(allowed[: batch.ids[0, last]].sum())].log()
    assert torch.allclose(scores[0, last], expected, atol=1e-5)


@each_family
def test_gradients_with_decoupling_are_those_of_the_dense_mask(family: Family) -> None:
    model = tiny(family)
    context, clips = episode(family, CROP, CROP, ANSWER)
    other, more = episode(family, CROP, ANSWER, offset=3.0)
    batch = TokenBatch.stack([context.tokens, other.tokens], pad_id=0)
    tokens = (batch.role, batch.clip, batch.valid)
    gradients = []
    for option in ({"decoupling": decoupled_rows(*tokens)}, {"mask": dense_mask(*tokens)}):
        model.network.zero_grad()
        hidden = model.hidden(batch.ids, batch.positions, model.encode(clips + more), **option)
        logits = model.logits(hidden[:, :-1][batch.trained[:, 1:]])
        ids = batch.ids[:, 1:][batch.trained[:, 1:]]
        loss = torch.nn.functional.cross_entropy(logits, ids)
        loss.backward()
        gradients.append([p.grad.clone() for p in model.network.parameters() if p.grad is not None])
    model.network.zero_grad()
    assert len(gradients[0]) > 30
    for ours, dense in zip(*gradients, strict=True):
        assert torch.allclose(ours, dense, atol=2e-5 + 1e-3 * float(dense.abs().max()))


def test_decoupling_moves_the_scores_of_the_answer_alone_after_one_crop() -> None:
    model = tiny(layers=1)
    context, clips = episode("qwen3_vl", CROP, ANSWER)
    batch = TokenBatch.stack([context.tokens], pad_id=0)
    plan = TaskDecoupling(probability=1.0).draw(
        batch.role, batch.clip, batch.valid, generator=torch.Generator()
    )
    with torch.no_grad():
        plain, masked = (
            log_probabilities(model, batch, model.encode(clips), decoupling=decoupling)
            for decoupling in (None, plan)
        )
    moved = (plain - masked).abs()[0] > 1e-6
    # In one layer a score moves only if the query before it is masked.
    before = batch.role[0].roll(1)
    assert moved.any() and (before[moved] == TokenRole.ANSWER).all()


def test_a_trained_first_token_is_refused() -> None:
    model = tiny()
    context = Context()
    model.builder.reply(context, [1, 2])
    batch = TokenBatch.stack([context.tokens], pad_id=0)
    with pytest.raises(ConfigError, match="nothing before it"):
        log_probabilities(model, batch, [])


def test_a_large_vocabulary_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    pairs = [episode("qwen3_vl", CROP, ANSWER), episode("qwen3_vl", ANSWER, offset=5.0)]
    batch = TokenBatch.stack([context.tokens for context, _ in pairs], pad_id=0)
    clips = [clip for _, shown in pairs for clip in shown]
    found: list[list[torch.Tensor]] = []
    for tokens in (1_000, 7):
        monkeypatch.setattr(likelihood, "_LOGITS_AT_ONCE", tokens * len(model.vocabulary.banned))
        model.network.zero_grad()
        scores = log_probabilities(model, batch, model.encode(clips), temperature=0.7)
        scores.square().sum().backward()
        parameters = model.network.parameters()
        found.append([scores, *(p.grad.clone() for p in parameters if p.grad is not None)])
    model.network.zero_grad()
    assert int(batch.trained.sum()) > 14
    for whole, pieces in zip(*found, strict=True):
        assert torch.allclose(whole, pieces, rtol=1e-3, atol=1e-4)
