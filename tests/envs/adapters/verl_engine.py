"""A stand-in for verl's engine, and what verl's loops run on.

verl 0.9.1 asks for transformers below 5.11, so it is not among this project's dependencies. Tests
that need it are skipped where it is missing. It imports on a CPU beside transformers 5.23 with ray,
tensordict, hydra-core, omegaconf, codetiming, torchdata and qwen_vl_utils; the worker's own
post-processing needs its transformers too, and torchvision. Its wheel has a top-level package
`tests`, which hides this one: put only its folder `verl` on the path.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

HAS_VERL = all(importlib.util.find_spec(name) for name in ("verl", "tensordict", "hydra"))
needs_verl = pytest.mark.skipif(not HAS_VERL, reason="verl is not installed")
ignored = pytest.mark.filterwarnings("ignore::Warning")
"""verl and what it brings warn a lot, and this project can't change that."""


def call_of(start: object = 10, end: object = 20, detail: object = "fine") -> str:
    arguments = {"start": start, "end": end, "detail": detail}
    return f"<tool_call>\n{json.dumps({'name': 'crop', 'arguments': arguments})}\n</tool_call>"


class ScriptedEngine:
    """Stands where verl's client of vLLM or SGLang does, and writes given replies as tokens."""

    def __init__(self, tokenizer: Any, replies: Sequence[str], *, closes: bool = True) -> None:
        self._tokenizer, self._replies, self._closes = tokenizer, replies, closes
        self.calls: dict[str, list[dict[str, Any]]] = {}

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        image_data: list[Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> Any:
        from verl.workers.rollout.replica import TokenOutput

        calls = self.calls.setdefault(request_id, [])
        ids = self._tokenizer.encode(self._replies[len(calls)])
        ids += [self._tokenizer.eos_token_id] * self._closes
        ids = ids[: sampling_params.get("max_tokens", len(ids))]
        images = list(image_data or [])
        calls.append({"prompt": list(prompt_ids), "reply": ids, "images": images})
        assert (mm_processor_kwargs or {}).get("do_resize", False) is False
        logprobs = [-0.5] * len(ids) if sampling_params.get("logprobs") else None
        return TokenOutput(token_ids=ids, log_probs=logprobs, extra_fields={"global_steps": 3})


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A tiny Qwen3-VL on disk, and what verl loads of it."""

    folder: Path
    tokenizer: Any
    processor: Any
    model: Any
