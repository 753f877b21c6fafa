"""A reply cut into the stretches that a reader tells apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Role = Literal["plain", "tag", "think", "grounding", "answer"]

_TAG = re.compile(r"(</?(?:think|grounding|answer)>)")
_MAX_SPANS = 200
_MAX_SPAN_CHARACTERS = 6000


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a reply."""

    role: Role
    text: str


def reply_spans(reply: str) -> list[Span]:
    """Cut a reply at its tags, whatever it holds; very long stretches lose their middle.

    A tag that is never closed reaches to the end.

    >>> [(span.role, span.text) for span in reply_spans("<answer>B</answer>")]
    [('tag', '<answer>'), ('answer', 'B'), ('tag', '</answer>')]
    """
    role: Role = "plain"
    spans: list[Span] = []
    # The rest of a reply with more tags than anyone reads stays in one piece.
    for piece in _TAG.split(reply, maxsplit=_MAX_SPANS):
        if not _TAG.fullmatch(piece):
            if piece:
                spans.append(Span(role, leave_out_middle(piece)))
            continue
        spans.append(Span("tag", piece))
        role = "plain" if piece.startswith("</") else _role(piece[1:-1])
    return spans


def _role(tag: str) -> Role:
    roles: dict[str, Role] = {"think": "think", "grounding": "grounding", "answer": "answer"}
    return roles[tag]


def leave_out_middle(text: str, *, max_characters: int = _MAX_SPAN_CHARACTERS) -> str:
    """The text, or its two ends and a note of how much is left out between them.

    >>> leave_out_middle("abcdefgh", max_characters=4)
    'ab [... 4 characters left out ...] gh'
    """
    surplus = len(text) - max_characters
    if surplus <= 0:
        return text
    half = max_characters // 2
    return f"{text[:half]} [... {surplus} characters left out ...] {text[-half:]}"
