import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from agents.learning.reading import Reading, encode_once, read
from agents.learning.sample import Sample
from agents.llm.decoupling import Scope
from agents.llm.likelihood import read_out
from agents.llm.tiny import Family
from tests.agents.learning.samples import ANSWER, CROP, sample
from tests.agents.llm.clips import clip_of
from tests.agents.llm.models import FAMILIES, tiny


def two_groups(family: Family = "qwen3_vl") -> list[Sample]:
    """Five episodes of a question, of different lengths, two of another, and one of a third."""
    return [
        sample(CROP, ANSWER, family=family),
        sample("A longer question follows.", question="How many stars?", family=family),
        sample(CROP, CROP, ANSWER, family=family, start_seconds=3.0),
        sample(ANSWER, family=family),
        sample(CROP, ANSWER, question="How many stars?", family=family, start_seconds=5.0),
        sample(ANSWER, question="Alone?", family=family, frames=2),
        sample(CROP, "no tags at all", family=family),
        sample(ANSWER + "\n", family=family),
    ]


def scores(reading: Reading, family: Family = "qwen3_vl") -> list[Tensor]:
    """The log-probabilities of each sample's trained tokens."""
    picked = read_out(tiny(family), reading.hidden, reading.batch)
    return [row[mask] for row, mask in zip(picked, reading.batch.trained, strict=True)]


@pytest.mark.parametrize("scope", [None, "tags", "turn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prompts_change_neither_scores_nor_gradients(
    family: Family, scope: Scope | None
) -> None:
    model, samples = tiny(family), two_groups(family)
    found: list[tuple[list[Tensor], list[Tensor]]] = []
    for share in (False, True):
        model.network.zero_grad()
        rows = scores(read(model, samples, scope=scope, share_prompts=share), family)
        torch.cat(rows).square().sum().backward()
        parameters = [p for p in model.network.parameters() if p.grad is not None]
        found.append((rows, [p.grad.clone() for p in parameters if p.grad is not None]))
    model.network.zero_grad()
    (apart, gradients), (shared, shared_gradients) = found
    for one, other in zip(apart, shared, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    assert len(gradients) == len(shared_gradients) > 30
    for one, other in zip(gradients, shared_gradients, strict=True):
        assert torch.allclose(one, other, atol=2e-5 + 1e-3 * float(one.abs().max()))


def test_a_shared_reading_holds_responses_alone() -> None:
    samples = two_groups()
    apart, shared = (read(tiny(), samples, share_prompts=share) for share in (False, True))
    longest = max(len(one.tokens) - one.prompt_tokens + 1 for one in samples)
    assert shared.batch.ids.shape == (8, longest)
    assert apart.batch.ids.shape == (8, max(len(one.tokens) for one in samples))
    assert shared.offsets == tuple(one.prompt_tokens - 1 for one in samples)
    trained = [one.trained_tokens for one in samples]
    assert shared.batch.trained.sum(1).tolist() == apart.batch.trained.sum(1).tolist() == trained


def test_numbers_per_token_are_cut_like_the_tokens() -> None:
    samples = two_groups()
    numbers = [torch.from_numpy(one.tokens["id"].astype("float32")) for one in samples]
    for share in (False, True):
        reading = read(tiny(), samples, share_prompts=share)
        cut = reading.cut(numbers)
        valid = reading.batch.valid
        assert torch.equal(cut[valid], reading.batch.ids[valid].float())
        assert (cut[~valid] == 0).all()


def test_prompts_that_differ_are_read_apart() -> None:
    samples = [sample(ANSWER, question=question) for question in ("One?", "Two?")]
    assert read(tiny(), samples).offsets == (0, 0)


def test_a_question_about_another_video_is_another_prompt() -> None:
    here, again = sample(ANSWER), sample(CROP, ANSWER)
    ref = dataclasses.replace(here.refs[0], video="other.mp4")
    there = Sample(here.tokens, (ref,), (clip_of(ref, seed=1),))
    assert here.prompt_key == again.prompt_key != there.prompt_key
    samples = [here, again, there]
    together = scores(read(tiny(), samples))
    for one, found in zip(samples, together, strict=True):
        assert torch.allclose(found, scores(read(tiny(), [one]))[0], atol=1e-4)
    assert not torch.allclose(together[0], together[2], atol=1e-2)


def test_a_clip_that_several_saw_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = tiny(), two_groups()
    counted: list[int] = []
    encode = type(model).encode
    monkeypatch.setattr(
        type(model), "encode", lambda self, clips: counted.append(len(clips)) or encode(self, clips)
    )
    features = encode_once(model, samples)
    assert counted == [len({ref for one in samples for ref in one.refs})]
    assert [len(clips) for clips in features] == [len(one.refs) for one in samples]
    assert features[0][0] is features[2][0]


def test_gradients_are_those_of_layers_that_are_computed_twice() -> None:
    samples, found = two_groups()[:4], list[list[Tensor]]()
    for twice in (False, True):
        model = copy.deepcopy(tiny())
        model.network.train()
        if twice:
            model.checkpoint_gradients()
        assert model.keeps_cache is not twice
        reading = read(model, samples)
        is_shared = reading.offsets != (0,) * 4
        assert is_shared is not twice
        picked = read_out(model, reading.hidden, reading.batch)
        picked.square().sum().backward()
        parameters = [p.grad for p in model.network.parameters() if p.grad is not None]
        found.append([picked.sum(1), *parameters])
        model.network.eval()
        assert model.keeps_cache
    assert len(found[0]) == len(found[1]) > 30
    for once, again in zip(*found, strict=True):
        assert torch.allclose(once, again, atol=2e-5 + 1e-3 * float(once.detach().abs().max()))
