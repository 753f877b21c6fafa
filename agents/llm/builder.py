"""The one builder of contexts, for demonstrations, rollouts, training and evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.llm.context import Chunk, Context
from agents.llm.layout import ClipLayout
from agents.llm.roles import RoleScanner, TokenRole
from agents.llm.vocabulary import TextStream, Vocabulary
from videoseek_env.errors import ConfigError
from videoseek_env.prompts import DEFAULT_PROMPTS, Prompts
from videoseek_env.session import Observation
from videoseek_env.trajectory import Trajectory
from videoseek_env.video.clip import ClipRef


@dataclass(frozen=True, slots=True)
class ContextBuilder:
    """Writes observations and replies into contexts."""

    vocabulary: Vocabulary
    layout: ClipLayout

    def __post_init__(self) -> None:
        # At once: in reading the template, special tokens are special in a tokenizer that threads
        # share, in counting text they are not.
        _ = self.vocabulary.chat

    def observe(self, context: Context, observation: Observation) -> None:
        """Add an observation: the turn's opening, the clip, the text, the reply's opening.

        The first one brings the system prompt. All of it is added or, on an error, nothing.

        Raises:
            ConfigError: If the clip does not fit the model's grid, or comes without a `clip_ref`.
        """
        if observation.clip is not None and observation.clip_ref is None:
            raise ConfigError("an observation with a clip needs its clip_ref; a session gives both")
        self._observe(context, observation.text, observation.clip_ref, observation.system)

    def _observe(self, context: Context, text: str, ref: ClipRef | None, system: str) -> None:
        chat, vocabulary = self.vocabulary.chat, self.vocabulary
        chunk = Chunk(context)
        if len(context) == 0:
            chunk.text(chat.begin)
            chunk.text(vocabulary.encode(system))
            chunk.text(chat.system_to_user)
        else:
            closing = chat.reply_to_user
            # A model may have ended its turn itself.
            chunk.text(closing[1:] if context["id"][-1] == closing[0] else closing)
        if ref is not None:
            self.layout.write(chunk, ref, vocabulary)
        chunk.text(vocabulary.encode(text))
        chunk.text(chat.user_to_reply)
        context.append(chunk)

    def reply(
        self, context: Context, ids: Sequence[int], logprobs: Sequence[float] | None = None
    ) -> str:
        """Add a reply as it was sampled: every token of it is trained on.

        Returns:
            Its text.
        """
        stream, scanner = TextStream(self.vocabulary), RoleScanner()
        pieces, roles = [], []
        for index in ids:
            pieces.append(stream.push(index))
            is_stop = index in self.vocabulary.stops
            roles.append(TokenRole.TEXT if is_stop else scanner.read(pieces[-1]))
        chunk = Chunk(context)
        chunk.text(ids, roles=roles, trained=True, logprobs=logprobs)
        context.append(chunk)
        return "".join(pieces) + stream.close()

    def render(self, trajectory: Trajectory, *, prompts: Prompts = DEFAULT_PROMPTS) -> Context:
        """The context of a saved trajectory, equal to that of the rollout which made it.

        Equal token by token where the replies were written in the tokenizer's own segmentation, as
        demonstrations are.

        Args:
            trajectory: Any, finished or not.
            prompts: Those that it was played with; they hold the system prompt.
        """
        context = Context()
        for turn in trajectory.turns:
            self._observe(context, turn.observation, turn.clip, prompts.system_text())
            self.reply(context, self.vocabulary.encode(turn.reply))
        return context

    def count_clip_tokens(self, ref: ClipRef) -> int:
        """Tokens that a clip takes of the context, for `SessionConfig.count_clip_tokens`."""
        return self.layout.count(ref, self.vocabulary)
