"""Making foreign text safe and short enough to show. A reply may hold anything."""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline: escape sequences
    "\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c"  # text direction: swaps what the eye reads
    "\u2028\u2029\ufffe\uffff\ud800-\udfff]"  # line separators, non-characters, lone surrogates
)
_CONTROL_PICTURES = 0x2400
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BLANKS = re.compile(r"\s+")


def printable(text: str) -> str:
    r"""The text without characters that act on a terminal, break an encoding or reverse a line.

    Control characters turn into their pictures, the others into the replacement character. Newlines
    and tabs stay.

    >>> printable("\x1b[31mred")
    '␛[31mred'
    """
    return _UNSAFE.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else _REPLACEMENT


def shorten(text: str, *, max_characters: int) -> str:
    """The text on one line, printable, its middle left out where it is too long.

    A reply's end holds its action, so the end is kept too.

    Args:
        text: Text of any length; no more than is shown is ever looked at.
        max_characters: Length of the result at most, at least 1.

    >>> shorten("one two three four", max_characters=9)
    'one t…our'
    """
    if len(text) > 4 * max_characters:
        text = f"{text[: 2 * max_characters]} … {text[-2 * max_characters :]}"
    line = _BLANKS.sub(" ", printable(text)).strip()
    if len(line) <= max_characters:
        return line
    tail = max_characters // 3
    head = max_characters - tail - 1
    return line[:head] + "…" + (line[-tail:] if tail else "")


def clock(seconds: float, *, tenths: bool = False) -> str:
    """A moment of a video as people read it.

    >>> clock(75.26), clock(75.26, tenths=True), clock(3725)
    ('1:15', '1:15.3', '1:02:05')
    """
    units = round(max(seconds, 0.0) * 10) if tenths else 10 * int(max(seconds, 0.0) + 1e-6)
    minutes, rest = divmod(units, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{text}:{rest // 10:02}" + (f".{rest % 10}" if tenths else "")
