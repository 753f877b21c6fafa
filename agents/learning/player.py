"""One step of a learner that plays: episodes, what is learned from them, and how that went."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from accelerate import Accelerator
from torch import nn

from agents.learning.collecting import Collector, CollectorConfig, Experience
from agents.learning.episode_metrics import episode_metrics, speed_metrics
from agents.learning.learner import Update
from agents.llm.decoupling import Scope
from agents.llm.generation import Sampling
from agents.llm.hf_policy import HFPolicy
from agents.llm.model import VisionLanguageModel
from agents.ongoing import MakeSession
from rewards.reward import RewardFunction
from videoseek_env.session import SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache

_CACHE_BYTES = 2**29


class Player:
    """Plays a learner's episodes."""

    def __init__(
        self,
        model: VisionLanguageModel,
        tasks: Sequence[VideoTask],
        config: CollectorConfig,
        *,
        session: SessionConfig,
        reward: RewardFunction,
        accelerator: Accelerator,
        cache: ClipCache | None,
        temperature: float,
        seed: int,
        scope: Scope | None = None,
        make_session: MakeSession = VideoSession,
        teaches: Callable[[Sequence[Experience]], bool] = lambda group: True,
    ) -> None:
        """Prepare to play; arguments as for `GRPOLearner`, `HFPolicy` and `Collector`."""
        self._model, self._accelerator = model, accelerator
        sampling = Sampling.within(session, temperature=temperature)
        self._collector = Collector(
            HFPolicy.factory(model, sampling=sampling, scope=scope),
            tasks,
            config,
            session=model.counting(session),
            reward=reward,
            cache=ClipCache(_CACHE_BYTES) if cache is None else cache,
            make_session=make_session,
            teaches=teaches,
            seed=seed,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )

    def update(
        self, step: int, drawn: int, learn: Callable[[Sequence[Experience]], dict[str, float]]
    ) -> tuple[Update, int]:
        """Play the episodes of a step and learn from them.

        Args:
            step: Its number.
            drawn: How many questions earlier steps have drawn.
            learn: Learns, and returns what to log.

        Returns:
            What came of it, and how many questions have been drawn now.

        Raises:
            NothingPlayedError: If every episode failed.
        """
        started = time.perf_counter()
        self._model.network.eval()
        with self._accelerator.autocast():  # in the precision that it learns in
            collected = self._collector.collect(step, drawn)
        played = time.perf_counter()
        self._model.network.train()
        _stop_dropout(self._model.network)
        learned = learn(collected.experiences)
        self._model.network.eval()  # whoever plays it next need not know that it has learned
        speed = speed_metrics(
            collected,
            rollout_seconds=played - started,
            learning_seconds=time.perf_counter() - played,
        )
        metrics = {**episode_metrics(collected), **learned, **speed}
        return Update(metrics, collected.all_played), drawn + collected.drawn


def _stop_dropout(network: nn.Module) -> None:
    """With dropout, as adapters may have it, another model would learn than the one that played."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
