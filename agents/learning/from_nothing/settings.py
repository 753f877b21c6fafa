"""The needle task that a model of two million parameters learns from nothing, and its episodes."""

from __future__ import annotations

from typing import Any, Final

from agents.llm.tiny import TINY_PROMPTS, TinyConfig
from agents.named_tasks import FROM_NOTHING
from videoseek_env.budget import Budget, CropQuotas, Quota
from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.session import SessionConfig
from videoseek_env.task import TaskKind

TOOL_KINDS: Final = (TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL)
QUADRANTS: Final = (*TOOL_KINDS, TaskKind.SINGLE_CLUE_DIRECT, TaskKind.MULTI_CLUE_DIRECT)

NEEDLE_BUDGET: Final = Budget(
    name=FROM_NOTHING,
    patch_px=16,
    overview=Quota(12, 12),
    crops=CropQuotas(coarse=Quota(2, 2), medium=Quota(3, 3), fine=Quota(4, 4)),
    overview_frames=24,
    max_crop_frames=8,
    context_tokens=768,
    reserve_tokens=64,
    max_reply_tokens=192,
)
"""One visual token for each pair of frames: 12 in the overview, up to 4 in a crop. A digit is
readable at that size; what hides it is when it is shown."""

NEEDLE_SESSION: Final = SessionConfig(budget=NEEDLE_BUDGET, max_turns=6, prompts=TINY_PROMPTS)
"""The rules of an episode; `VisionLanguageModel.counting` makes it count exact tokens."""

MODEL: Final = TinyConfig(max_tokens=1024, vision_layers=3, vision_mlp_size=384)
"""1.9 million parameters."""


def needle_config(split: str, videos: int, **fields: Any) -> NeedleConfig:
    """A set of needle videos of about two minutes: three cards, two banners, four shapes.

    Args:
        split: Such as "train" or "test"; the same number is another video in another split.
        videos: How many.
        fields: Of `NeedleConfig`, in place of those that are set here.
    """
    settings: dict[str, Any] = {
        "kinds": QUADRANTS,
        "tasks_per_video": 12,
        "width": 96,
        "height": 96,
        "fps": 3,
        "duration_seconds": (100, 140),
        "gop_frames": 500,
        "budget": NEEDLE_BUDGET,
        "cards": 3,
        "banners": 2,
        "shapes": 4,
        "jitter": 0.5,
        "clutter": 0.5,
    }
    return NeedleConfig(split=split, videos=videos, **(settings | fields))
