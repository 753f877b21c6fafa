"""Samples of made-up episodes: real clips' shapes, any replies."""

from __future__ import annotations

from agents.learning.sample import Sample
from agents.llm.context import Context
from agents.llm.tiny import Family
from tests.agents.llm.clips import clip_of, clip_ref
from tests.agents.llm.models import tiny
from videoseek_env.session import Observation
from videoseek_env.video.clip import Clip

CROP = '<think>At 30.</think><grounding>{"temporal_segment": [3, 9]}</grounding>'
ANSWER = "<think>Red.</think><answer>B</answer>"


def sample(
    *replies: str,
    question: str = "Which?",
    family: Family = "qwen3_vl",
    start_seconds: float = 0.0,
    frames: int = 4,
) -> Sample:
    """An episode with a clip before each reply; those of one question begin alike."""
    builder = tiny(family).builder
    cell = builder.layout.cell_px
    context, clips = Context(), list[Clip]()
    for turn, reply in enumerate(replies):
        start = 10.0 * turn + (start_seconds if turn else 0.0)
        ref = clip_ref(frames=frames, height=cell, width=2 * cell, start_seconds=start)
        clips.append(clip_of(ref))
        builder.observe(context, Observation(question, clips[-1], clip_ref=ref))
        ids = builder.vocabulary.encode(reply)
        builder.reply(context, ids, [-1.0] * len(ids))
    return Sample.of(context, clips)
