"""Did the agent keep to the form? Strict, where executing a reply is lenient."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rewards.reward import Reward
from videoseek_env.action import read_json
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video.clip import STRATEGIES

_SEPARATORS = {
    "grounding": re.compile(r"</think>\n?<grounding>"),
    "answer": re.compile(r"</think>\n?<answer>"),
}


@dataclass(frozen=True, slots=True)
class FormatCheck:
    """What the form of a trajectory is worth."""

    score: float
    """1, less 1 / turns for each JSON fault; 0 if a turn has no form; in [0, 1]."""
    tool_turns: int
    """Turns that call the tool; 0 where a turn has no form."""


def check_format(replies: Sequence[str]) -> FormatCheck:
    r"""Check the form of all turns.

    Every turn but the last must be `[\n]<think>..</think>[\n]<grounding>..</grounding>[\n]`, the
    last one `[\n]<think>..</think>[\n]<answer>..</answer>[\n]`, each [\n] an optional newline. Each
    JSON fault of a grounding costs 1 / number of turns.

    Source: arXiv 2601.23224.

    >>> check_format(["<think>I see.</think><answer>B</answer>"])
    FormatCheck(score=1.0, tool_turns=0)
    """
    if not replies or strict_content(replies[-1], "answer") is None:
        return FormatCheck(0.0, 0)
    groundings = [strict_content(reply, "grounding") for reply in replies[:-1]]
    faults = 0
    for content in groundings:
        if content is None:
            return FormatCheck(0.0, 0)
        faults += json_faults(content)
    return FormatCheck(max(0.0, 1 - faults / len(replies)), len(groundings))


def strict_content(reply: str, tag: Literal["grounding", "answer"]) -> str | None:
    """What the tag holds if the reply is exactly a think block and then the tag, else None.

    The think block ends at the first closing that the tag follows, and the tag at the reply's end,
    as a lazy regular expression would have it, but in linear time.
    """
    body = reply.removeprefix("\n").removesuffix("\n")
    closing = f"</{tag}>"
    if not (body.startswith("<think>") and body.endswith(closing)):
        return None
    separator = _SEPARATORS[tag].search(body)
    return None if separator is None else body[separator.end() : -len(closing)]


def json_faults(content: str) -> int:
    """Faults of a grounding's content, read as strict JSON.

    One for what is no JSON object; else one for each missing key, one for a strategy outside the
    three, and one for a segment that is not a list of two.

    >>> json_faults('{"temporal_segment": [1], "sampling_strategy": "ultra"}'), json_faults("{}")
    (2, 2)
    """
    fields = read_json(content)
    if not isinstance(fields, dict):
        return 1
    times = fields.get("temporal_segment")
    is_pair = isinstance(times, list) and len(times) == 2
    is_known = fields.get("sampling_strategy") in STRATEGIES
    return (not is_pair) + (not is_known)


def trajectory_format(trajectory: Trajectory) -> FormatCheck:
    """`check_format` of the replies; a cut reply has no form, whatever was kept of it."""
    if trajectory.end_reason is EndReason.REPLY_CUT:
        return FormatCheck(0.0, 0)
    return check_format(trajectory.replies)


@dataclass(frozen=True, slots=True)
class Format:
    """The published format score, in [0, 1]; parts: `tool_turns`."""

    def __call__(self, trajectory: Trajectory, /) -> Reward:
        """Score a trajectory."""
        form = trajectory_format(trajectory)
        return Reward(form.score, {"tool_turns": float(form.tool_turns)})


_TAGS = re.compile(r"</?(?:think|grounding|answer)>")


def unnested_format(trajectory: Trajectory) -> FormatCheck:
    """`trajectory_format`, 0 if a reply holds any tag beside the four that make its form.

    Differs from the paper: the published check lets tags stand inside a thought, where they smuggle
    groundings past the tool.
    """
    if any(len(_TAGS.findall(reply)) != 4 for reply in trajectory.replies):
        return FormatCheck(0.0, 0)
    return trajectory_format(trajectory)
