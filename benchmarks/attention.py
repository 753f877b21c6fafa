"""What task-decoupled attention costs, against plain causal attention and a dense mask.

    python benchmarks/attention.py            up to 32768 tokens (half an hour)
    python benchmarks/attention.py --quick    up to 4096 tokens

One layer's attention, forward and backward, of an episode of three turns: an overview, two crops,
thinking, two groundings of 40 tokens and an answer of 5. Each row times its sides in turns within
one run and prints the medians, and the median of the rounds' ratios: trust the ratios. On a CPU,
seconds are this one thread's own. Memory is what a forward and backward adds to that of a new
process. On a GPU everything runs there, in bfloat16 too, and FlexAttention joins in.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from agents.llm.attention import attend_by_plan, task_decoupled_attention
from agents.llm.decoupling import Scope, decoupled_rows, dense_mask
from agents.llm.roles import TokenRole

HEADS, KEY_HEADS, HEAD_SIZE = 4, 2, 64
THINKING, GROUNDING, ANSWER, TEXT = 120, 40, 5, 60
"""Tokens of one piece of the episode."""
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
LONG_TOKENS = 8192
"""Beyond it, no dense mask and no scope "turn", and fewer rounds."""

clock = time.perf_counter if CUDA else time.process_time
"""On a CPU the time that this one thread really had, whatever else the machine does."""

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What each token of the episode is, [1, L]."""

    role: Tensor
    clip: Tensor
    valid: Tensor


def episode(length: int) -> Tokens:
    """An episode of exactly `length` tokens: its clips take what the texts leave."""
    reply = [(TokenRole.TEXT, -1, TEXT), (TokenRole.THINK, -1, THINKING), (TokenRole.TAG, -1, 2)]
    grounding = [*reply, (TokenRole.GROUNDING, -1, GROUNDING), (TokenRole.TAG, -1, 2)]
    answer = [*reply, (TokenRole.ANSWER, -1, ANSWER), (TokenRole.TAG, -1, 2)]
    texts = sum(tokens for *_, tokens in [*grounding, *grounding, *answer]) + TEXT
    crop = (length - texts) // 4
    overview = length - texts - 2 * crop
    pieces = [
        (TokenRole.TEXT, -1, TEXT), (TokenRole.VISION, 0, overview), *grounding,
        (TokenRole.VISION, 1, crop), *grounding, (TokenRole.VISION, 2, crop), *answer,
    ]  # fmt: skip
    counts = torch.tensor([tokens for *_, tokens in pieces])
    role, clip = (
        torch.tensor([piece[column] for piece in pieces]).repeat_interleave(counts)[None]
        for column in (0, 1)
    )
    valid = torch.ones_like(role, dtype=torch.bool)
    return Tokens(role.to(DEVICE), clip.to(DEVICE), valid.to(DEVICE))


def attention_work(kind: str, length: int, dtype: torch.dtype, scope: Scope = "tags") -> Work:
    """Forward and backward of one layer's attention; masks and plans are made beforehand."""
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, length, heads, HEAD_SIZE, device=DEVICE, dtype=dtype)
        .transpose(1, 2)
        .requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    upstream = torch.randn(1, HEADS, length, HEAD_SIZE, device=DEVICE, dtype=dtype)
    tokens = episode(length)
    if kind == "tdam":
        plan = decoupled_rows(tokens.role, tokens.clip, tokens.valid, scope=scope)
        forward: Callable[[], Tensor] = lambda: attend_by_plan(query, key, value, plan)  # noqa: E731
    elif kind == "flex":
        forward = _flex(query, key, value, tokens)
    else:
        mask = dense_mask(tokens.role, tokens.clip, tokens.valid) if kind == "dense" else None
        forward = lambda: _sdpa(query, key, value, mask)  # noqa: E731

    return lambda: torch.autograd.grad(forward(), (query, key, value), upstream)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    # On a GPU, kernels with a mask and those of float32 know no groups.
    grouped = not CUDA or (mask is None and query.dtype == torch.bfloat16)
    if not grouped:
        key, value = (heads.repeat_interleave(HEADS // KEY_HEADS, dim=1) for heads in (key, value))
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )


def _flex(query: Tensor, key: Tensor, value: Tensor, tokens: Tokens) -> Callable[[], Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    role, clip = tokens.role[0], tokens.clip[0]
    length = len(role)
    saw_crop = (clip >= 1).cumsum(0) > 0

    def may_attend(_batch: Tensor, _head: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
        to_overview = (
            (role[query_at] == TokenRole.ANSWER) & saw_crop[query_at] & (clip[key_at] == 0)
        )
        to_crop = (role[query_at] == TokenRole.GROUNDING) & (clip[key_at] >= 1)
        return (query_at >= key_at) & ~to_overview & ~to_crop

    mask = create_block_mask(may_attend, None, None, length, length, device=DEVICE)
    compiled = torch.compile(flex_attention)
    return lambda: compiled(query, key, value, block_mask=mask, enable_gqa=True)


def looped_mask(tokens: Tokens) -> Tensor:
    """The dense mask by loops over tokens, as published code builds it: float [1, 1, L, L]."""
    role, clip = tokens.role[0].tolist(), tokens.clip[0].tolist()
    length = len(role)
    mask = torch.full((length, length), float("-inf")).triu(1)
    spans: dict[int, list[int]] = {}
    for index, number in enumerate(clip):
        if number >= 0:
            first, _ = spans.setdefault(number, [index, index])
            spans[number] = [first, index + 1]
    for index in range(length):
        for number, (first, end) in spans.items():
            is_answer = role[index] == TokenRole.ANSWER and number == 0 and len(spans) > 1
            is_grounding = role[index] == TokenRole.GROUNDING and number >= 1 and end <= index
            if is_answer or is_grounding:
                mask[index, first:end] = float("-inf")
    return mask[None, None]


def in_turns(works: list[Work], rounds: int) -> list[list[float]]:
    """Seconds of each work in each round, after one round to warm up."""
    for work in works:
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, seconds in zip(works, times, strict=True):
            begun = clock()
            work()
            if CUDA:
                torch.cuda.synchronize()
            seconds.append(clock() - begun)
    return times


def ratio(ours: list[float], theirs: list[float]) -> str:
    """The median of the rounds' ratios."""
    return f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.3f}"


def print_times(lengths: list[int], rounds: int, dtype: torch.dtype) -> None:
    """Forward and backward of each kind of attention."""
    kinds = ["tdam", "causal", "dense"] + (["flex"] if CUDA else [])
    print(f"\n| tokens, {dtype} | scope | {' | '.join(f'{kind}, s' for kind in kinds)} ", end="")
    print(f"| tdam / {' | tdam / '.join(kinds[1:])} |\n|{'---|' * (1 + 2 * len(kinds))}")
    for length in lengths:
        long = length > LONG_TOKENS
        scopes: tuple[Scope, ...] = ("tags",) if long else ("tags", "turn")
        for scope in scopes:
            used = [kind for kind in kinds if not (kind == "dense" and long)]
            works = [attention_work(kind, length, dtype, scope) for kind in used]
            rounds_here = min(rounds, 3) if long else rounds
            times = dict(zip(used, in_turns(works, rounds_here), strict=True))
            cells = [f"{statistics.median(times[k]):.4f}" if k in times else "" for k in kinds]
            ratios = [ratio(times["tdam"], times[k]) if k in times else "" for k in kinds[1:]]
            print(f"| {length} | {scope} | {' | '.join([*cells, *ratios])} |", flush=True)


def print_plans(lengths: list[int], rounds: int) -> None:
    """What it takes to decide who may attend to whom, once for all layers."""
    print("\n| tokens | plan, ms | dense mask, ms | by loops, ms | plan / dense | plan / loops |")
    print(f"|{'---|' * 6}")
    for length in lengths:
        tokens = episode(length)
        fields = (tokens.role, tokens.clip, tokens.valid)
        works: list[Work] = [
            lambda fields=fields: decoupled_rows(*fields),  # type: ignore[misc]
            lambda fields=fields: dense_mask(*fields),  # type: ignore[misc]
            lambda tokens=tokens: looped_mask(tokens),  # type: ignore[misc]
        ]
        times = in_turns(works, rounds)
        cells = [f"{1000 * statistics.median(seconds):.2f}" for seconds in times]
        ratios = [ratio(times[0], theirs) for theirs in times[1:]]
        print(f"| {length} | {' | '.join([*cells, *ratios])} |", flush=True)


def print_memory(lengths: list[int]) -> None:
    """Peak memory of each kind, each in a process of its own."""
    print(f"\n| tokens | tdam, MiB | causal, MiB | dense, MiB |\n|{'---|' * 4}")
    for length in lengths:
        kinds = ["tdam", "causal"] + (["dense"] if length <= LONG_TOKENS else [])
        cells = [_memory_in_a_process(kind, length) for kind in kinds]
        print(f"| {length} | {' | '.join(cells + [''] * (3 - len(cells)))} |", flush=True)


def _memory_in_a_process(kind: str, length: int) -> str:
    command = [sys.executable, __file__, "--memory-of", kind, str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def peak_mib(kind: str, length: int) -> float:
    """Memory that one forward and backward adds to what the process had, inputs included."""
    few = torch.randn(1, 1, 8, HEAD_SIZE, device=DEVICE, requires_grad=True)
    zeros = torch.zeros(1, 8, dtype=torch.int64, device=DEVICE)
    # What libraries allocate at first use is no part of it.
    output = task_decoupled_attention(few, few, few, zeros, zeros, zeros == 0)
    torch.autograd.grad(output.sum(), few)
    if CUDA:
        attention_work(kind, length, torch.float32)()
        return torch.cuda.max_memory_allocated() / 2**20
    before = _resident_peak_mib()
    attention_work(kind, length, torch.float32)()
    return _resident_peak_mib() - before


def _resident_peak_mib() -> float:
    """Peak of this process alone; `getrusage` would count its parent's from before the start."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmHWM"].split()[0]) / 1024


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="up to 4096 tokens, fewer rounds")
    parser.add_argument("--rounds", type=int, default=None, help="repetitions of each row")
    parser.add_argument("--memory-of", nargs=2, metavar=("KIND", "TOKENS"), help="one case, in MiB")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        kind, length = arguments.memory_of
        print(f"{peak_mib(kind, int(length)):.0f}")
        return
    rounds = arguments.rounds or (3 if arguments.quick else 7)
    lengths = [2048, 4096] if arguments.quick else [2048, 4096, 8192, 16384, 32768]
    heads = f"{HEADS} heads and {KEY_HEADS} key heads of {HEAD_SIZE}"
    print(f"torch {torch.__version__} on {DEVICE}, one thread; {heads}; {rounds} rounds; medians")
    print_plans([4096] if arguments.quick else [8192, 16384], rounds)
    print_memory(lengths)
    for dtype in (torch.float32, torch.bfloat16) if CUDA else (torch.float32,):
        print_times(lengths, rounds, dtype)


if __name__ == "__main__":
    main()
