"""A built-in 5 x 7 bitmap font: printable ASCII as boolean masks, and drawing it on frames."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

GLYPH_HEIGHT: Final = 7
"""Rows of a glyph."""
GLYPH_WIDTH: Final = 5
"""Columns of a glyph; one empty column parts two glyphs."""

_ROWS: Final = """
  00000000000000 ! 04040404000004 " 0A0A0A00000000 # 0A0A1F0A1F0A0A $ 040F140E051E04
% 18190204081303 & 0C12140815120D ' 04040400000000 ( 02040808080402 ) 08040202020408
* 0004150E150400 + 0004041F040400 , 000000000C0408 - 0000001F000000 . 00000000000C0C
/ 00010204081000 0 0E11131519110E 1 040C040404040E 2 0E11010204081F 3 1F02040201110E
4 02060A121F0202 5 1F101E0101110E 6 0608101E11110E 7 1F010204080808 8 0E11110E11110E
9 0E11110F01020C : 000C0C000C0C00 ; 000C0C000C0408 < 02040810080402 = 00001F001F0000
> 08040201020408 ? 0E110102040004 @ 0E11010D15150E A 0E1111111F1111 B 1E11111E11111E
C 0E11101010110E D 1C12111111121C E 1F10101E10101F F 1F10101E101010 G 0E11101711110F
H 1111111F111111 I 0E04040404040E J 0702020202120C K 11121418141211 L 1010101010101F
M 111B1515111111 N 11111915131111 O 0E11111111110E P 1E11111E101010 Q 0E11111115120D
R 1E11111E141211 S 0F10100E01011E T 1F040404040404 U 1111111111110E V 11111111110A04
W 1111111515150A X 11110A040A1111 Y 1111110A040404 Z 1F01020408101F [ 0E08080808080E
\\ 00100804020100 ] 0E02020202020E ^ 040A1100000000 _ 0000000000001F ` 08040200000000
a 00000E010F110F b 1010161911111E c 00000E1010110E d 01010D1311110F e 00000E111F100E
f 0609081C080808 g 000F11110F010E h 10101619111111 i 04000C0404040E j 0200060202120C
k 10101214181412 l 0C04040404040E m 00001A15151111 n 00001619111111 o 00000E1111110E
p 00001E111E1010 q 00000D130F0101 r 00001619101010 s 00000E100E011E t 08081C08080906
u 0000111111130D v 00001111110A04 w 0000111115150A x 0000110A040A11 y 000011110F010E
z 00001F0204081F { 02040408040402 | 04040404040404 } 08040402040408 ~ 00000815020000
"""
"""Each character and its seven rows, two hexadecimal digits a row, the leftmost pixel highest."""

_UNKNOWN: Final = "1F11111111111F"


def _parse(rows: str) -> dict[str, str]:
    # The space's own entry is the one that starts the text.
    return {" ": "0" * 14} | dict(zip(*[iter(rows.split()[1:])] * 2, strict=True))


_TABLE: Final = _parse(_ROWS)


@cache
def glyph(char: str) -> npt.NDArray[np.bool_]:
    r"""One character's pixels, bool [7, 5], read-only; an empty box stands for an unknown one.

    Raises:
        ValueError: Unless given exactly one character.

    >>> print("\n".join("".join(".#"[pixel] for pixel in row) for row in glyph("7").astype(int)))
    #####
    ....#
    ...#.
    ..#..
    .#...
    .#...
    .#...
    """
    if len(char) != 1:
        raise ValueError(f"expected one character, got {char!r}; use text_mask for a text")
    rows = bytes.fromhex(_TABLE.get(char, _UNKNOWN))
    bits = np.unpackbits(np.frombuffer(rows, np.uint8)[:, None], axis=1)
    mask = bits[:, 8 - GLYPH_WIDTH :].astype(np.bool_)
    mask.flags.writeable = False
    return mask


def text_mask(text: str) -> npt.NDArray[np.bool_]:
    """A line of text as pixels, bool [7, 6 * len(text) - 1]; [7, 0] if it is empty.

    >>> text_mask("42").shape
    (7, 11)
    """
    mask = np.zeros((GLYPH_HEIGHT, max(0, (GLYPH_WIDTH + 1) * len(text) - 1)), np.bool_)
    for number, char in enumerate(text):
        left = number * (GLYPH_WIDTH + 1)
        mask[:, left : left + GLYPH_WIDTH] = glyph(char)
    return mask


def draw_text(
    canvas: npt.NDArray[np.uint8],
    text: str,
    *,
    x: int,
    y: int,
    scale: int = 1,
    colour: tuple[int, int, int] = (255, 255, 255),
) -> None:
    """Write one line of text into an image; what lies outside is cut off.

    Args:
        canvas: RGB, uint8 [H, W, 3], changed in place.
        text: Any text; there is no line break.
        x: Left edge in pixels; may be negative.
        y: Top edge in pixels; may be negative.
        scale: Pixels a side of each dot, at least 1.
        colour: Red, green, blue in 0..255.

    Raises:
        ValueError: If the scale is below one, or the canvas is not [H, W, 3].
    """
    if scale < 1:
        raise ValueError(f"scale must be at least 1 pixel, got {scale}")
    if canvas.ndim != 3 or canvas.shape[2] != 3:
        raise ValueError(f"expected a canvas [H, W, 3], got shape {list(canvas.shape)}")
    mask = text_mask(text).repeat(scale, axis=0).repeat(scale, axis=1)
    top, left = max(0, -y), max(0, -x)
    bottom = min(mask.shape[0], canvas.shape[0] - y)
    right = min(mask.shape[1], canvas.shape[1] - x)
    if top < bottom and left < right:
        target = canvas[y + top : y + bottom, x + left : x + right]
        target[mask[top:bottom, left:right]] = colour
