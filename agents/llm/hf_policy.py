"""A vision-language model that plays episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from agents.llm.context import Context
from agents.llm.decoupling import Scope
from agents.llm.generation import Sampling, generate
from agents.llm.model import VisionLanguageModel
from agents.llm.prefill import Row
from videoseek_env.errors import ConfigError
from videoseek_env.session import Observation
from videoseek_env.video.clip import Clip


class HFPolicy:
    """One episode of a Qwen2.5-VL or Qwen3-VL model, loaded by transformers.

    Make one per episode from a shared model; `rollout` asks many of them in one batch. What the
    model read and wrote, token by token, is in `context`.
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
        self._row = Row(Context())
        self._clips: list[Clip] = []

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
        """The tokens of the episode so far."""
        return self._row.context

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The frames of the context's clips, in order: what a learner reads again."""
        return tuple(self._clips)

    def reset(self, *, seed: int | None = None) -> None:
        """Begin an episode."""
        self._row = Row(Context(), np.random.default_rng(seed))
        self._clips = []

    def act(self, observation: Observation) -> str:
        """The model's reply."""
        return self.act_together([self], [observation])[0]

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
        rows = [policy._row for policy in policies]
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
        for policy, new in zip(policies, clips, strict=True):
            policy._clips += new
        return replies
