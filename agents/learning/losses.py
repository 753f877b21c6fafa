"""Losses of learning from episodes: pure functions of tensors [B, L], token by token.

A loss is `(terms * weights).sum()`. The weights are made once, for the whole batch of an update, by
`token_weights`; the terms of a few rows at a time by the other functions. Sums over micro-batches
and processes then give the loss of the whole batch, however it was split. Where processes AVERAGE
their gradients, as DistributedDataParallel does, multiply by their number. The loss of supervised
learning is `-(logprobs * weights).sum()`.

Values and gradients agree with TRL 1.16's `GRPOTrainer` ("dapo", "grpo", "dr_grpo", and the
sequence ratio) to 1e-6, but for the advantages' epsilon: 1e-4 there, 1e-6 here as in Video-o3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from videoseek_env.errors import ConfigError, check_one_of

Normalise = Literal["tokens", "sequences", "constant"]
"""What `token_weights` divides by."""

Ratio = Literal["token", "sequence"]
"""Whether the ratio of the new to the old policy is a token's own or its sequence's."""

_LARGEST_LOG_RATIO = 20.0
"""A ratio of e^20 is far outside any clip; from e^88 on float32 overflows, and its gradient is NaN
even where the clip hides the value."""


@dataclass(frozen=True, slots=True, eq=False)
class PolicyTerms:
    """What `policy_terms` makes of a batch."""

    terms: Tensor
    """To be minimised, [B, L]; 0 where not trained."""
    ratio: Tensor
    """New to old probability, [B, L], without gradients; 1 where not trained."""
    is_clipped: Tensor
    """Whether the clip stopped the gradient, bool [B, L]; False where not trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatistics:
    """How far the policy has moved from the one that wrote the tokens: means over tokens."""

    tokens: int
    """How many the means are over; if there are none, the means are 0."""
    clipped_low: float
    """Share clipped because a bad token became unlikely enough, in [0, 1]."""
    clipped_high: float
    """Share clipped because a good token became likely enough, in [0, 1]."""
    approximate_kl: float
    """KL(old || new) in nats, by the estimator r - 1 - log r, r the token's own ratio."""
    mean_ratio: float
    """Mean of `PolicyTerms.ratio`; about 1 if the old log-probabilities are the policy's."""

    @classmethod
    def pooled(cls, parts: Sequence[PolicyStatistics]) -> Self:
        """The statistics of micro-batches as those of one batch."""
        tokens = sum(part.tokens for part in parts)

        def mean(name: str) -> float:
            return float(sum(getattr(part, name) * part.tokens for part in parts) / max(tokens, 1))

        return cls(
            tokens=tokens,
            clipped_low=mean("clipped_low"),
            clipped_high=mean("clipped_high"),
            approximate_kl=mean("approximate_kl"),
            mean_ratio=mean("mean_ratio"),
        )


def token_weights(
    trained: Tensor,
    *,
    keep: Tensor | None = None,
    normalise: Normalise = "tokens",
    constant: int | None = None,
) -> Tensor:
    """How much the term of each token counts in the loss of the WHOLE batch.

    "tokens": 1 / N, N the trained tokens of the kept rows (DAPO, arXiv 2503.14476, section 3.3; so
    Video-o3). "sequences": 1 / (B n_b), n_b the trained tokens of row b (GRPO, arXiv 2402.03300,
    section 4.1). "constant": 1 / (B constant) (Dr.GRPO, arXiv 2503.20783, section 3.2).

    Rows that are not kept count in B, as TRL has it, so that dropping one does not make the others
    louder; with "tokens" it does, since their tokens are not in N, as in TRL, too.

    >>> token_weights(torch.tensor([[True, False], [True, True]]), normalise="sequences")
    tensor([[0.5000, 0.0000],
            [0.2500, 0.2500]])

    Args:
        trained: Whether the model wrote the token, bool [B, L].
        keep: False for rows whose tokens carry no loss, such as exceeded episodes; bool [B]. By
            default all are kept.
        normalise: See above.
        constant: The longest possible reply in tokens, for "constant" alone; at least 1.

    Returns:
        float32 [B, L], 0 where nothing is learnt from. All 0 if no token is kept.

    Raises:
        ConfigError: If a shape, type or value is none of these.
    """
    check_tokens(trained)
    check_one_of(Normalise, normalise=normalise)
    rows = len(trained)
    kept = trained
    if keep is not None:
        if keep.dtype != torch.bool or keep.shape != trained.shape[:1]:
            raise ConfigError(f"keep must be bool [{rows}], got {keep.dtype} {tuple(keep.shape)}")
        kept = trained & keep[:, None]
    divisor: Tensor | int
    if normalise == "tokens":
        divisor = kept.sum().clamp(min=1)
    elif normalise == "sequences":
        divisor = rows * kept.sum(1, keepdim=True).clamp(min=1)
    else:
        if constant is None or not constant >= 1:
            raise ConfigError(f"normalise 'constant' needs a constant of 1 or more, got {constant}")
        divisor = rows * constant
    return kept.to(torch.float32) / divisor


def policy_terms(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    trained: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    ratio: Ratio = "token",
) -> PolicyTerms:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) of each token.

    ratio "token": rho_t = pi(y_t) / pi_old(y_t). Source: PPO, arXiv 1707.06347, equation 7; two
    clips, DAPO, arXiv 2503.14476, section 3.1.

    ratio "sequence": s = exp(mean over trained t of log pi(y_t) / pi_old(y_t)), and
    rho_t = s pi(y_t) / sg[pi(y_t)], sg stopping the gradient: the value of every token is s, its
    gradient goes through its own probability. Source: GSPO-token, arXiv 2507.18071, section 4.3;
    with one advantage a row and weights by "sequences" it is GSPO, section 4.1, whose clips are
    3e-4 and 4e-4. Rows must be whole: a mean over half a reply is another one.

    Differs from the papers: the logarithm of rho is held within +-20, so that neither it nor its
    gradient overflows.

    Args:
        logprobs: Of the tokens now, with gradients; float32 or float64 [B, L].
        old_logprobs: As they were written, [B, L]; NaN where not trained is fine.
        advantages: [B], or [B, L] for one a token.
        trained: Whether the model wrote the token, bool [B, L].
        clip_low: In (0, 1].
        clip_high: Above 0; infinity for none.
        ratio: See above.

    Returns:
        Terms of the type of `logprobs`. Gradients flow to `logprobs` alone, and what stands on
        tokens that are not trained is never read.

    Raises:
        ConfigError: If a shape, type or value is none of these, or a trained token has no finite
            old log-probability or advantage.
    """
    if advantages.ndim == 1 and advantages.shape == trained.shape[:1]:
        advantages = advantages[:, None].expand(trained.shape)
    check_tokens(trained, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    if not (0 < clip_low <= 1 and clip_high > 0):
        raise ConfigError(
            f"expected clip_low in (0, 1] and clip_high above 0, got {clip_low} and {clip_high}"
        )
    old_logprobs = _where_trained(old_logprobs, trained, "old_logprobs").to(logprobs.dtype)
    advantages = _where_trained(advantages, trained, "advantages").to(logprobs.dtype)
    log_ratio = _log_ratio(logprobs, old_logprobs, trained, ratio)
    rho = log_ratio.clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO).exp()
    low, high = 1 - clip_low, 1 + clip_high
    terms = -torch.minimum(rho * advantages, rho.clamp(low, high) * advantages)
    rho = rho.detach()
    is_clipped = ((rho < low) & (advantages < 0)) | ((rho > high) & (advantages > 0))
    return PolicyTerms(terms, rho, is_clipped)


def value_terms(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float = 0.2
) -> Tensor:
    """0.5 max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2) of each token.

    Source: the code of PPO, described in arXiv 2005.12729, section 3; not in PPO's paper.

    Args:
        values: V now, with gradients; float32 or float64 [B, L].
        old_values: V when the episodes were played, [B, L]; finite, also where nothing is trained.
        returns: R, [B, L], as `generalized_advantages` gives them; finite likewise.
        clip: How far a value may move, above 0, in the units of the returns; infinity for no clip.

    Returns:
        [B, L], of the type of `values`. Gradients flow to `values` alone.

    Raises:
        ConfigError: If a shape, type or value is none of these.
    """
    every = torch.ones(values.shape, dtype=torch.bool, device=values.device)
    check_tokens(every, values=values, old_values=old_values, returns=returns)
    if not clip > 0:
        raise ConfigError(f"clip must be above 0, got {clip}")
    old_values = _where_trained(old_values, every, "old_values").to(values.dtype)
    returns = _where_trained(returns, every, "returns").to(values.dtype)
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())


def kl_terms(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """exp(d) - d - 1, d = log pi_ref - log pi, of each token; never negative.

    On tokens that the policy itself wrote, its mean estimates KL(pi || pi_ref) without bias, while
    its gradient is that of KL(pi_ref || pi). TRL's, with `use_bias_correction_kl` off.

    Source: the estimator k3 of J. Schulman, "Approximating KL divergence", 2020; GRPO,
    arXiv 2402.03300, equation 4. Differs from the paper: d is held within +-20.

    Args:
        logprobs: Of the tokens now, with gradients; float32 or float64 [B, L].
        reference_logprobs: Of the same tokens under the reference, [B, L]; finite, also where
            nothing is trained, as `agents.llm.likelihood.log_probabilities` gives them.

    Returns:
        [B, L], of the type of `logprobs`. Gradients flow to `logprobs` alone.

    Raises:
        ConfigError: If a shape, type or value is none of these.
    """
    every = torch.ones(logprobs.shape, dtype=torch.bool, device=logprobs.device)
    check_tokens(every, logprobs=logprobs, reference_logprobs=reference_logprobs)
    reference = _where_trained(reference_logprobs, every, "reference_logprobs").to(logprobs.dtype)
    difference = (reference - logprobs).clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
    return difference.expm1() - difference


@torch.no_grad()
def policy_statistics(
    terms: PolicyTerms, logprobs: Tensor, old_logprobs: Tensor, weights: Tensor
) -> PolicyStatistics:
    """Means over the tokens whose weight is above 0, each counting the same.

    Args:
        terms: From `policy_terms`.
        logprobs: As given to it, like `old_logprobs`.
        old_logprobs: [B, L].
        weights: From `token_weights`, [B, L].

    Raises:
        ConfigError: If a shape or type is none of these.
    """
    mask = weights > 0
    check_tokens(mask, logprobs=logprobs, old_logprobs=old_logprobs, ratio=terms.ratio)
    log_ratio = (logprobs - old_logprobs)[mask].clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
    ratio, is_clipped = terms.ratio[mask], terms.is_clipped[mask]
    sums = torch.stack(
        [
            (is_clipped & (ratio < 1)).sum(),
            (is_clipped & (ratio > 1)).sum(),
            (log_ratio.expm1() - log_ratio).sum(),
            ratio.sum(),
        ]
    )
    tokens = len(ratio)
    low, high, kl, mean = (sums / max(tokens, 1)).tolist()
    return PolicyStatistics(
        tokens=tokens, clipped_low=low, clipped_high=high, approximate_kl=kl, mean_ratio=mean
    )


def check_tokens(mask: Tensor, **numbers: Tensor) -> None:
    """See that a batch of tokens is one.

    Args:
        mask: bool [B, L], neither of them 0.
        numbers: float32 or float64 of the same shape, by name.

    Raises:
        ConfigError: If a shape or type is none of these.
    """
    if mask.dtype != torch.bool or mask.ndim != 2 or 0 in mask.shape:
        raise ConfigError(
            f"expected a mask bool [B, L], neither of them 0, got {mask.dtype} {tuple(mask.shape)}"
        )
    for name, tensor in numbers.items():
        if tensor.shape != mask.shape:
            raise ConfigError(
                f"{name} must have the shape of the mask, {tuple(mask.shape)}, got "
                f"{tuple(tensor.shape)}"
            )
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ConfigError(
                f"{name} must be float32 or float64, got {tensor.dtype}: coarser types round "
                f"differences of log-probabilities away. Call .float() first"
            )


def _log_ratio(logprobs: Tensor, old_logprobs: Tensor, trained: Tensor, ratio: str) -> Tensor:
    """The logarithm of rho, [B, L]; 0 where not trained."""
    check_one_of(Ratio, ratio=ratio)
    log_ratio = torch.where(trained, logprobs - old_logprobs, 0.0)
    if ratio == "token":
        return log_ratio
    mean = log_ratio.detach().sum(1, keepdim=True) / trained.sum(1, keepdim=True).clamp(min=1)
    # Zero, with the gradient of the token's own log-probability.
    through = log_ratio - log_ratio.detach()
    return torch.where(trained, mean + through, 0.0)


def _where_trained(numbers: Tensor, trained: Tensor, name: str) -> Tensor:
    """Without gradients, and 0 where not trained.

    Raises:
        ConfigError: If a number on a trained token is not finite.
    """
    numbers = torch.where(trained, numbers.detach(), 0.0)
    if not bool(numbers.isfinite().all()):
        raise ConfigError(
            f"{name} must be finite on every token that counts; "
            f"{int((~numbers.isfinite()).sum())} are not"
        )
    return numbers
