"""Ways to play the needle task: the native one, and those that it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from agents.learning.decoupled_demonstrations import DecoupledDemonstrator
from agents.learning.demonstrations import Demonstrator
from agents.learning.from_nothing.settings import NEEDLE_SESSION
from agents.ongoing import MakeSession
from envs.decoupled import DecoupledSession
from videoseek_env.prompts import Prompts
from videoseek_env.session import SessionConfig, VideoSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The rules of episodes, and who demonstrates them."""

    rules: SessionConfig = NEEDLE_SESSION
    demonstrator: Callable[..., Demonstrator] = Demonstrator
    make_session: MakeSession = VideoSession


SEEKER_PROMPTS: Final = Prompts(
    system="Crop, then finish.",
    question="{question}\n{options}{sampling}",
    crop="{sampling}",
    sampling="{start:.0f} {end:.0f}",
    error="Try again, or finish.",
    last_turn="\nFinish now.",
)
ANSWERER_PROMPTS: Final = Prompts(
    system="Answer now.",
    question="{question}\n{options}",
    crop="{sampling}",
    sampling="{start:.0f} {end:.0f}",
)
"""Few tokens, for the two roles of the decoupled baseline."""

NATIVE: Final = Way()
"""Crops and the answer in one context, as in Video-o3."""
GUESSING: Final = Way(demonstrator=partial(Demonstrator, guess_probability=0.5))
"""The same rules, but half of the demonstrations guess where a crop is needed. They leave open
whether looking closer is worth a call: that is for rewards to say."""
SINGLE_TURN: Final = Way(
    rules=replace(NEEDLE_SESSION, max_turns=1),
    demonstrator=partial(Demonstrator, guess_probability=1.0),
)
"""The overview, and an answer."""
DECOUPLED: Final = Way(
    rules=replace(NEEDLE_SESSION, prompts=SEEKER_PROMPTS, max_turns=10),
    demonstrator=DecoupledDemonstrator,
    make_session=partial(DecoupledSession, answerer_prompts=ANSWERER_PROMPTS),
)
"""A seeker and an answerer, which sees the crops alone. One turn more than anybody needs: the
seeker crops direct clues too, and hands over."""
