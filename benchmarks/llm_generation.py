"""Replies of a vision-language model: what is kept against what is read again, groups and singles.

Run with `python benchmarks/llm_generation.py`; `--quick` takes a smaller model and one round.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from agents.llm.context import Context
from agents.llm.generation import Sampling, generate
from agents.llm.model import VisionLanguageModel
from agents.llm.prefill import KeyValues, Row, prefill
from agents.llm.tiny import TinyConfig, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer
from videoseek_env.segment import Segment
from videoseek_env.session import Observation
from videoseek_env.video.clip import Clip, ClipRef

clock = time.perf_counter if torch.cuda.is_available() else time.process_time
"""On a CPU the time that this one thread really had, whatever else the machine does."""

QUICK = "--quick" in sys.argv
ROUNDS = 1 if QUICK else 5
TURNS = 5
GROUP = 8
REPLY_TOKENS = 28
"""3 % of the context in all, as are replies of 100 tokens under the published budgets."""
OVERVIEW = (64, 128, 224)
"""Frames, height and width of the laptop budget's overview: 896 visual tokens."""
CROP = (16, 256, 448)
"""Of its finest crop: 896 visual tokens."""


def build_model() -> VisionLanguageModel:
    """Random weights, of a size at which reading costs more than calling Python does."""
    config = TinyConfig(
        hidden_size=64 if QUICK else 256,
        layers=2 if QUICK else 8,
        mlp_size=768,
        max_tokens=16384,
        vision_hidden_size=96,
        vision_mlp_size=384,
    )
    tokenizer = tiny_tokenizer()
    return VisionLanguageModel.wrap(tiny_model(config, tokenizer=tokenizer), tokenizer)


def clip(number: int) -> tuple[ClipRef, Clip]:
    """The overview, or a crop of its own."""
    frames, height, width = OVERVIEW if number == 0 else CROP
    times = tuple(10.0 * number + k for k in range(frames))
    segment = Segment(times[0], times[-1] + 1)
    tokens = frames // 2 * (height // 32) * (width // 32)
    strategy = "overview" if number == 0 else "fine"
    ref = ClipRef(
        "video.mp4", tuple(range(frames)), times, height, width, segment, strategy, tokens
    )
    pixels = np.random.default_rng(number).integers(0, 256, (frames, height, width, 3), np.uint8)
    return ref, Clip(pixels, np.array(times), segment, strategy)


CLIPS = [clip(number) for number in range(TURNS)]


def observe(model: VisionLanguageModel, row: Row, turn: int) -> list[Clip]:
    """Add a turn's observation; its frames."""
    ref, frames = CLIPS[turn]
    model.builder.observe(row.context, Observation("Look closer.", frames, clip_ref=ref))
    return [frames]


def play(model: VisionLanguageModel, *, keeps: bool, reply_tokens: int = REPLY_TOKENS) -> Row:
    """An episode of five turns; without keeping, each turn reads the whole context again."""
    row = Row(Context(), np.random.default_rng(0))
    shown: list[Clip] = []
    for turn in range(TURNS):
        new = observe(model, row, turn)
        shown += new
        if not keeps:
            row.known = KeyValues.empty()
        sampling = Sampling(temperature=0, max_tokens=reply_tokens)
        generate(model, [row], [new if keeps else shown], sampling)
    return row


def read_group(model: VisionLanguageModel, *, shares: bool) -> None:
    """The first observation of a group's members."""
    rows = [Row(Context()) for _ in range(GROUP)]
    clips = [observe(model, row, 0) for row in rows]
    if shares:
        prefill(model, rows, clips)
    else:
        for row, shown in zip(rows, clips, strict=True):
            prefill(model, [row], [shown])


def compare(name: str, ours: Callable[[], object], peer: Callable[[], object]) -> None:
    """Both in turns; medians of seconds and of the rounds' ratios."""
    ours(), peer()
    seconds: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        pair = []
        for run in (ours, peer):
            started = clock()
            run()
            pair.append(clock() - started)
        seconds.append((pair[0], pair[1]))
    ours_s, peer_s = (statistics.median(column) for column in zip(*seconds, strict=True))
    ratio = statistics.median(peer / own for own, peer in seconds)
    print(f"{name:55} {ours_s:8.2f} s {peer_s:8.2f} s   {ratio:5.2f} times faster")


def main() -> None:
    """Print both comparisons."""
    torch.set_num_threads(1)
    model = build_model()
    parameters = sum(p.numel() for p in model.network.parameters()) / 1e6
    row = play(model, keeps=True)
    print(f"{parameters:.1f} M parameters, contexts of {len(row.context)} tokens, one thread")
    compare(
        f"{TURNS} turns: keys and values kept / all read again",
        lambda: play(model, keeps=True),
        lambda: play(model, keeps=False),
    )
    compare(
        f"{TURNS} turns, reading alone",
        lambda: play(model, keeps=True, reply_tokens=1),
        lambda: play(model, keeps=False, reply_tokens=1),
    )
    compare(
        f"a group of {GROUP}: read once / read by each",
        lambda: read_group(model, shares=True),
        lambda: read_group(model, shares=False),
    )


if __name__ == "__main__":
    main()
