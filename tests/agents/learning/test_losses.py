import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from agents.learning.losses import (
    Normalise,
    PolicyStatistics,
    Ratio,
    kl_terms,
    policy_statistics,
    policy_terms,
    token_weights,
    value_terms,
)
from videoseek_env.errors import ConfigError

RATIOS: list[Ratio] = ["token", "sequence"]
NORMALISE: list[Normalise] = ["tokens", "sequences", "constant"]
each_ratio = pytest.mark.parametrize("ratio", RATIOS)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def mask(*letters: str) -> Tensor:
    """`x` is trained, `.` is not."""
    return torch.tensor([[letter == "x" for letter in row] for row in letters])


def logs(*values: list[float]) -> Tensor:
    return rows(*values).log()


# 3 rows with 2, 3 and 1 trained tokens.
TRAINED = mask("xx..", ".xxx", "...x")


def test_each_token_counts_the_same_by_tokens() -> None:
    assert torch.equal(token_weights(TRAINED), TRAINED.float() / 6)
    # Without row 1 there are 3 tokens.
    weights = token_weights(TRAINED, keep=torch.tensor([True, False, True]))
    assert torch.equal(weights, mask("xx..", "....", "...x").float() / 3)


def test_each_row_counts_the_same_by_sequences() -> None:
    # 1/(3*2), 1/(3*3), 1/(3*1); a row that is dropped still counts among the 3.
    each = torch.tensor([1 / 6, 1 / 9, 1 / 3])[:, None]
    torch.testing.assert_close(token_weights(TRAINED, normalise="sequences"), TRAINED * each)
    weights = token_weights(TRAINED, keep=torch.tensor([True, False, True]), normalise="sequences")
    torch.testing.assert_close(weights, mask("xx..", "....", "...x") * each)


def test_each_token_counts_the_same_whatever_the_batch_by_a_constant() -> None:
    # 1 / (3 rows * 10 tokens), with a dropped row too.
    weights = token_weights(TRAINED, normalise="constant", constant=10)
    torch.testing.assert_close(weights, TRAINED / 30)
    weights = token_weights(
        TRAINED, keep=torch.tensor([True, False, True]), normalise="constant", constant=10
    )
    torch.testing.assert_close(weights, mask("xx..", "....", "...x") / 30)


@pytest.mark.parametrize("normalise", NORMALISE)
def test_where_nothing_is_kept_nothing_is_learnt(normalise: Normalise) -> None:
    nothing = torch.zeros(3, dtype=torch.bool)
    for options in ({"keep": nothing}, {"trained": torch.zeros_like(TRAINED)}):
        arguments: dict[str, Any] = {"trained": TRAINED, "constant": 5, **options}
        trained = arguments.pop("trained")
        weights = token_weights(trained, normalise=normalise, **arguments)
        assert weights.dtype == torch.float32 and not weights.any()


def test_weights_of_another_shape_or_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a mask bool \[B, L\].*float32 \(3, 4\)"):
        token_weights(TRAINED.float())
    with pytest.raises(ConfigError, match="neither of them 0"):
        token_weights(torch.zeros(0, 4, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"keep must be bool \[3\], got torch.int64"):
        token_weights(TRAINED, keep=torch.ones(3, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"keep must be bool \[3\]"):
        token_weights(TRAINED, keep=TRAINED)
    for constant in (None, 0, -1):
        with pytest.raises(ConfigError, match="needs a constant of 1 or more"):
            token_weights(TRAINED, normalise="constant", constant=constant)
    with pytest.raises(ConfigError, match="normalise must be one of"):
        token_weights(TRAINED, normalise="mean")  # type: ignore[arg-type]


def test_the_clip_stops_what_has_gone_far_enough() -> None:
    # Ratios 0.5, 1, 2, between 0.8 and 1.3. A = 1: -min(0.5, 0.8), -1, -min(2, 1.3).
    # A = -1: max(0.5, 0.8), 1, max(2, 1.3).
    old, new = logs([0.4] * 3, [0.4] * 3), logs([0.2, 0.4, 0.8], [0.2, 0.4, 0.8])
    got = policy_terms(new.requires_grad_(), old, torch.tensor([1.0, -1.0]), mask("xxx", "xxx"))
    torch.testing.assert_close(got.terms, rows([-0.5, -1, -1.3], [0.8, 1, 2]))
    torch.testing.assert_close(got.ratio, rows([0.5, 1, 2], [0.5, 1, 2]))
    assert got.is_clipped.tolist() == [[False, False, True], [True, False, False]]
    # The gradient of rho is rho; where clipped there is none.
    (gradient,) = torch.autograd.grad(got.terms.sum(), new)
    torch.testing.assert_close(gradient, rows([-0.5, -1, 0], [0, 1, 2]))
    assert not got.ratio.requires_grad


def test_a_token_may_have_an_advantage_of_its_own() -> None:
    got = policy_terms(logs([0.4, 0.4]), logs([0.4, 0.4]), rows([3, -2]), mask("xx"))
    assert got.terms.tolist() == [[-3, 2]]


def test_the_ratio_of_a_sequence_is_the_geometric_mean_over_its_trained_tokens() -> None:
    # Ratios 4 and 1 beside an untrained 100: sqrt(4 * 1) = 2, clipped at 1.3 for A = 1. Row 1:
    # 0.5 and 2: 1.
    trained = mask("x.x", "xx.")
    old = logs([0.1, 0.001, 0.3], [0.4, 0.2, 0.3])
    new = logs([0.4, 0.1, 0.3], [0.2, 0.4, 0.9]).requires_grad_()
    got = policy_terms(new, old, torch.tensor([-1.0, 1.0]), trained, ratio="sequence")
    torch.testing.assert_close(got.ratio, rows([2, 1, 2], [1, 1, 1]))
    torch.testing.assert_close(got.terms, rows([2, 0, 2], [-1, -1, 0]))
    (gradient,) = torch.autograd.grad(got.terms.sum(), new)
    # s A for each trained token, through its own probability.
    torch.testing.assert_close(gradient, rows([2, 0, 2], [-1, -1, 0]))
    clipped = policy_terms(new, old, torch.tensor([1.0, 1.0]), trained, ratio="sequence")
    assert clipped.is_clipped.tolist() == [[True, False, True], [False] * 3]
    torch.testing.assert_close(clipped.terms, rows([-1.3, 0, -1.3], [-1, -1, 0]))


def test_a_row_without_a_trained_token_has_no_terms() -> None:
    nan = math.nan
    got = policy_terms(
        rows([nan, nan]), rows([nan, nan]), torch.tensor([1.0]), mask(".."), ratio="sequence"
    )
    assert got.terms.tolist() == [[0, 0]] and got.ratio.tolist() == [[1, 1]]


def random_batch(seed: int, *, batch: int = 4, length: int = 6) -> dict[str, Tensor]:
    """Log-probabilities now and then, an advantage a row, about two of three tokens trained."""
    generator = torch.Generator().manual_seed(seed)
    shape = {"size": (batch, length), "generator": generator, "dtype": torch.float64}
    old = -3 * torch.rand(**shape)
    return {
        "logprobs": old + 0.3 * torch.randn(**shape),
        "old_logprobs": old,
        "advantages": torch.randn(batch, generator=generator, dtype=torch.float64),
        "trained": torch.rand(**shape) < 0.7,
    }


def loss_and_gradient(
    data: dict[str, Tensor], weights: Tensor, ratio: Ratio
) -> tuple[float, Tensor]:
    logprobs = data["logprobs"].clone().requires_grad_()
    loss = (policy_terms(**(data | {"logprobs": logprobs}), ratio=ratio).terms * weights).sum()
    return loss.item(), torch.autograd.grad(loss, logprobs)[0]


@given(
    st.integers(0, 999), st.sampled_from(NORMALISE), st.sampled_from(RATIOS),
    st.lists(st.booleans(), min_size=4, max_size=4), st.sampled_from([1, 2, 3]),
)  # fmt: skip
def test_a_loss_is_the_sum_over_any_micro_batches(
    seed: int, normalise: Normalise, ratio: Ratio, keep: list[bool], size: int
) -> None:
    data = random_batch(seed)
    weights = token_weights(
        data["trained"], keep=torch.tensor(keep), normalise=normalise, constant=7
    )
    whole, gradient = loss_and_gradient(data, weights, ratio)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    parts = [
        loss_and_gradient({name: each[at] for name, each in data.items()}, weights[at], ratio)
        for at in order.split(size)
    ]
    assert sum(loss for loss, _ in parts) == pytest.approx(whole, abs=1e-9)
    torch.testing.assert_close(torch.cat([part for _, part in parts]), gradient[order])


@given(st.integers(0, 999), st.sampled_from(RATIOS), st.sampled_from([math.nan, math.inf, -7.0]))
def test_what_is_not_trained_is_never_read(seed: int, ratio: Ratio, junk: float) -> None:
    data = random_batch(seed)
    data["advantages"] = data["advantages"][:, None].expand(4, 6)
    weights = token_weights(data["trained"])
    littered = {
        name: each if name == "trained" else each.masked_fill(~data["trained"], junk)
        for name, each in data.items()
    }
    expected, gradient = loss_and_gradient(data, weights, ratio)
    loss, same = loss_and_gradient(littered, weights, ratio)
    assert loss == expected
    assert torch.equal(same, gradient) and not same[~data["trained"]].any()
    assert policy_statistics(
        policy_terms(**littered, ratio=ratio),
        littered["logprobs"], littered["old_logprobs"], weights,
    ) == policy_statistics(
        policy_terms(**data, ratio=ratio), data["logprobs"], data["old_logprobs"], weights
    )  # fmt: skip


@each_ratio
@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_finite_differences(ratio: Ratio, seed: int) -> None:
    data = random_batch(seed)
    # By sequences, since the gradient of GSPO is that of a row's mean and not of each term.
    weights = token_weights(data["trained"], normalise="sequences").double()

    def loss(logprobs: Tensor) -> Tensor:
        terms = policy_terms(**(data | {"logprobs": logprobs}), ratio=ratio).terms
        return (terms * weights).sum(1)

    assert torch.autograd.gradcheck(loss, data["logprobs"].requires_grad_())


@each_ratio
def test_at_the_old_policy_the_gradient_is_the_policy_gradient(ratio: Ratio) -> None:
    data = random_batch(3)
    data["old_logprobs"] = data["logprobs"]
    weights = token_weights(data["trained"])
    _, gradient = loss_and_gradient(data, weights, ratio)
    torch.testing.assert_close(gradient, -data["advantages"][:, None] * weights.double())


@each_ratio
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("gap", [200.0, -200.0])
def test_no_ratio_overflows(ratio: Ratio, advantage: float, gap: float) -> None:
    # e^200 is beyond float32: unheld, the gradient of a clipped token would be 0 * inf.
    logprobs, old = torch.tensor([[-300.0 + gap]], requires_grad=True), torch.tensor([[-300.0]])
    got = policy_terms(logprobs, old, torch.tensor([advantage]), mask("x"), ratio=ratio)
    got.terms.sum().backward()
    assert got.terms.isfinite().all() and logprobs.grad is not None
    assert logprobs.grad.tolist() == [[0]]
    # Held at +-20: r - 1 - log r with r = e^+-20.
    held = math.copysign(20, gap)
    statistics = policy_statistics(got, logprobs, old, torch.ones(1, 1))
    assert statistics.approximate_kl == pytest.approx(math.exp(held) - 1 - held, rel=1e-5)
    assert statistics.mean_ratio == pytest.approx(math.exp(held), rel=1e-5)


def test_no_gradient_reaches_the_old_policy_or_the_advantages() -> None:
    data = random_batch(0)
    for name in ("logprobs", "old_logprobs", "advantages"):
        data[name].requires_grad_()
    policy_terms(**data).terms.sum().backward()
    assert data["logprobs"].grad is not None
    assert data["old_logprobs"].grad is None and data["advantages"].grad is None


def test_types_may_differ_and_the_new_log_probabilities_decide() -> None:
    data = random_batch(0)
    single = data | {"logprobs": data["logprobs"].float()}
    assert policy_terms(**single).terms.dtype == torch.float32
    exact = policy_terms(**data).terms
    torch.testing.assert_close(policy_terms(**single).terms, exact.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"logprobs": torch.zeros(4)}, "logprobs must have the shape of the mask"),
        ({"old_logprobs": torch.zeros(4, 5)}, r"old_logprobs .*\(4, 6\), got \(4, 5\)"),
        ({"advantages": torch.zeros(6)}, "advantages must have the shape of the mask"),
        ({"advantages": torch.zeros(4, 1)}, "advantages must have the shape of the mask"),
        ({"logprobs": torch.zeros(4, 6).bfloat16()}, "float32 or float64, got torch.bfloat16"),
        ({"trained": torch.ones(4, 6)}, "expected a mask bool"),
        ({"old_logprobs": torch.full((4, 6), math.nan)}, "old_logprobs must be finite on every"),
        ({"old_logprobs": torch.full((4, 6), -math.inf)}, "24 are not"),
        ({"advantages": torch.full((4,), math.nan)}, "advantages must be finite"),
        ({"clip_low": 0.0}, "clip_low in"),
        ({"clip_low": 1.5}, "clip_low in"),
        ({"clip_high": math.nan}, "clip_high above 0"),
        ({"ratio": "word"}, "ratio must be one of"),
    ],
)
def test_a_policy_loss_of_anything_else_is_refused(change: dict[str, Any], complaint: str) -> None:
    data: dict[str, Any] = random_batch(0)
    data["trained"] = torch.ones(4, 6, dtype=torch.bool)
    with pytest.raises(ConfigError, match=complaint):
        policy_terms(**(data | change))


def test_a_value_is_judged_by_the_worse_of_itself_and_its_clipped_self() -> None:
    # V_old = 1, clip 0.2, R = 2. V = 1.5: 0.5 * max(0.25, 0.64). V = 0.5: 0.5 * max(2.25, 1.44).
    # V = 1.1: 0.5 * 0.81, the same clipped or not.
    values = rows([1.5, 0.5, 1.1]).requires_grad_()
    terms = value_terms(values, rows([1, 1, 1]), rows([2, 2, 2]))
    torch.testing.assert_close(terms, rows([0.32, 1.125, 0.405]))
    (gradient,) = torch.autograd.grad(terms.sum(), values)
    # V - R where it is free; 0 where it has moved far enough towards R.
    torch.testing.assert_close(gradient, rows([0, -1.5, -0.9]))
    free = value_terms(values, rows([1, 1, 1]), rows([2, 2, 2]), clip=math.inf)
    torch.testing.assert_close(free, rows([0.125, 1.125, 0.405]))


def test_value_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    values, old, returns = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda now: value_terms(now, old, returns), values)


def test_a_value_loss_of_anything_else_is_refused() -> None:
    zeros = torch.zeros(2, 3)
    with pytest.raises(ConfigError, match="returns must have the shape"):
        value_terms(zeros, zeros, torch.zeros(2))
    with pytest.raises(ConfigError, match="expected a mask"):
        value_terms(torch.zeros(3), torch.zeros(3), torch.zeros(3))
    with pytest.raises(ConfigError, match="values must be float32 or float64"):
        value_terms(zeros.half(), zeros, zeros)
    for name, arguments in {
        "old_values": (zeros, zeros / 0, zeros),
        "returns": (zeros, zeros, zeros / 0),
    }.items():
        with pytest.raises(ConfigError, match=f"{name} must be finite on every token"):
            value_terms(*arguments)
    for clip in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="clip must be above 0"):
            value_terms(zeros, zeros, zeros, clip=clip)


POLICY, REFERENCE = [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]


def test_the_mean_of_the_kl_terms_is_the_kl_divergence() -> None:
    terms = kl_terms(logs(POLICY), logs(REFERENCE))
    assert (terms >= 0).all()
    mean = sum(p * term for p, term in zip(POLICY, terms[0].tolist(), strict=True))
    exact = sum(p * math.log(p / r) for p, r in zip(POLICY, REFERENCE, strict=True))
    assert mean == pytest.approx(exact, abs=1e-12)
    assert kl_terms(logs(POLICY), logs(POLICY)).tolist() == [[0, 0, 0]]


def test_the_gradient_of_the_kl_terms_is_that_of_the_reverse_divergence() -> None:
    logits = logs(POLICY).requires_grad_()
    now = logits.log_softmax(-1)
    sampled = (torch.tensor(POLICY) * kl_terms(now, logs(REFERENCE))).sum()
    (gradient,) = torch.autograd.grad(sampled, logits)
    # d KL(ref || pi) / d logits = pi - ref.
    torch.testing.assert_close(gradient, rows(POLICY) - rows(REFERENCE), atol=1e-6, rtol=0)


@pytest.mark.parametrize("gap", [300.0, -300.0])
def test_no_kl_term_overflows(gap: float) -> None:
    logprobs = torch.tensor([[-400.0]], requires_grad=True)
    terms = kl_terms(logprobs, torch.tensor([[-400.0 + gap]]))
    terms.sum().backward()
    assert terms.isfinite().all() and logprobs.grad is not None and logprobs.grad.isfinite().all()


def test_a_kl_of_anything_else_is_refused() -> None:
    with pytest.raises(ConfigError, match="reference_logprobs must have the shape"):
        kl_terms(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="reference_logprobs must be finite"):
        kl_terms(torch.zeros(2, 3), torch.full((2, 3), math.nan))


def test_statistics_are_means_over_the_tokens_that_count() -> None:
    # Ratios 0.5, 0.5, 2, 1.25 count, 100 does not. A = -1: both 0.5 are clipped low. A = 1: 2 is
    # clipped high. KL terms r - 1 - log r: twice -0.5 + log 2, 1 - log 2, 0.25 - log 1.25.
    old, new = logs([0.4, 0.4, 0.001], [0.4, 0.4, 0.4]), logs([0.2, 0.2, 0.1], [0.8, 0.5, 0.4])
    trained = mask("xx.", "xx.")
    terms = policy_terms(new, old, torch.tensor([-1.0, 1.0]), trained)
    got = policy_statistics(terms, new, old, token_weights(trained))
    assert (got.tokens, got.clipped_low, got.clipped_high) == (4, 0.5, 0.25)
    assert got.approximate_kl == pytest.approx((math.log(2 / 1.25) + 0.25) / 4)
    assert got.mean_ratio == pytest.approx(4.25 / 4)
    assert all(type(getattr(got, name)) is float for name in ("clipped_low", "mean_ratio"))


@given(st.integers(0, 999), st.integers(1, 3), st.sampled_from(RATIOS))
def test_statistics_of_micro_batches_pool_to_those_of_the_batch(
    seed: int, size: int, ratio: Ratio
) -> None:
    data = random_batch(seed)
    keep = torch.tensor([True, True, False, True])
    weights = token_weights(data["trained"], keep=keep)

    def statistics(at: slice | Tensor) -> PolicyStatistics:
        part = {name: each[at] for name, each in data.items()}
        terms = policy_terms(**part, ratio=ratio)
        return policy_statistics(terms, part["logprobs"], part["old_logprobs"], weights[at])

    whole = statistics(slice(None))
    pooled = PolicyStatistics.pooled([statistics(at) for at in torch.arange(4).split(size)])
    for name in PolicyStatistics.__dataclass_fields__:
        assert getattr(pooled, name) == pytest.approx(getattr(whole, name), abs=1e-12)


def test_statistics_of_no_token_are_zero() -> None:
    data = random_batch(0)
    terms = policy_terms(**data)
    nothing = torch.zeros(4, 6)
    got = policy_statistics(terms, data["logprobs"], data["old_logprobs"], nothing)
    assert got == PolicyStatistics(
        tokens=0, clipped_low=0, clipped_high=0, approximate_kl=0, mean_ratio=0
    )
    assert PolicyStatistics.pooled([]) == got


def test_statistics_of_another_shape_are_refused() -> None:
    data = random_batch(0)
    terms = policy_terms(**data)
    with pytest.raises(ConfigError, match="must have the shape of the mask"):
        policy_statistics(terms, data["logprobs"], data["old_logprobs"], torch.ones(4, 5))
