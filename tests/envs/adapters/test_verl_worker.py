import asyncio
import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="transformers is an extra")

import transformers

from envs.adapters.verl import compute_score, rows
from envs.adapters.verl_tool import tool_rows
from tests.envs.adapters.verl_engine import HAS_VERL, Checkpoint, ScriptedEngine, call_of, ignored
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.task import VideoTask

pytestmark = [
    pytest.mark.skipif(
        not HAS_VERL
        or tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 11)
        or importlib.util.find_spec("torchvision") is None,
        reason="the worker of verl 0.9.1 needs transformers below 5.11, and torchvision",
    ),
    ignored,
]


def play_batch(checkpoint: Checkpoint, engine: ScriptedEngine, tmp_path: Path, file: Path) -> Any:
    """A file of rows through verl's dataset and worker, with verl's own configuration."""
    import torch
    import verl
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
    from verl.protocol import DataProto
    from verl.utils.dataset.rl_dataset import RLHFDataset

    (tmp_path / "loops.yaml").write_text(
        "- name: videoseek\n  _target_: envs.adapters.verl_loop.VideoSeekAgentLoop\n"
        "  rules: {budget: tiny, max_turns: 4}\n"
    )
    (tmp_path / "tools.yaml").write_text(
        "tools:\n  - class_name: envs.adapters.verl_tool.VideoCropTool\n"
        "    config: {type: native, rules: {budget: tiny}}\n"
    )
    rollout = "actor_rollout_ref.rollout"
    overrides = [
        f"actor_rollout_ref.model.path={checkpoint.folder}",
        f"{rollout}.name=vllm",
        f"{rollout}.prompt_length=1024",
        f"{rollout}.response_length=1024",
        f"{rollout}.calculate_log_probs=True",
        f"{rollout}.agent.agent_loop_config_path={tmp_path / 'loops.yaml'}",
        f"{rollout}.multi_turn.tool_config_path={tmp_path / 'tools.yaml'}",
        "+data.mm_processor_kwargs.do_resize=False",
    ]
    folder = Path(verl.__file__).parent / "trainer" / "config"
    with initialize_config_dir(config_dir=str(folder), version_base=None):
        config = compose("ppo_trainer", overrides=overrides)

    async def run() -> Any:
        worker = AgentLoopWorker(config, engine)
        # verl binds rotary positions to Qwen's own processor alone, which needs torchvision.
        worker.processor = checkpoint.processor
        options = OmegaConf.create(
            {"filter_overlong_prompts": False, "cache_dir": str(tmp_path / "cache")}
        )
        data = RLHFDataset(str(file), worker.tokenizer, options, checkpoint.processor)
        items = [data[index] for index in range(len(data))]
        columns = {}
        for key in items[0].keys() - {"dummy_tensor"}:
            columns[key] = np.empty(len(items), object)
            columns[key][:] = [item[key] for item in items]
        dummy = {"dummy": torch.zeros(len(items), 1)}
        return await worker.generate_sequences(DataProto.from_dict(dummy, columns))

    return asyncio.run(run())


def forward(checkpoint: Checkpoint, batch: Any, index: int) -> Any:
    """The logits of an episode, from the tensors that verl trains on."""
    import torch

    kept = batch.batch["attention_mask"][index].bool()
    ids = batch.batch["input_ids"][index][kept][None]
    media = batch.non_tensor_batch["multi_modal_inputs"][index]
    pad = checkpoint.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    with torch.no_grad():
        return checkpoint.model(
            input_ids=ids,
            pixel_values=media["pixel_values"],
            image_grid_thw=media["image_grid_thw"],
            mm_token_type_ids=(ids == pad).long(),
        ).logits


def test_verls_worker_plays_a_batch_and_the_model_takes_it(
    task: VideoTask, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    tasks = [dataclasses.replace(task, id=name) for name in ("one", "two", "three")]
    tasks[1] = dataclasses.replace(tasks[1], video=str(broken))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows(tasks)))
    engine = ScriptedEngine(checkpoint.tokenizer, [crop_reply(10, 20), answer_reply("B")])
    batch = play_batch(checkpoint, engine, tmp_path, file)
    assert list(batch.non_tensor_batch["end_reason"]) == ["answered", "video_failed", "answered"]
    assert batch.batch["rm_scores"].sum(1).tolist() == [3.0, 0.0, 3.0]
    assert list(batch.non_tensor_batch["acc"]) == [1.0, 0.0, 1.0]
    [first, *_] = engine.calls.values()
    written = sum(len(call["reply"]) for call in first)
    assert batch.batch["response_mask"].sum(1).tolist() == [written, 0, written]
    # As many placeholders as features, or the model would raise.
    assert forward(checkpoint, batch, 0).isfinite().all()


def test_verls_tool_loop_crops_and_its_text_is_scored(
    task: VideoTask, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    from datasets import Dataset

    file = tmp_path / "rows.parquet"
    Dataset.from_list(list(tool_rows([task], rules={"budget": "tiny"}))).to_parquet(str(file))
    replies = [f"<think>look</think>{call_of()}", answer_reply("B")]
    engine = ScriptedEngine(checkpoint.tokenizer, replies)
    batch = play_batch(checkpoint, engine, tmp_path, file)
    [calls] = engine.calls.values()
    assert [len(call["images"]) for call in calls] == [20, 28]
    kept = batch.batch["response_mask"].shape[1]
    response = batch.batch["responses"][0][batch.batch["attention_mask"][0][-kept:].bool()]
    solution = checkpoint.tokenizer.decode(response, skip_special_tokens=True)
    [row] = rows([task])
    score = compute_score(row["data_source"], solution, row["reward_model"]["ground_truth"])
    assert score == {"score": 3.0, "acc": 1.0, "format": 1.0, "bonus": 1.0}
    assert forward(checkpoint, batch, 0).isfinite().all()
