"""Which H.264 packets no other frame refers to, so that a decoder never needs to see them."""

from __future__ import annotations

_SLICE = 1
"""A coded slice of a picture that is not a keyframe."""
_ACCOMPANYING = frozenset({6, 9, 12})
"""Supplemental information, delimiter, filler: no part of any picture."""


def length_prefix_bytes(extradata: bytes | None) -> int | None:
    """How long the length before each unit is, or None if the stream has start codes instead."""
    if extradata is None or len(extradata) < 7 or extradata[0] != 1:
        return None
    return (extradata[4] & 3) + 1


def is_unreferenced(packet: memoryview, prefix_bytes: int) -> bool:
    """Whether every picture slice in a packet says that no other picture refers to it.

    A packet whose units don't fill it exactly is damaged: the decoder must see it and complain.

    >>> slice_of_b_frame = bytes([0, 0, 0, 2, 0b000_00001, 0xAA])
    >>> is_unreferenced(memoryview(slice_of_b_frame), 4)
    True
    >>> slice_of_p_frame = bytes([0, 0, 0, 2, 0b010_00001, 0xAA])
    >>> is_unreferenced(memoryview(slice_of_p_frame), 4)
    False
    """
    at, slices, end = 0, 0, len(packet)
    while at + prefix_bytes < end:
        unit_bytes = int.from_bytes(packet[at : at + prefix_bytes], "big")
        header = packet[at + prefix_bytes]
        kind, reference_weight = header & 0b11111, header >> 5
        if unit_bytes == 0 or reference_weight != 0:
            return False
        if kind == _SLICE:
            slices += 1
        elif kind not in _ACCOMPANYING:
            return False
        at += prefix_bytes + unit_bytes
    return at == end and slices > 0
