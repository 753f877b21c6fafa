"""What a stage learns from: a demonstration as tokens, with what each visual token shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from agents.learning.from_nothing.drills import Piece, drill
from agents.learning.from_nothing.ways import NATIVE, Way
from agents.learning.needle_truth import describe_pairs
from agents.llm.context import Context, TokenRole
from agents.llm.model import VisionLanguageModel
from agents.llm.vocabulary import Vocabulary
from agents.ongoing import Session
from videoseek_env.errors import ConfigError
from videoseek_env.session import Observation
from videoseek_env.task import VideoTask
from videoseek_env.video.cache import ClipCache
from videoseek_env.video.reader import VideoReader

MOST_WORDS = 3
"""Tokens by which a pair of frames is described, at most: colour, kind, letter."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One role of a demonstration, or one drill."""

    tokens: npt.NDArray[np.void]
    """[L] of `agents.llm.context.TOKEN`. Not trained on are slips, and what a drill asks for."""
    words: npt.NDArray[np.int64]
    """What each visual token shows, as ids of words, [V, 3]; -1 where there are fewer."""
    frames: tuple[npt.NDArray[np.uint8], ...]
    """Of each clip, [N, H, W, 3], shared with other examples; N is 0 in imagined episodes."""


class Stage:
    """Where episodes are played to become examples."""

    def __init__(
        self,
        model: VisionLanguageModel,
        *,
        cache: ClipCache,
        slip_probability: float,
        way: Way = NATIVE,
    ) -> None:
        """Prepare.

        Args:
            model: Whose tokens.
            cache: Where clips come from.
            slip_probability: As for `Demonstrator`.
            way: How tasks are played.
        """
        self._model, self._cache, self._way = model, cache, way
        self._rules = model.counting(way.rules)
        self._demonstrator = way.demonstrator(slip_probability=slip_probability)

    def demonstrate(self, task: VideoTask, reader: VideoReader, *, seed: int) -> list[Example]:
        """Play a task by its truth, in a real session.

        Args:
            task: Of the needle set.
            reader: Its video.
            seed: Of the demonstrator's slips.

        Returns:
            One example for each role that is played.

        Raises:
            ConfigError: If a pair of frames is more than one visual token, or the budget cuts the
                demonstration off.
        """
        episode = self._begin(task, reader, seed)
        roles: list[_Recording] = []
        observation: Observation | None = episode.start()
        while observation is not None and episode.end_reason is None:
            if observation.system:
                roles.append(_Recording(self._model, task))
            roles[-1].observe(observation)
            reply = self._demonstrator.act(observation)
            slip = self._demonstrator.slip
            roles[-1].reply([Piece(reply.removesuffix(slip), True), Piece(slip, False)])
            observation = episode.reply(reply)
        if episode.trajectory.answer is None:
            raise ConfigError(f"task {task.id!r}: the demonstration ended as {episode.end_reason}")
        return [role.example() for role in roles]

    def drill(self, task: VideoTask, reader: VideoReader, *, seed: int) -> Example:
        """A drill on a task's overview.

        Args:
            task: Of the needle set.
            reader: Its video.
            seed: Of the drill's order.

        Raises:
            ConfigError: If a pair of frames is more than one visual token.
        """
        observation = self._begin(task, reader, seed).start()
        recording = _Recording(self._model, task)
        recording.observe(observation)
        reply = self._demonstrator.act(observation)
        rng = np.random.default_rng(seed)
        thought = reply.removesuffix(self._demonstrator.slip).partition("</think>")[0]
        recording.reply(drill(thought, self._demonstrator, task, rng=rng))
        return recording.example()

    def _begin(self, task: VideoTask, reader: VideoReader, seed: int) -> Session:
        self._demonstrator.reset(seed=seed)
        self._demonstrator.reveal(task)
        return self._way.make_session(task, reader, self._rules, cache=self._cache)


class _Recording:
    """An episode as it becomes an example."""

    def __init__(self, model: VisionLanguageModel, task: VideoTask) -> None:
        self._model, self._task = model, task
        self._context = Context()
        self._words: list[list[int]] = []
        self._frames: list[npt.NDArray[np.uint8]] = []
        self._untrained: list[int] = []

    def observe(self, observation: Observation) -> None:
        """Add what the agent sees, and what that is."""
        self._model.builder.observe(self._context, observation)
        if observation.clip is not None and observation.clip_ref is not None:
            pairs = describe_pairs(observation.clip_ref, self._task)
            self._words += [_word_ids(self._model.vocabulary, pair.text) for pair in pairs]
            self._frames.append(observation.clip.frames)

    def reply(self, pieces: Sequence[Piece]) -> None:
        """Add what the agent writes."""
        start = len(self._context)
        ids: list[int] = []
        for piece in pieces:
            before = start + len(ids)
            ids += self._model.vocabulary.encode(piece.text)
            if not piece.is_trained:
                self._untrained += range(before, start + len(ids))
        self._model.builder.reply(self._context, ids)

    def example(self) -> Example:
        """What there is to learn from it."""
        tokens = self._context.tokens.copy()
        tokens["trained"][self._untrained] = False
        visual = int((tokens["role"] == TokenRole.VISION).sum())
        if visual != len(self._words):
            raise ConfigError(
                f"expected one visual token for each of {len(self._words)} pairs of frames, got "
                f"{visual}; use NEEDLE_BUDGET"
            )
        words = np.full((len(self._words), MOST_WORDS), -1)
        for row, ids in zip(words, self._words, strict=True):
            row[: len(ids)] = ids
        return Example(tokens, words, tuple(self._frames))


@lru_cache(4096)
def _word_ids(vocabulary: Vocabulary, text: str) -> list[int]:
    """The ids of a description's words, without the spaces between them."""
    (space,) = vocabulary.encode(" ")
    return [index for index in vocabulary.encode(f" {text}") if index != space]
