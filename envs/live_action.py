"""The reply grammar of live video: the ordinary one, and `<wait>5</wait>`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from videoseek_env.action import Action, Fault, Malformed, last_block, parse_reply

_LONGEST_NUMBER_CHARS = 32


@dataclass(frozen=True, slots=True)
class Wait(Malformed):
    """Let time pass. To code that knows the ordinary grammar alone, a reply without an action."""

    seconds: float = 0.0
    """As written; finite. The session clamps it to its range."""


def parse_live_reply(text: str, *, now_seconds: float, start_seconds: float = 0.0) -> Action:
    """Read a reply to live video. It never raises, whatever the text.

    An answer wins over a grounding, and a grounding over a wait; of several blocks the last counts.

    Args:
        text: The whole reply.
        now_seconds: End of what has arrived; segments are clamped to it.
        start_seconds: Start of what can be looked at.

    >>> parse_live_reply("<think>Nothing yet.</think><wait> 5 </wait>", now_seconds=9.0).seconds
    5.0
    """
    action = parse_reply(text, duration_seconds=now_seconds, start_seconds=start_seconds)
    if not isinstance(action, Malformed) or action.fault is not Fault.NO_ACTION:
        return action
    content = last_block(text, "wait")
    if content is None:
        return action
    seconds = _read_number(content)
    if seconds is None:
        return Malformed(
            Fault.BAD_SEGMENT, "<wait> must hold a number of seconds, such as <wait>5</wait>."
        )
    return Wait(Fault.NO_ACTION, f"Waits {seconds:g} s.", seconds)


def _read_number(text: str) -> float | None:
    if len(text) > _LONGEST_NUMBER_CHARS:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def write_wait(think: str, seconds: float) -> str:
    """The reply that thinks and then waits, in the strict form.

    >>> write_wait("Nothing yet.", 5)
    '<think>Nothing yet.</think><wait>5</wait>'
    """
    return f"<think>{think}</think><wait>{seconds}</wait>"
