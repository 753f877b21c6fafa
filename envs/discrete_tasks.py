"""Card questions small enough that a network learns them from pixels in minutes on one core."""

from __future__ import annotations

import os
from typing import Any

from envs.discrete_layout import DiscreteLayout
from videoseek_env.budget import Budget, CropQuotas, FrameSize, Quota
from videoseek_env.datasets import load_tasks
from videoseek_env.task import TaskKind, VideoTask

_CROP = Quota(12, 12)

PEEPHOLE = Budget(
    name="peephole",
    patch_px=8,
    overview=Quota(24, 24),
    crops=CropQuotas(coarse=_CROP, medium=_CROP, fine=_CROP),
    overview_frames=12,
    max_crop_frames=6,
    context_tokens=2048,
    reserve_tokens=64,
    max_reply_tokens=256,
)
"""An overview of 12 frames and crops of 6, all of 32 x 32 pixels, whatever the strategy."""

PEEPHOLE_LAYOUT = DiscreteLayout(
    length_bins=2,
    overview_frames=12,
    overview_size=FrameSize(12, 12),
    clip_frames=6,
    clip_size=FrameSize(32, 32),
)
"""Arrays for it: a card's colour is still seen in 12 x 12 pixels, its digit in 32 x 32."""


def load_card_tasks(
    split: str = "train",
    *,
    videos: int = 8,
    root: str | os.PathLike[str] | None = None,
    **fields: Any,
) -> list[VideoTask]:
    """Load needle tasks about the digit of a card, after making their videos if need be.

    Each video of about a minute shows one card, face down for a while and face up for a few
    seconds, when the overview does not look. A question asks for its digit, with four options.

    Args:
        split: Its name; the same seed gives other videos in another split.
        videos: How many, with four questions each; ten take a second to make.
        root: Folder of this set; None takes a folder of the user's cache.
        **fields: Other fields of `NeedleConfig`, such as `cards=2`.
    """
    settings: dict[str, Any] = {
        "budget": PEEPHOLE,
        "kinds": (TaskKind.SINGLE_CLUE_TOOL,),
        "tasks_per_video": 4,
        "width": 64,
        "height": 64,
        "fps": 2,
        "gop_frames": 20,
        "duration_seconds": (50.0, 60.0),
        "cards": 1,
        "banners": 0,
        "shapes": 0,
        "clutter": 0.0,
        "jitter": 0.0,
    }
    return load_tasks("needle", root=root, split=split, videos=videos, **(settings | fields))
