from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.llm import generation
from agents.llm.batch import TokenBatch
from agents.llm.context import Context, TokenRole
from agents.llm.decoupling import Scope, decoupled_rows
from agents.llm.generation import Sampling, choose, generate
from agents.llm.likelihood import log_probabilities
from agents.llm.model import VisionLanguageModel
from agents.llm.prefill import Row, prefill
from agents.llm.tiny import Family
from tests.agents.llm.clips import clip_of, clip_ref
from tests.agents.llm.models import FAMILIES, tiny
from videoseek_env.errors import ConfigError
from videoseek_env.session import Observation
from videoseek_env.video.clip import Clip, ClipRef

each_family = pytest.mark.parametrize("family", FAMILIES)
each_scope = pytest.mark.parametrize("scope", [None, "tags"])

REPLIES = (
    '<think>At 30.</think><grounding>{"temporal_segment": [3, 9], "sampling_strategy": "fine"}'
    "</grounding>",
    "<think>Hm, no. Once more.</think><grounding>{}</grounding>",
    "<think>It is red.</think><answer>B</answer>",
)
SAMPLING = Sampling(max_tokens=60)


class Episode:
    """A context that grows as a session would have it grow."""

    def __init__(self, model: VisionLanguageModel, seed: int, *, pairs: int = 3) -> None:
        self.model, self.seed = model, seed
        cell = model.builder.layout.cell_px
        self.row = Row(Context(), np.random.default_rng(seed))
        self.shown: list[Clip] = []
        self._overview = clip_ref(frames=2 * pairs, height=cell, width=2 * cell, step_seconds=9.0)
        self._crop = clip_ref(frames=4, height=2 * cell, width=cell, start_seconds=30.0 + seed)
        self._cell = cell

    def observe(self) -> list[Clip]:
        """Show the overview first, then crops; no frames with every third observation."""
        turn = len(self.shown)
        ref: ClipRef | None = self._overview if turn == 0 else self._crop
        clips = [clip_of(ref)]
        system = "Seek." if turn == 0 else ""
        self.model.builder.observe(
            self.row.context, Observation("Which digit?", clips[0], system=system, clip_ref=ref)
        )
        self.shown += clips
        return clips


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """Makes the sampler write these texts, with the probabilities that the model gives them."""
    script: list[list[list[int]]] = []

    def write(
        logits: Tensor, uniforms: Sequence[float], sampling: Sampling
    ) -> tuple[list[int], list[float]]:
        # Rows that are over may have left the batch already.
        unfinished = [tokens for tokens in script[0] if tokens]
        texts = unfinished if len(logits) == len(unfinished) else script[0]
        ids = [tokens.pop(0) if tokens else 0 for tokens in texts]
        logprobs = logits.log_softmax(-1)
        return ids, [float(logprobs[row, index]) for row, index in enumerate(ids)]

    monkeypatch.setattr(generation, "choose", write)
    return script


def logprobs_from_nothing(
    model: VisionLanguageModel, context: Context, clips: list[Clip], scope: Scope | None
) -> np.ndarray:
    """What one forward over the whole context gives the trained tokens."""
    batch = TokenBatch.stack([context.tokens], pad_id=0)
    plan = None
    if scope is not None:
        plan = decoupled_rows(batch.role, batch.clip, batch.valid, scope=scope)
    with torch.no_grad():
        scores = log_probabilities(model, batch, model.encode(clips), decoupling=plan)
    return scores[batch.trained].numpy()


@each_family
@each_scope
def test_a_kept_cache_gives_what_recomputing_everything_gives(
    family: Family, scope: Scope | None, scripted: list[list[list[int]]]
) -> None:
    model = tiny(family)
    episodes = [Episode(model, seed, pairs=2 + seed) for seed in range(3)]
    for turn in range(3):
        clips = [episode.observe() for episode in episodes]
        # Each row writes another one of the replies, so that rows end at different times.
        texts = [REPLIES[(turn + k) % 3] for k in range(3)]
        scripted[:] = [[model.vocabulary.encode(text) for text in texts]]
        rows = [episode.row for episode in episodes]
        # The last one writes alone when the others are done: the batch shrinks on the way.
        assert generate(model, rows, clips, SAMPLING, scope=scope) == texts
    for episode in episodes:
        context = episode.row.context
        expected = logprobs_from_nothing(model, context, episode.shown, scope)
        sampled = context["logprob"][context["trained"]]
        assert len(sampled) > 40
        assert np.allclose(sampled, expected, atol=2e-4)


def test_decoupling_changes_what_tokens_inside_tags_are_given(
    scripted: list[list[list[int]]],
) -> None:
    model = tiny()
    written = {}
    for scope in (None, "tags"):
        episode = Episode(model, 0)
        for text in REPLIES:
            scripted[:] = [[model.vocabulary.encode(text)]]
            generate(model, [episode.row], [episode.observe()], SAMPLING, scope=scope)
        written[scope] = episode.row.context
    plain, masked = written[None], written["tags"]
    differs = ~np.isclose(plain["logprob"], masked["logprob"], atol=1e-3, equal_nan=True)
    roles = plain["role"][differs]
    # A token's log-probability comes from the query before it, and what follows a masked query is
    # read off it too: the first grounding, before any crop, and the thoughts before it do not move.
    assert differs.any() and TokenRole.ANSWER in plain["role"][np.flatnonzero(differs) - 1]
    second_crop = np.flatnonzero(plain["clip"] == 1)[-1]
    assert (np.flatnonzero(differs) > second_crop).all(), roles


@each_family
def test_a_batch_writes_what_each_row_writes_alone(family: Family) -> None:
    model = tiny(family)
    # Cool, so that hardly any draw lies where a rounding error decides.
    sampling = Sampling(max_tokens=12, temperature=0.25)
    together = [Episode(model, seed, pairs=1 + seed) for seed in range(4)]
    alone = [Episode(model, seed, pairs=1 + seed) for seed in range(4)]
    for _ in range(2):
        clips = [episode.observe() for episode in together]
        texts = generate(model, [episode.row for episode in together], clips, sampling)
        for text, episode in zip(texts, alone, strict=True):
            assert generate(model, [episode.row], [episode.observe()], sampling) == [text]
    for one, other in zip(together, alone, strict=True):
        assert one.row.context["id"].tolist() == other.row.context["id"].tolist()


def test_a_group_is_read_once_and_then_goes_its_own_ways() -> None:
    model = tiny()
    group = [Episode(model, 7) for _ in range(3)]
    for seed, episode in enumerate(group):
        episode.row.rng = np.random.default_rng(seed)
    rows = [episode.row for episode in group]
    hidden = prefill(model, rows, [episode.observe() for episode in group])
    assert rows[0].known is rows[1].known is rows[2].known
    assert torch.equal(hidden[0], hidden[1])
    fresh = Episode(model, 7)
    clips = fresh.observe()
    expected = prefill(model, [fresh.row], [clips])
    assert torch.allclose(hidden[0], expected[0], atol=1e-5)


def test_members_of_a_group_differ_by_their_seeds_alone() -> None:
    model = tiny()
    texts = {}
    for seeds in ((1, 2, 1), (2, 1, 1)):
        group = [Episode(model, 7) for _ in seeds]
        for seed, episode in zip(seeds, group, strict=True):
            episode.row.rng = np.random.default_rng(seed)
        clips = [episode.observe() for episode in group]
        texts[seeds] = generate(
            model, [episode.row for episode in group], clips, Sampling(max_tokens=8)
        )
    first, second = texts.values()
    assert first[0] == first[2] != first[1]
    assert (first[0], first[1]) == (second[1], second[0])


def test_rows_that_are_known_and_new_ones_are_read_together() -> None:
    model = tiny()
    old, new = Episode(model, 1), Episode(model, 2)
    generate(model, [old.row], [old.observe()], Sampling(max_tokens=5))
    texts = generate(
        model, [old.row, new.row], [old.observe(), new.observe()], Sampling(max_tokens=5)
    )
    reference = Episode(model, 2)
    assert generate(model, [reference.row], [reference.observe()], Sampling(max_tokens=5)) == [
        texts[1]
    ]


def test_a_long_observation_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    hidden = []
    for tokens in (1024, 5):
        monkeypatch.setattr("agents.llm.prefill.PREFILL_TOKENS", tokens)
        episode = Episode(model, 3)
        prefill(model, [episode.row], [episode.observe()])
        hidden.append(prefill(model, [episode.row], [episode.observe()]))
    assert torch.allclose(*hidden, atol=1e-4)


def test_many_first_observations_are_read_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    hidden, calls = [], list[int]()
    network = type(model.base.model)
    forward = network.forward

    def counted(self: object, *args: object, **options: object) -> object:
        calls.append(1)
        return forward(self, *args, **options)

    monkeypatch.setattr(network, "forward", counted)
    # Of 31, 46, 36 and 41 tokens.
    for tokens, forwards in ((4 * 46, 1), (2 * 46, 2), (1, 4)):
        monkeypatch.setattr("agents.llm.prefill.FRESH_TOKENS", tokens)
        del calls[:]
        episodes = [Episode(model, 0, pairs=pairs) for pairs in (2, 5, 3, 4)]
        seen = [episode.observe() for episode in episodes]
        hidden.append(prefill(model, [episode.row for episode in episodes], seen))
        assert all(episode.row.pending == 0 for episode in episodes)
        assert len(calls) == forwards
    assert torch.allclose(hidden[0], hidden[1], atol=1e-5)
    assert torch.allclose(hidden[0], hidden[2], atol=1e-5)


def test_a_cache_grows_with_a_long_reply() -> None:
    model = tiny()
    episode = Episode(model, 0)
    generate(model, [episode.row], [episode.observe()], Sampling(max_tokens=150))
    context = episode.row.context
    expected = logprobs_from_nothing(model, context, episode.shown, None)
    assert len(expected) > 64
    assert np.allclose(context["logprob"][context["trained"]], expected, atol=2e-4)


@pytest.mark.parametrize(
    ("ids_of", "length"),
    [
        (lambda v: v.encode("<answer>B</answer> and more"), 3),
        (lambda v: v.encode("</grounding> and more"), 1),
        (lambda v: [*v.encode("red"), v.end_of_turn, *v.encode("red")], 2),
        (lambda v: v.encode("red " * 100), 60),
    ],
    ids=["answer", "grounding", "end of turn", "length"],
)
def test_a_reply_ends_where_it_is_over(
    ids_of: object, length: int, scripted: list[list[list[int]]]
) -> None:
    model = tiny()
    ids = ids_of(model.vocabulary)  # type: ignore[operator]
    scripted[:] = [[list(ids)]]
    episode = Episode(model, 0)
    (text,) = generate(model, [episode.row], [episode.observe()], SAMPLING)
    assert episode.row.context["id"][-length:].tolist() == ids[:length]
    assert text == model.vocabulary.decode(ids[:length])
    assert episode.row.context["trained"].sum() == length


def test_no_vision_token_is_ever_sampled() -> None:
    model = tiny()
    with torch.no_grad():
        logits = model.logits(torch.randn(50, 128))
    ids, _ = choose(logits, np.linspace(0, 1, 50, endpoint=False).tolist(), Sampling())
    assert not model.vocabulary.banned[ids].any()
    assert torch.isneginf(logits[:, torch.from_numpy(model.vocabulary.banned)]).all()


def test_a_context_without_news_is_refused() -> None:
    model = tiny()
    with pytest.raises(ConfigError, match="needs an observation"):
        generate(model, [Row(Context())], [[]], SAMPLING)


def test_a_reply_that_does_not_fit_the_model_is_refused() -> None:
    model = tiny()
    episode = Episode(model, 0)
    clips = episode.observe()
    with pytest.raises(ConfigError, match="pass the model's 4096 positions"):
        generate(model, [episode.row], [clips], Sampling(max_tokens=4096))


def test_clips_that_the_context_does_not_wait_for_are_refused() -> None:
    model = tiny()
    episode = Episode(model, 0)
    episode.observe()
    with pytest.raises(ConfigError, match=r"waits for 6 visual tokens, .* have 0"):
        generate(model, [episode.row], [[]], SAMPLING)


LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()


def drawn(count: int, sampling: Sampling, logits: Tensor = LOGITS) -> list[float]:
    """How often each token is drawn when the uniforms cover [0, 1) evenly."""
    uniforms = ((np.arange(count) + 0.5) / count).tolist()
    ids, _ = choose(logits.expand(count, -1), uniforms, sampling)
    return (np.bincount(ids, minlength=logits.shape[1]) / count).tolist()


def test_tokens_are_drawn_by_their_probabilities() -> None:
    assert drawn(1000, Sampling()) == pytest.approx([0.1, 0.4, 0.2, 0.3])


def test_a_lower_temperature_sharpens() -> None:
    # At temperature 1/2 probabilities are squared: 0.01, 0.16, 0.04, 0.09 of 0.3.
    expected = [1 / 30, 16 / 30, 4 / 30, 9 / 30]
    assert drawn(3000, Sampling(temperature=0.5)) == pytest.approx(expected, abs=1e-3)


def test_top_p_keeps_the_likeliest_tokens_that_reach_it() -> None:
    # 0.4 + 0.3 reaches 0.6 and 0.4 alone does not.
    assert drawn(700, Sampling(top_p=0.6)) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=2e-3)
    assert drawn(100, Sampling(top_p=1e-9)) == [0, 1, 0, 0]


def test_temperature_zero_takes_the_likeliest() -> None:
    ids, logprobs = choose(LOGITS, [0.99], Sampling(temperature=0))
    assert ids == [1] and logprobs == pytest.approx([np.log(0.4)])


def test_a_device_without_float64_does_not_draw() -> None:
    class OnMps:
        device = torch.device("mps")

        def cpu(self) -> torch.Tensor:
            return LOGITS

    logits: Any = OnMps()
    assert choose(logits, [0.5], Sampling()) == choose(LOGITS, [0.5], Sampling())


def test_log_probabilities_are_those_before_top_p() -> None:
    ids, logprobs = choose(LOGITS, [0.0], Sampling(top_p=0.5))
    assert ids == [1] and logprobs == pytest.approx([np.log(0.4)])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(value: float, temperature: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, value, 2.0]])
    with pytest.raises(FloatingPointError, match="not finite"):
        choose(logits, [0.5, 0.5], Sampling(temperature=temperature))


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
def test_the_edges_of_the_unit_interval_draw_allowed_tokens(uniform: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    (index,), _ = choose(logits, [uniform], Sampling())
    assert index in (1, 2)


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_tokens": 0}]
)
def test_sampling_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"expected temperature|max_tokens must be at least 1"):
        Sampling(**options)  # type: ignore[arg-type]
