import dataclasses
from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from agents.llm.attention import (
    Scope,
    TaskDecoupling,
    decoupled_rows,
    dense_mask,
    query_mask,
    task_decoupled_attention,
)
from agents.llm.roles import TokenRole
from videoseek_env.errors import ConfigError

LETTERS = dict(zip("xtgAT", TokenRole, strict=False))
"""x text, t think, g grounding, A answer, T tag; a digit is vision, and its clip."""
SCOPES = get_args(Scope)
Rows = tuple[Tensor, Tensor, Tensor]


def tokens(*rows: str) -> Rows:
    """Role, clip and validity of contexts written a letter per token; `.` is padding."""
    role = [
        [TokenRole.VISION if at in "0123" else LETTERS.get(at, 0) for at in row] for row in rows
    ]
    clip = [[int(at) if at in "0123" else -1 for at in row] for row in rows]
    valid = [[at != "." for at in row] for row in rows]
    return torch.tensor(role), torch.tensor(clip), torch.tensor(valid)


def drawn(mask: Tensor) -> list[str]:
    """A mask [1, 1, Q, S] as a line per query."""
    return ["".join(".x"[key] for key in row) for row in mask[0, 0].int().tolist()]


def heads(
    shape: Rows | Tensor, count: int = 2, key_heads: int = 2, size: int = 8, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value as a model has them: transposed views of [B, L, H, D]."""
    batch, length = shape[0].shape
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(batch, length, number, size, generator=generator).transpose(1, 2)
        for number in (count, key_heads, key_heads)
    )
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def oracle(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def naive_role(role: Sequence[int], valid: Sequence[bool], at: int) -> int:
    """Scope "turn" by its definition, walking over the tokens."""
    content = (TokenRole.GROUNDING, TokenRole.ANSWER)
    if role[at] not in (TokenRole.THINK, TokenRole.TAG):
        return role[at]
    before = [role[i] for i in reversed(range(at)) if valid[i]]
    after = [role[i] for i in range(at + 1, len(role)) if valid[i]]
    if role[at] == TokenRole.TAG:
        for other in before:
            if other in content:
                return other
            if other in (TokenRole.TEXT, TokenRole.VISION):
                break
    for other in after:
        if other in content:
            return other
        if other == TokenRole.VISION:
            break
    return role[at]


def naive_mask(rows: Rows, scope: str) -> list[list[list[bool]]]:
    """The rules, one pair of tokens at a time."""
    masks = []
    for role, clip, valid in zip(*(each.tolist() for each in rows), strict=True):
        mask = []
        for i in range(len(role)):
            acts_as = naive_role(role, valid, i) if scope == "turn" else role[i]
            row = []
            for j in range(len(role)):
                allowed = j <= i and valid[i] and valid[j]
                if acts_as == TokenRole.GROUNDING and clip[j] >= 1:
                    allowed = False
                if acts_as == TokenRole.ANSWER and clip[j] == 0:
                    saw_crop = any(valid[k] and clip[k] >= 1 for k in range(i + 1))
                    allowed = allowed and not saw_crop
                row.append(allowed)
            mask.append(row)
        masks.append(mask)
    return masks


@st.composite
def contexts(draw: st.DrawFn) -> Rows:
    """Any roles and clips, sensible or not; padding on the right, on the left, or anywhere."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 14))
    shape = st.lists(
        st.tuples(st.integers(0, 5), st.integers(-1, 3)), min_size=length, max_size=length
    )
    rows = [draw(shape) for _ in range(batch)]
    valid = []
    for _ in range(batch):
        kind = draw(st.sampled_from(["none", "right", "left", "holes"]))
        count = draw(st.integers(0, length))
        prefix = [at < count for at in range(length)]
        anywhere = st.lists(st.booleans(), min_size=length, max_size=length)
        choices = {"none": [True] * length, "right": prefix, "left": prefix[::-1]}
        valid.append(choices[kind] if kind in choices else draw(anywhere))
    table = torch.tensor(rows)
    return table[..., 0], table[..., 1], torch.tensor(valid)


EPISODES = [
    # Three turns: overview 0, grounding, crop 1, grounding, crop 2, answer. Thinking and tags.
    "x00xtTgTx11xtTggTx22xtTAAT",
    "x00xtTgTx11xtTAT....",  # right padding
    "....x00xtTgTx11xtTAT",  # left padding
    "x0.0xtT.gTx1.1xt.gTx2AT",  # holes
    "x00tTgTx11tTAT.x",  # thinking straight after vision, a hole near the end
]


@pytest.mark.parametrize("scope", SCOPES)
@given(rows=contexts())
def test_the_mask_is_what_the_rules_say(scope: Scope, rows: Rows) -> None:
    assert dense_mask(*rows, scope=scope)[:, 0].tolist() == naive_mask(rows, scope)


def test_a_grounding_is_kept_from_crops_and_the_answer_from_the_overview() -> None:
    # Blocked: g at 5 from the crop at 4, A at 6 from the overview at 1 and 2. The g at 3 comes
    # before any crop.
    assert drawn(dense_mask(*tokens("x00g1gA"))) == [
        "x......",
        "xx.....",
        "xxx....",
        "xxxx...",
        "xxxxx..",
        "xxxx.x.",
        "x..xxxx",
    ]


def test_an_answer_without_a_crop_sees_the_overview() -> None:
    assert drawn(dense_mask(*tokens("0A"))) == ["x.", "xx"]
    # A crop after the answer changes nothing for it, so a kept cache sees the same.
    assert drawn(dense_mask(*tokens("0A1"))) == ["x..", "xx.", "xxx"]


def test_padding_neither_attends_nor_is_attended_to() -> None:
    # The crop is padding, so the answer has seen none.
    role, clip, valid = tokens("0x1A")
    valid[0, 2] = False
    assert drawn(dense_mask(role, clip, valid)) == ["x...", "xx..", "....", "xx.x"]


@pytest.mark.parametrize(
    ("context", "acts_as"),
    [
        ("0tTgT1tTAT", "0gggg1AAAA"),  # thinking and tags follow their turn's content
        ("0txg", "0gxg"),  # a line break between the tags
        ("0TtTxTgT", "0gggxggg"),  # the tags of thinking too
        ("0t1g", "0t1g"),  # a clip ends the search
        ("gTxA", "ggxA"),  # a closing tag belongs to what it closes
        ("gTTA", "gggA"),  # the last content before, also when more follows
        ("gxTA", "gxAA"),  # text ends the run
        ("g1TT", "g1TT"),  # nothing before in the run, nothing after
        ("tT", "tT"),
        ("t.g", "g.g"),  # padding is passed over
        ("txtg", "gxgg"),  # a malformed reply thinks for the next one
    ],
)
def test_scope_turn_masks_thinking_and_tags_like_their_content(context: str, acts_as: str) -> None:
    # A crop and an overview in front, so that each role shows in what it may see.
    turn = dense_mask(*tokens("01" + context), scope="turn")
    assert torch.equal(turn, dense_mask(*tokens("01" + acts_as)))


@given(
    rows=contexts(),
    scope=st.sampled_from(SCOPES),
    heads_by_kind=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    seed=st.integers(0, 99),
)
def test_the_fast_path_equals_the_dense_mask(
    rows: Rows, scope: Scope, heads_by_kind: tuple[int, int], seed: int
) -> None:
    assert_equals_the_dense_mask(rows, scope, *heads_by_kind, seed)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("episode", EPISODES)
def test_the_fast_path_equals_the_dense_mask_on_episodes(scope: Scope, episode: str) -> None:
    assert_equals_the_dense_mask(tokens(episode), scope)


@pytest.mark.parametrize("scope", SCOPES)
def test_rows_of_a_batch_may_be_unlike(scope: Scope) -> None:
    width = max(map(len, EPISODES))
    batch = [*(episode.ljust(width, ".") for episode in EPISODES), "." * width, "x" * width]
    assert_equals_the_dense_mask(tokens(*batch), scope, count=4)


@pytest.mark.parametrize("episode", ["g", "x", ".", "0A1", "01" + "g" * 70, "01" + "A" * 200])
def test_no_row_or_every_row_may_be_masked(episode: str) -> None:
    assert_equals_the_dense_mask(tokens(episode), "tags")


def assert_equals_the_dense_mask(
    rows: Rows, scope: Scope, count: int = 2, key_heads: int = 2, seed: int = 0
) -> None:
    inputs = heads(rows, count, key_heads, seed=seed)
    expected = oracle(*inputs, dense_mask(*rows, scope=scope))
    got = task_decoupled_attention(*inputs, *rows, scope=scope)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed + 1))
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)
    gradients = zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    )
    for ours, theirs in gradients:
        # Values of order 10 at most: sums over up to 200 rows.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-6)


def test_a_masked_query_gives_what_attention_without_the_blocked_keys_gives() -> None:
    rows = tokens("x00xtTgTx11xtTggTx22xtTAAT")
    query, key, value = (each.detach() for each in heads(rows, size=16))
    got = task_decoupled_attention(query, key, value, *rows)
    role, clip, _ = (each[0] for each in rows)
    masked = 0
    for at in range(role.shape[0]):
        kept = torch.arange(role.shape[0]) <= at
        if role[at] == TokenRole.GROUNDING:
            kept &= clip < 1
        if role[at] == TokenRole.ANSWER:
            kept &= clip != 0
        masked += int(kept.sum()) < at + 1
        weights = (query[:, :, at, None] @ key[:, :, kept].mT / 4).softmax(-1)  # 4 = sqrt(16)
        expected = (weights @ value[:, :, kept])[:, :, 0]
        torch.testing.assert_close(got[:, :, at], expected, rtol=0, atol=1e-6)
    assert masked == 4  # ggAA; the first grounding comes before any crop


def test_the_plan_has_the_really_blocked_rows_alone() -> None:
    # Row 0: g at 3 is before any crop; g at 5 and A at 6 are blocked. Row 1: a crop, but no
    # overview that the answer could be kept from.
    plan = decoupled_rows(*tokens("x00g1gA", "xx1xxA."))
    assert plan.index.tolist() == [[5, 6], [0, 0]]
    assert plan.slots.tolist() == [0, 1]
    assert plan.mask.shape == (2, 1, 2, 7)
    assert drawn(plan.mask[:1]) == ["xxxx.x.", "x..xxxx"]
    assert plan.order is None
    assert plan.padding is not None and plan.padding.sum() == 1


def test_the_plan_of_a_batch_without_blocked_rows_is_empty() -> None:
    plan = decoupled_rows(*tokens("x00tg1"))
    assert plan.mask.shape == (1, 1, 0, 6)
    assert plan.padding is None and plan.order is None


def test_left_padding_and_holes_are_ordered_first_to_last() -> None:
    plan = decoupled_rows(*tokens("..x01g", "x01.gA"))
    assert plan.order is not None
    assert plan.order.tolist() == [[2, 3, 4, 5, 0, 1], [0, 1, 2, 4, 5, 3]]
    assert plan.index.tolist() == [[3, 0], [3, 4]]


def test_padding_gives_zeros_and_takes_no_gradient() -> None:
    rows = tokens("x01gA..", "..x01gA")
    inputs = heads(rows)
    output = task_decoupled_attention(*inputs, *rows)
    padding = ~rows[2]
    assert output.transpose(1, 2)[padding].abs().max() == 0
    for gradient in torch.autograd.grad(output.square().sum(), inputs):
        assert gradient.transpose(1, 2)[padding].abs().max() == 0
        assert gradient.transpose(1, 2)[~padding].abs().max() > 0


def test_the_scale_of_the_logits_can_be_set() -> None:
    rows = tokens("x00xg11gA")
    query, key, value = heads(rows)
    got = task_decoupled_attention(query, key, value, *rows, scale=0.5)
    mask = dense_mask(*rows)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.5)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)


def test_bfloat16_is_as_close_as_its_rounding() -> None:
    rows = tokens(*EPISODES[1:3])
    inputs = [each.detach().bfloat16() for each in heads(rows, 4)]
    got = task_decoupled_attention(*inputs, *rows)
    expected = oracle(*inputs, dense_mask(*rows))
    assert got.dtype == torch.bfloat16
    # Values of order 1 to 3 with 8 bits: steps of 1/128 to 1/64.
    torch.testing.assert_close(got, expected, rtol=0, atol=1 / 32)


@given(rows=contexts(), data=st.data())
def test_query_rows_are_rows_of_the_dense_mask(rows: Rows, data: st.DataObject) -> None:
    role, clip, valid = rows
    batch, length = role.shape
    count = data.draw(st.integers(1, 4))
    index = torch.tensor(
        [[data.draw(st.integers(0, length - 1)) for _ in range(count)] for _ in range(batch)]
    )
    expected = dense_mask(*rows).gather(2, index[:, None, :, None].expand(-1, 1, -1, length))
    assert torch.equal(query_mask(role.gather(1, index), index, clip, valid), expected)


def test_a_query_of_a_growing_context_sees_what_it_will_have_seen() -> None:
    role, clip, valid = tokens("x00g11gA")
    whole = dense_mask(role, clip, valid)
    for at in range(role.shape[1]):
        keys = slice(0, at + 1)
        rows = query_mask(role[:, at : at + 1], torch.tensor([[at]]), clip[:, keys], valid[:, keys])
        assert torch.equal(rows, whole[:, :, at : at + 1, keys])


def test_a_turn_can_not_be_masked_while_it_is_written() -> None:
    role, clip, valid = tokens("x")
    with pytest.raises(ConfigError, match="'turn' is for training"):
        query_mask(role, torch.tensor([[0]]), clip, valid, scope="turn")


@pytest.mark.parametrize("index", [-1, 3])
def test_a_query_must_be_among_its_keys(index: int) -> None:
    _, clip, valid = tokens("xxx")
    with pytest.raises(ConfigError, match=r"must lie in \[0, 3\)"):
        query_mask(torch.tensor([[0]]), torch.tensor([[index]]), clip, valid)


def test_queries_are_checked_like_tokens() -> None:
    role, clip, valid = tokens("xxx")
    with pytest.raises(ConfigError, match="int64"):
        query_mask(role, torch.zeros(1, 3, dtype=torch.int32), clip, valid)
    with pytest.raises(ConfigError, match="2 rows for 1"):
        query_mask(role.repeat(2, 1), torch.zeros(2, 3, dtype=torch.int64), clip, valid)
    with pytest.raises(ConfigError, match="of one shape"):
        query_mask(role, torch.zeros(1, 2, dtype=torch.int64), clip, valid)


def test_other_shapes_types_and_values_are_refused() -> None:
    role, clip, valid = tokens("x0gA")
    for function in (dense_mask, decoupled_rows):
        with pytest.raises(ConfigError, match=r"of one shape \[B, L\]"):
            function(role[0], clip[0], valid[0])
        with pytest.raises(ConfigError, match="of one shape"):
            function(role, clip[:, :2], valid)
        with pytest.raises(ConfigError, match="neither of them 0"):
            function(role[:, :0], clip[:, :0], valid[:, :0])
        with pytest.raises(ConfigError, match="clip must be of a signed integer"):
            function(role, clip.float(), valid)
        with pytest.raises(ConfigError, match="role must be of a signed integer"):
            function(role > 0, clip, valid)
        with pytest.raises(ConfigError, match=r"got torch\.uint8"):
            function(role, clip.to(torch.uint8), valid)
        with pytest.raises(ConfigError, match=r"take mask.bool\(\)"):
            function(role, clip, valid.long())
        with pytest.raises(ConfigError, match="valid must be bool"):
            function(role, clip, valid[:, :2])
        with pytest.raises(ConfigError, match="values of TokenRole, 0 to 5"):
            function(role + 4, clip, valid)
        with pytest.raises(ConfigError, match="clip from -2"):
            function(role, clip - 1, valid)
        with pytest.raises(ConfigError, match="got 'think'"):
            function(role, clip, valid, scope="think")  # type: ignore[arg-type]


def test_padding_may_hold_any_role() -> None:
    role, clip, valid = tokens("x0gA")
    valid[0, 3] = False
    role[0, 3], clip[0, 3] = -100, -100
    assert drawn(dense_mask(role, clip, valid, scope="turn")) == ["x...", "xx..", "xxx.", "...."]


def test_heads_that_do_not_fit_are_refused() -> None:
    rows = tokens("x00g1gA")
    query, key, value = (each.detach() for each in heads(rows, 4, 2))
    with pytest.raises(ConfigError, match=r"\[B, H, L, D\]"):
        task_decoupled_attention(query[0], key, value, *rows)
    with pytest.raises(ConfigError, match=r"value \[B, H_kv, L, D_v\]"):
        task_decoupled_attention(query, key, value[:, :1], *rows)
    with pytest.raises(ConfigError, match="the number of key heads divides"):
        task_decoupled_attention(query[:, :3], key, value, *rows)
    with pytest.raises(ConfigError, match="heads of one size"):
        task_decoupled_attention(query[..., :4], key, value, *rows)
    with pytest.raises(ConfigError, match="of one type"):
        task_decoupled_attention(query.bfloat16(), key, value, *rows)
    with pytest.raises(ConfigError, match="1 rows of 7 tokens"):
        task_decoupled_attention(query[:, :, :5], key[:, :, :5], value[:, :, :5], *rows)
    with pytest.raises(ConfigError, match="With a kept key-value cache"):
        task_decoupled_attention(query[:, :, -1:], key, value, *rows)


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_a_probability_lies_between_0_and_1(probability: float) -> None:
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\]"):
        TaskDecoupling(probability=probability)


def test_a_scope_is_one_of_two() -> None:
    with pytest.raises(ConfigError, match="scope must be one of"):
        TaskDecoupling(scope="think")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "generator",
    [np.random.default_rng(0), torch.Generator().manual_seed(0)],
    ids=["numpy", "torch"],
)
def test_about_the_wanted_share_of_batches_gets_a_plan(
    generator: np.random.Generator | torch.Generator,
) -> None:
    rows = tokens("01g")
    never, always = TaskDecoupling(probability=0.0), TaskDecoupling(probability=1.0)
    assert all(never.draw(*rows, generator=generator) is None for _ in range(20))
    assert all(always.draw(*rows, generator=generator) is not None for _ in range(20))
    some = TaskDecoupling()
    plans = [some.draw(*rows, generator=generator) for _ in range(1000)]
    # 1000 draws at 0.1: 100 expected, standard deviation 9.5.
    assert 60 < sum(plan is not None for plan in plans) < 140


def test_a_drawn_plan_has_the_scope_and_the_same_seed_draws_the_same() -> None:
    rows = tokens("01tg")
    plan = TaskDecoupling(scope="turn", probability=1.0).draw(
        *rows, generator=np.random.default_rng(0)
    )
    assert plan is not None and plan.index.tolist() == [[2, 3]]
    half = TaskDecoupling(probability=0.5)
    first, second = (
        [half.draw(*rows, generator=rng) is None for _ in range(20)]
        for rng in (np.random.default_rng(7), np.random.default_rng(7))
    )
    assert first == second and len(set(first)) == 2


def test_a_plan_goes_to_another_device() -> None:
    role = torch.tensor([[TokenRole.TEXT, TokenRole.VISION, TokenRole.ANSWER, TokenRole.TEXT]])
    clip = torch.tensor([[-1, 0, -1, -1]])
    for valid in ([True] * 4, [False, True, True, True], [True, True, True, False]):
        plan = decoupled_rows(role, clip, torch.tensor([valid]), scope="tags")
        moved = plan.to("meta", non_blocking=True)
        for field in dataclasses.fields(plan):
            before, after = getattr(plan, field.name), getattr(moved, field.name)
            assert (before is None) == (after is None)
            assert after is None or (after.is_meta and after.shape == before.shape)
