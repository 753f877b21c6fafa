"""How a policy learns from groups of episodes, and what the published variants set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from agents.learning.advantages import Scale, check_options
from agents.learning.collecting import CollectorConfig
from agents.learning.losses import Normalise, Ratio
from agents.learning.optimiser import OptimiserConfig
from rewards.credit import CoverageShaping
from videoseek_env.errors import ConfigError, check_counts, check_one_of, check_seed


def _variant(
    normalise: Normalise, scale: Scale, ratio: Ratio, *, clip: tuple[float, float]
) -> Mapping[str, Any]:
    low, high = clip
    fields = {"normalise": normalise, "scale": scale, "ratio": ratio}
    return MappingProxyType({**fields, "clip_low": low, "clip_high": high})


VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "dapo": _variant("tokens", "std", "token", clip=(0.2, 0.3)),
        "grpo": _variant("sequences", "std", "token", clip=(0.2, 0.2)),
        "dr_grpo": _variant("constant", "none", "token", clip=(0.2, 0.2)),
        "gspo": _variant("sequences", "std", "sequence", clip=(3e-4, 4e-4)),
    }
)
"""What each published variant sets in `GRPOConfig`; the defaults are DAPO's, which Video-o3 takes
with an upper clip of 0.3 in place of 0.28.

Source: DAPO, arXiv 2503.14476; GRPO, 2402.03300; Dr.GRPO, 2503.20783; GSPO, 2507.18071, whose
clipping is that narrow because a sequence's ratio is a mean.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPOConfig:
    """How a policy learns from groups of episodes.

    Raises:
        ConfigError: If a number is below its least value.
    """

    steps: int = 100
    """Updates in all."""
    collector: CollectorConfig = field(default_factory=CollectorConfig)
    """Episodes of a step."""
    drop_uninformative: bool = True
    """Whether groups without a difference are replaced by fresh ones."""
    tolerance: float = 1e-4
    """A group is without a difference if the standard deviation of its rewards is below this."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    clip_low: float = 0.2
    """Ratios below 1 - clip_low gain nothing further."""
    clip_high: float = 0.3
    """Ratios above 1 + clip_high gain nothing further."""
    normalise: Normalise = "tokens"
    """Mean over tokens, over sequences of their means, or a sum over a constant."""
    scale: Scale = "std"
    """Whether advantages are divided by their group's standard deviation."""
    ratio: Ratio = "token"
    """Importance ratios of tokens, or one for each sequence."""
    minibatches: int = 1
    """Optimiser steps on one batch of episodes; groups stay together. With one, the model is still
    the one that played: ratios are 1, and nothing is clipped."""
    temperature: float = 1.0
    """Of sampling, and of the likelihood that is trained."""
    shaping: CoverageShaping | None = None
    """Pays turns for what they have shown. Each turn is then credited with what came after it; else
    every turn with the whole episode."""
    task_decoupling: bool = False
    """Play and learn with task-decoupled attention inside tags."""
    share_prompts: bool = True
    """Read the prompt of a group once."""
    max_tokens: int = 16_384
    """Tokens of one forward and backward, which bounds memory; see `micro_batches`."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "steps", "minibatches", "max_tokens")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")
        if not (0 < self.clip_low <= 1 and self.clip_high > 0):
            raise ConfigError(
                f"expected clip_low in (0, 1] and clip_high above 0, got {self.clip_low} and "
                f"{self.clip_high}"
            )
        if self.collector.group_size < 2:
            raise ConfigError(
                "an episode is compared with its group: group_size must be at least 2"
            )
        if self.shaping is not None and self.shaping.gamma != 1:
            raise ConfigError(
                f"turns are not discounted: shaping needs gamma 1, got {self.shaping.gamma}"
            )
        check_seed(self.seed)
        check_options(self.scale, self.tolerance)
        check_one_of(Normalise, normalise=self.normalise)
        check_one_of(Ratio, ratio=self.ratio)

    def as_variant(self, name: str) -> GRPOConfig:
        """The same settings with a published variant's.

        Raises:
            ConfigError: If no variant has this name.
        """
        if name not in VARIANTS:
            raise ConfigError(f"variant must be one of {', '.join(VARIANTS)}, got {name!r}")
        return replace(self, **VARIANTS[name])
