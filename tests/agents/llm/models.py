"""Tiny models of both families, loaded once."""

from functools import cache

from agents.llm.model import VisionLanguageModel
from agents.llm.tiny import Family, TinyConfig, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer
from videoseek_env.budget import TINY, Budget, CropQuotas, Quota

FAMILIES: tuple[Family, ...] = ("qwen3_vl", "qwen2_5_vl")


@cache
def tiny(family: Family = "qwen3_vl", *, layers: int = 2) -> VisionLanguageModel:
    """A small model with random weights that are large enough to make its choices differ."""
    tokenizer = tiny_tokenizer()
    config = TinyConfig(family=family, layers=layers, initializer_range=0.2)
    return VisionLanguageModel.wrap(tiny_model(config, tokenizer=tokenizer), tokenizer)


def tiny_budget(family: Family) -> Budget:
    """The tiny budget in the family's cells."""
    if family == "qwen3_vl":
        return TINY
    quotas = CropQuotas(coarse=Quota(4, 4), medium=Quota(8, 4), fine=Quota(16, 4))
    return Budget(
        name="tiny-14",
        patch_px=14,
        overview=Quota(10, 10),
        crops=quotas,
        overview_frames=20,
        max_crop_frames=8,
        context_tokens=1024,
        reserve_tokens=64,
        max_reply_tokens=256,
    )
