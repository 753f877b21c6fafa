"""A vision-language model that plays episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from agents.llm.cache import KeyValues
from agents.llm.context import Context
from agents.llm.decoupling import Scope
from agents.llm.generation import Sampling, generate
from agents.llm.model import VisionLanguageModel
from agents.llm.prefill import Row
from videoseek_env.errors import ConfigError
from videoseek_env.session import Observation
from videoseek_env.video.clip import Clip


@dataclass(slots=True, eq=False)
class Role:
    """What a model reads and writes in one role."""

    row: Row
    clips: list[Clip] = field(default_factory=list)
    """The frames of the context's clips, in order."""

    @property
    def context(self) -> Context:
        """The tokens so far."""
        return self.row.context


class HFPolicy:
    """One episode of a Qwen2.5-VL or Qwen3-VL model, loaded by transformers.

    Make one per episode from a shared model; `rollout` asks many of them in one batch. What the
    model read and wrote, token by token, is in `context`. An observation that has a system prompt
    begins a new role with an empty context: the decoupled baseline has two, most episodes one.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        *,
        sampling: Sampling | None = None,
        scope: Scope | None = None,
    ) -> None:
        """Begin with an empty context.

        Args:
            model: Shared by all episodes.
            sampling: How replies are drawn; by default from the whole distribution.
            scope: "tags" lets tokens inside tags attend as task-decoupled masking has it.

        Raises:
            ConfigError: On scope "turn", which can't be known while a turn is written.
        """
        if scope not in (None, "tags"):
            raise ConfigError(f'a policy plays with scope "tags" or None, got {scope!r}')
        self.model = model
        self.sampling = sampling or Sampling()
        self.scope: Scope | None = scope
        self.roles = [Role(Row(Context()))]
        """What a learner reads again; the last one is being played."""

    @classmethod
    def factory(
        cls,
        model: VisionLanguageModel,
        *,
        sampling: Sampling | None = None,
        scope: Scope | None = None,
    ) -> Callable[[], Self]:
        """What `rollout` takes: makes one policy per episode, all of one model."""
        return lambda: cls(model, sampling=sampling, scope=scope)

    @property
    def context(self) -> Context:
        """The tokens so far of the role that is being played."""
        return self.roles[-1].context

    def reset(self, *, seed: int | None = None) -> None:
        """Begin an episode."""
        self.roles = [Role(Row(Context(), np.random.default_rng(seed)))]

    def act(self, observation: Observation) -> str:
        """The model's reply."""
        return self.act_together([self], [observation])[0]

    def release(self) -> None:
        """Let go of keys and values, which may be those of a whole batch: the episode is over."""
        for role in self.roles:
            role.row.known = KeyValues.empty()

    def act_together(
        self, policies: Sequence[Self], observations: Sequence[Observation]
    ) -> list[str]:
        """One reply of each policy, in one batch.

        On an error no context has changed, so that each policy may be asked alone.

        Args:
            policies: Of this policy's model, sampling and scope.
            observations: One each.

        Raises:
            ConfigError: If the policies differ in more than their episodes, or as `generate` does.
        """
        shared = {(id(policy.model), policy.sampling, policy.scope) for policy in policies}
        if len(shared) > 1:
            raise ConfigError("policies that act together share model, sampling and scope")
        roles = [policy._role(seen) for policy, seen in zip(policies, observations, strict=True)]
        rows = [role.row for role in roles]
        before = [(row.context.mark(), row.known, row.rng.bit_generator.state) for row in rows]
        try:
            for row, observation in zip(rows, observations, strict=True):
                self.model.builder.observe(row.context, observation)
            clips = [[] if seen.clip is None else [seen.clip] for seen in observations]
            replies = generate(self.model, rows, clips, self.sampling, scope=self.scope)
        except Exception:
            for row, (mark, known, state) in zip(rows, before, strict=True):
                row.context.rollback(mark)
                row.known, row.rng.bit_generator.state = known, state
            raise
        for policy, role, new in zip(policies, roles, clips, strict=True):
            role.clips += new
            if role is not policy.roles[-1]:
                policy.roles.append(role)
        return replies

    def _role(self, seen: Observation) -> Role:
        """Whose observation it is: the last role's, or a new one's, which is not kept yet."""
        role = self.roles[-1]
        return Role(Row(Context(), role.row.rng)) if seen.system and len(role.context) else role
