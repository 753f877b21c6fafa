"""What happened in an episode of live video, and when."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from envs.live_action import Wait, parse_live_reply
from videoseek_env.errors import TrajectoryError
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory, Turn

_STRICT_WAIT = re.compile(r"\n?<think>.*?</think>\n?<wait>[^<]*</wait>\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LiveTrajectory(Trajectory):
    """A trajectory with times. Times are stream time."""

    asked_seconds: float = 0.0
    """When the question was asked."""
    reply_seconds: tuple[float, ...] = ()
    """When each reply was there, the time of writing it included, [turns]."""

    @property
    def delay_seconds(self) -> float:
        """Seconds from when the question could be answered to the last reply, at least 0."""
        last = self.reply_seconds[-1] if self.reply_seconds else self.asked_seconds
        return max(0.0, last - answerable_seconds(self.task, self.asked_seconds))

    def to_dict(self) -> dict[str, Any]:
        """The trajectory as JSON-serialisable fields; `from_dict` reads them back."""
        times = {"asked_seconds": self.asked_seconds, "reply_seconds": list(self.reply_seconds)}
        return Trajectory.to_dict(self) | times

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> LiveTrajectory:
        """Read a trajectory from the fields that `to_dict` writes; actions are parsed anew.

        Raises:
            TrajectoryError: If a field is missing or of the wrong type.
        """
        plain = Trajectory.from_dict(fields)
        try:
            asked = float(fields["asked_seconds"])
            times = tuple(map(float, fields["reply_seconds"]))
            turns = tuple(
                _reread(turn, plain.start_seconds, min(seconds, plain.duration_seconds))
                for turn, seconds in zip(plain.turns, times, strict=True)
            )
        except (KeyError, TypeError, ValueError) as error:
            message = f"not a saved live trajectory: {type(error).__name__}: {error}"
            raise TrajectoryError(message) from error
        return cls.of(replace(plain, turns=turns), asked_seconds=asked, reply_seconds=times)

    @classmethod
    def of(
        cls, plain: Trajectory, *, asked_seconds: float, reply_seconds: tuple[float, ...]
    ) -> LiveTrajectory:
        """Add times to an ordinary trajectory."""
        return cls(**_values(plain), asked_seconds=asked_seconds, reply_seconds=reply_seconds)


def without_waits(trajectory: Trajectory) -> Trajectory:
    """The episode as an ordinary one, for rewards that know nothing of waiting.

    Waits in the strict form are left out: the turn after them takes the observation before them, so
    that the updates between are gone. A wait in any other form stays, as the format fault that it
    is.
    """
    turns: list[Turn] = []
    first: Turn | None = None
    for turn in trajectory.turns:
        first = first or turn
        if not (isinstance(turn.action, Wait) and _STRICT_WAIT.fullmatch(turn.reply)):
            turns.append(replace(turn, observation=first.observation, clip=first.clip))
            first = None
    return Trajectory(**_values(trajectory) | {"turns": tuple(turns)})


def answerable_seconds(task: VideoTask, asked_seconds: float) -> float:
    """When a question can be answered for the first time, in stream time.

    The end of its last clue, or the moment of asking if that is later or there is no clue. Where
    the clues do not tell, such as for a count, `task.metadata["answerable_seconds"]` may.
    """
    ends = [clue.end_seconds for clue in task.clues]
    known = task.metadata.get("answerable_seconds", max(ends, default=asked_seconds))
    return max(asked_seconds, float(known))


def _reread(turn: Turn, start_seconds: float, now_seconds: float) -> Turn:
    action = parse_live_reply(turn.reply, now_seconds=now_seconds, start_seconds=start_seconds)
    return replace(turn, action=action)


def _values(trajectory: Trajectory) -> dict[str, Any]:
    return {field.name: getattr(trajectory, field.name) for field in fields(Trajectory)}
