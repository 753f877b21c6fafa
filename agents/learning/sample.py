"""What is learned from one episode: its tokens, and the frames that they were read with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from agents.llm.context import Context
from videoseek_env.errors import ConfigError
from videoseek_env.video.clip import Clip, ClipRef


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One context that is over.

    Raises:
        ConfigError: If no token is trained, the first one is, or a clip's frames are missing.
    """

    tokens: npt.NDArray[np.void]
    """[L] of `agents.llm.context.TOKEN`."""
    refs: tuple[ClipRef, ...]
    """Names of the clips, in the context's order."""
    clips: tuple[Clip, ...]
    """Their frames."""

    def __post_init__(self) -> None:
        trained = self.tokens["trained"]
        if not trained.any() or trained[0]:
            raise ConfigError(
                "expected a context with a reply in it, after something to reply to; got "
                f"{int(trained.sum())} trained tokens of {len(trained)}"
            )
        if len(self.refs) != len(self.clips):
            raise ConfigError(f"{len(self.refs)} clips in the context, frames of {len(self.clips)}")

    @classmethod
    def of(cls, context: Context, clips: Sequence[Clip]) -> Self:
        """A copy of a context, with its frames shared."""
        refs = tuple(clip.ref for clip in context.clips)
        return cls(context.tokens.copy(), refs, tuple(clips))

    def without_frames(self) -> Self:
        """The tokens alone: to be counted, not to be read."""
        return replace(self, refs=(), clips=())

    @property
    def prompt_tokens(self) -> int:
        """Tokens before the first reply; the same for all episodes of a question."""
        return int(self.tokens["trained"].argmax())

    @property
    def trained_tokens(self) -> int:
        """Tokens that the model wrote."""
        return int(self.tokens["trained"].sum())

    @property
    def prompt_key(self) -> tuple[bytes, tuple[ClipRef, ...]]:
        """Equal for samples that begin alike."""
        prompt = self.tokens[: self.prompt_tokens]
        return prompt["id"].tobytes(), self.refs[: int(prompt["clip"].max()) + 1]

    def turn_of_tokens(self) -> npt.NDArray[np.int64]:
        """The number of the reply that each token is of, [L]; -1 where it is not trained.

        >>> import numpy as np
        >>> from agents.llm.context import TOKEN
        >>> tokens = np.zeros(6, TOKEN)
        >>> tokens["trained"] = [False, True, True, False, True, False]
        >>> Sample(tokens, (), ()).turn_of_tokens()
        array([-1,  0,  0, -1,  1, -1])
        """
        trained = self.tokens["trained"]
        starts = trained & ~np.roll(trained, 1)
        return np.where(trained, starts.cumsum() - 1, -1)
