"""Demonstrations for two roles, with which native clue seeking is compared.

They are in the same words as those of `Demonstrator`, so that only the way of playing differs.
"""

from __future__ import annotations

from typing import Final

from agents.learning.demonstrations import AGAIN, Demonstrator
from agents.learning.needle_truth import Seen, describe_pairs
from videoseek_env.action import write_answer
from videoseek_env.session import Observation
from videoseek_env.video.clip import ClipRef

HAND_OVER: Final = "none"
"""What the seeker answers when it has found everything; nobody reads it."""


class DecoupledDemonstrator(Demonstrator):
    """Plays the seeker and the answerer of `envs.decoupled`, one after the other.

    The seeker crops everything that the question is about, since the answerer sees only that; so it
    never guesses.
    """

    def __init__(self, *, slip_probability: float = 0.0) -> None:
        """Make a demonstrator; the argument is as for `Demonstrator`."""
        super().__init__(slip_probability=slip_probability)

    def act(self, observation: Observation) -> str:
        """The seeker's next crop or its hand-over, or the answerer's answer."""
        ref = observation.clip_ref
        if ref is not None and ref.strategy == "overview":
            self._waiting = self._waiting or self._shown_clues()
            return self._crop(self._look_over(ref) + self._landmark_text())
        if observation.system:
            return write_answer(self._answerer_thought(ref), self._task.answer)
        return self._seek_on(ref)

    def _shown_clues(self) -> list[int]:
        """What a question is about that needs no crop in one context, without its landmark."""
        clues = self._clues()
        if not self._template.startswith("hop"):
            return list(clues)
        return [place for place in clues if place != self._landmark()]

    def _seek_on(self, ref: ClipRef | None) -> str:
        """After a crop, or after a reply that could not be carried out."""
        found = self._name_when_found(self._waiting[0])
        think = "" if ref is None else self._look_at(ref)
        if ref is None or all(seen.text != found for seen in describe_pairs(ref, self._task)):
            return self._crop(f"{think}. {AGAIN}")
        self._opened.append(self._waiting.pop(0))
        think = f"{think}. {found}"
        if self._waiting:
            return self._crop(think)
        self.slip = ""
        return write_answer(think, HAND_OVER)

    def _answerer_thought(self, ref: ClipRef | None) -> str:
        """Everything that the crops show, and what follows from it.

        No landmark is in the crops: what they show is what was looked for.
        """
        self._said = dict.fromkeys(self._clues(), "yes")
        if self._template in ("shape_count", "banner_order"):
            self._said = self._verdicts()
        scan = "none" if ref is None else self._scan(ref, self._answerer_verdict)
        cards = [place for place in self._opened if self._events[place]["kind"] == "card"]
        if cards:
            faces = "".join(f". {self._name_when_found(place)}" for place in cards)
            return f"{self._goal()}: {scan}{self._choice(faces + self._result())}"
        return f"{self._goal()}: {scan}{self._choice(f'. {self._shown()}')}"

    def _answerer_verdict(self, seen: Seen) -> str:
        is_found = seen.text in map(self._name_when_found, self._opened)
        return self._mark(seen.event) if is_found else "no"
