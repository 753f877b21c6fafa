"""What each token of a context is, decided as it is written.

A token's role is a causal function of the text so far, so that a token gets the same role when it
is sampled, when a demonstration is read, and when either is trained on. Tags are found in the text
and never in token ids: where a tokenizer splits `}</grounding>` does not matter.
"""

from __future__ import annotations

from enum import IntEnum


class TokenRole(IntEnum):
    """What a token is."""

    TEXT = 0
    """The system prompt, an observation's text, the chat template, and replies outside any tag."""
    THINK = 1
    """What stands inside <think>..</think>."""
    GROUNDING = 2
    """What stands inside <grounding>..</grounding>."""
    ANSWER = 3
    """What stands inside <answer>..</answer>."""
    TAG = 4
    """The tags of a reply themselves."""
    VISION = 5
    """A visual token: one cell of a pair of frames."""


_CONTENTS = {
    "think": TokenRole.THINK,
    "grounding": TokenRole.GROUNDING,
    "answer": TokenRole.ANSWER,
}
_INSIDE_AFTER = {f"<{name}>": role for name, role in _CONTENTS.items()} | {
    f"</{name}>": TokenRole.TEXT for name in _CONTENTS
}
"""What follows each tag."""
_PREFIXES = {tag[:length] for tag in _INSIDE_AFTER for length in range(1, len(tag))}
_ACTION_ENDS = ("</grounding>", "</answer>")
_RANK = {
    role: rank
    for rank, role in enumerate(
        (
            TokenRole.TEXT,
            TokenRole.TAG,
            TokenRole.THINK,
            TokenRole.GROUNDING,
            TokenRole.ANSWER,
        )
    )
}
"""A token that straddles a border takes the role that ranks highest among its characters'."""


class RoleScanner:
    """Reads a reply piece by piece, and says what each piece is.

    A character belongs to a tag as soon as it continues one: whether `<` begins a tag is not known
    before the tag ends, and a token that is sampled can't wait.

    >>> scanner = RoleScanner()
    >>> [scanner.read(piece).name for piece in ("<think>", "Hm.", "</think>", "<answer>B", "</")]
    ['TAG', 'THINK', 'TAG', 'ANSWER', 'TAG']
    >>> scanner.has_action, scanner.read("answer>").name, scanner.has_action
    (False, 'TAG', True)
    """

    def __init__(self) -> None:
        self._inside = TokenRole.TEXT
        self._tag = ""
        self.has_action = False
        """Whether a grounding or an answer has been closed: the reply is over."""

    def read(self, piece: str) -> TokenRole:
        """The role of a token whose text is `piece`; empty for a part of a character."""
        if not piece:
            return self._inside
        return max((self._read_char(char) for char in piece), key=_RANK.__getitem__)

    def _read_char(self, char: str) -> TokenRole:
        tag = self._tag + char
        if tag not in _INSIDE_AFTER and tag not in _PREFIXES:
            tag = char if char in _PREFIXES else ""
        if tag in _INSIDE_AFTER:
            self._inside = _INSIDE_AFTER[tag]
            self.has_action |= tag in _ACTION_ENDS
            self._tag = ""
            return TokenRole.TAG
        self._tag = tag
        return TokenRole.TAG if tag else self._inside
