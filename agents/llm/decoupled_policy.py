"""A model that plays the decoupled baseline: two roles, each in a context of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from agents.llm.context import Context
from agents.llm.hf_policy import HFPolicy
from agents.llm.prefill import Row
from videoseek_env.session import Observation


class DecoupledPolicy(HFPolicy):
    """Forgets everything when an observation comes with a system prompt: a new role begins.

    Play it in sessions that are `envs.decoupled.DecoupledSession`s. Afterwards `context` and
    `clips` are those of the last role.
    """

    def act_together(
        self, policies: Sequence[Self], observations: Sequence[Observation]
    ) -> list[str]:
        """One reply of each policy, in one batch; errors as in `HFPolicy.act_together`."""
        for policy, seen in zip(policies, observations, strict=True):
            if seen.system and len(policy.context):
                policy._row = Row(Context(), policy._row.rng)
                policy._clips = []
        return super().act_together(policies, observations)
