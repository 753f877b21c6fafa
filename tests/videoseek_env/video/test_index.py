from __future__ import annotations

import numpy as np

from videoseek_env.video.index import frame_table
from videoseek_env.video.packets import NO_TIME, PacketTable


def table(*packets: tuple[int, str]) -> PacketTable:
    """Packets in decoding order: presentation time, and flags K (keyframe) and D (discarded)."""
    pts = np.array([time for time, _ in packets], np.int64)
    return PacketTable(
        pts=pts,
        dts=np.arange(len(packets)),
        duration=np.full(len(packets), 10),
        is_keyframe=np.array(["K" in flags for _, flags in packets]),
        is_discarded=np.array(["D" in flags for _, flags in packets]),
    )


def test_frames_are_in_presentation_order() -> None:
    frames = frame_table(table((0, "K"), (20, ""), (10, ""), (30, "K"), (40, "")))
    assert frames is not None
    assert frames.pts.tolist() == [0, 10, 20, 30, 40]
    assert frames.decode_position.tolist() == [0, 2, 1, 3, 4]
    assert frames.keyframe_indices.tolist() == [0, 3]
    assert frames.entry.tolist() == [0, 0, 0, 1, 1]
    assert not frames.has_open_groups


def test_frames_that_lead_a_keyframe_enter_before_it() -> None:
    # 20 is decoded after the keyframe of 30, but refers to the group before
    frames = frame_table(table((0, "K"), (10, ""), (30, "K"), (20, ""), (40, "")))
    assert frames is not None
    assert frames.pts.tolist() == [0, 10, 20, 30, 40]
    assert frames.entry.tolist() == [0, 0, 0, 1, 1]
    assert frames.has_open_groups


def test_what_precedes_or_leads_the_first_keyframe_is_no_frame() -> None:
    frames = frame_table(table((0, ""), (10, ""), (30, "K"), (20, ""), (40, "")))
    assert frames is not None
    assert frames.pts.tolist() == [30, 40]


def test_discarded_packets_lead_to_frames_but_are_none() -> None:
    frames = frame_table(table((-20, "KD"), (-10, "D"), (0, ""), (10, ""), (20, "K")))
    assert frames is not None
    assert frames.pts.tolist() == [0, 10, 20]
    assert frames.entry.tolist() == [0, 0, 1]
    assert frames.entry_pts.tolist() == [-20, 20]
    assert frames.keyframe_indices.tolist() == [2]
    assert frames.has_hidden_packets


def test_equal_presentation_times_are_one_frame() -> None:
    frames = frame_table(table((0, "K"), (10, ""), (10, ""), (20, "")))
    assert frames is not None
    assert frames.pts.tolist() == [0, 10, 20]


def test_nothing_to_show_is_none() -> None:
    assert frame_table(table((0, ""), (10, ""))) is None
    assert frame_table(table((NO_TIME, "K"))) is None
    assert frame_table(table((0, "KD"))) is None
