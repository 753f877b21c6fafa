"""The last stages: everything learns from demonstrations in real videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agents.learning.from_nothing.episodes import Demonstrations, real_sight
from agents.learning.from_nothing.examples import Example, Stage
from agents.learning.from_nothing.optimise import Log, optimise
from agents.learning.from_nothing.ways import Way
from agents.llm.decoupling import TaskDecoupling
from agents.llm.model import VisionLanguageModel
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache, open_video

SLIP_PROBABILITY: Final = 0.4
"""How often a demonstrated crop is off, so that it is learned what to do then."""
LEARNING_RATE: Final = 1.5e-3
_CACHE_BYTES: Final = 2**30


def demonstrate(
    model: VisionLanguageModel, tasks: Sequence[VideoTask], *, way: Way
) -> list[Example]:
    """Play every task once, by its truth.

    Args:
        model: Whose tokens.
        tasks: Of the needle set, with their videos; a task's place is the seed of its slips.
        way: How they are played.

    Raises:
        ConfigError: As `Stage.demonstrate`.
        VideoDecodeError: If a video can't be decoded.
    """
    stage = Stage(model, cache=ClipCache(_CACHE_BYTES), slip_probability=SLIP_PROBABILITY, way=way)
    examples: list[Example] = []
    for seed, task in enumerate(tasks):
        reader = open_video(task.video)
        try:
            examples += stage.demonstrate(task, reader, seed=seed)
        finally:
            reader.close()
    return examples


def learn_to_play(
    model: VisionLanguageModel,
    examples: Sequence[Example],
    *,
    steps: int,
    batch_tokens: int,
    seed: int,
    log: Log,
    learning_rate: float = LEARNING_RATE,
    decoupling: TaskDecoupling | None = None,
) -> None:
    """Train all of a model on demonstrations.

    Args:
        model: Changed in place.
        examples: With frames.
        steps: Updates.
        batch_tokens: Of an update, padding included.
        seed: Of the order.
        log: Gets losses and accuracies by class of token.
        learning_rate: At its highest.
        decoupling: How often to train with task-decoupled attention; by default never.
    """
    stage = Demonstrations(
        model, examples, sight=real_sight, tokens=batch_tokens, seed=seed, decoupling=decoupling
    )
    weights = model.network.parameters()
    optimise(weights, stage.loss, steps=steps, learning_rate=learning_rate, log=log)
