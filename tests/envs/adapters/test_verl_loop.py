import asyncio
import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.adapters.verl import rows
from envs.adapters.verl_loop import VideoSeekAgentLoop
from tests.envs.adapters.same_episode import (
    EPISODES,
    REWARD,
    Move,
    Played,
    Seen,
    check_same_episode,
    make_task,
)
from tests.envs.adapters.verl_engine import Checkpoint, ScriptedEngine, ignored, needs_verl
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory

pytestmark = [needs_verl, ignored]


def play_one(
    checkpoint: Checkpoint,
    engine: ScriptedEngine,
    task: VideoTask,
    *,
    prompt_length: int = 1024,
    response_length: int = 1024,
    **options: Any,
) -> Any:
    """One episode in the loop, as a worker of verl makes and runs it."""
    from omegaconf import OmegaConf
    from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
    from verl.utils.dataset.rl_dataset import RLHFDataset

    limits = {"prompt_length": prompt_length, "response_length": response_length}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": limits}, "data": {}})
    [row] = rows([task])

    async def run() -> Any:
        loop = VideoSeekAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=engine,
            tokenizer=checkpoint.tokenizer,
            processor=checkpoint.processor,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(config.data),
            hf_model_type="qwen3_vl",
            tools=ToolListWrap([]),
            **options,
        )
        params = {"temperature": 1.0, "logprobs": True}
        return await loop.run(params, priority=np.int64(3), raw_prompt=row["prompt"], **row)

    return asyncio.run(run())


_FRAME = re.compile(r"([\d.]+) s<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>")


def seen_by(engine: ScriptedEngine, tokenizer: Any) -> tuple[str, list[Seen]]:
    """The system prompt and the observations, read out of the tokens that the engine got."""
    [calls] = engine.calls.values()
    observations, system, read, shown = [], "", 0, 0
    for number, call in enumerate(calls):
        text = tokenizer.decode(call["prompt"][read:])
        if number == 0:
            head, _, text = text.partition("<|im_end|>\n")
            system = head.removeprefix("<|im_start|>system\n")
        body = text.strip("\n").removeprefix("<|im_start|>user\n")
        body = body.removesuffix("<|im_end|>\n<|im_start|>assistant")
        frames = [np.asarray(image) for image in call["images"][shown:]]
        times = [float(time) for time in _FRAME.findall(body)]
        observations.append(Seen(_FRAME.sub("", body), frames, times))
        read, shown = len(call["prompt"]) + len(call["reply"]), len(call["images"])
    return system, observations


@pytest.mark.parametrize("moves", EPISODES.values(), ids=EPISODES)
def test_an_episode_in_the_loop_is_the_sessions(
    moves: Sequence[Move], task: VideoTask, checkpoint: Checkpoint
) -> None:
    def play(task: VideoTask, rules: SessionConfig, moves: Sequence[Move]) -> Played:
        engine = ScriptedEngine(checkpoint.tokenizer, [move.reply for move in moves])
        fields = {field.name: getattr(rules, field.name) for field in dataclasses.fields(rules)}
        output = play_one(checkpoint, engine, task, rules=fields, reward=REWARD)
        system, observations = seen_by(engine, checkpoint.tokenizer)
        trajectory = Trajectory.from_dict(json.loads(output.extra_fields["trajectory"]))
        assert trajectory.replies == tuple(move.reply for move in moves)
        ending = output.extra_fields["end_reason"]
        return Played(system, observations, ending, output.reward_score)

    check_same_episode(play, moves, task)


def test_tokens_are_only_appended_and_only_written_ones_are_trained(
    task: VideoTask, checkpoint: Checkpoint
) -> None:
    replies = [crop_reply(10, 20), "<grounding>{}</grounding>", answer_reply("B")]
    engine = ScriptedEngine(checkpoint.tokenizer, replies)
    output = play_one(checkpoint, engine, task, rules={"budget": "tiny"})
    [calls] = engine.calls.values()
    for earlier, later in itertools.pairwise(calls):
        written = earlier["prompt"] + earlier["reply"]
        assert later["prompt"][: len(written)] == written
    everything = calls[-1]["prompt"] + calls[-1]["reply"]
    assert output.prompt_ids == calls[0]["prompt"]
    assert output.prompt_ids + output.response_ids == everything
    trained = [
        token for token, mine in zip(output.response_ids, output.response_mask, strict=True) if mine
    ]
    assert list(trained) == [token for call in calls for token in call["reply"]]
    assert output.response_logprobs == [-0.5 * mine for mine in output.response_mask]
    # An overview of 20 frames and a crop of 8; three turns of each side.
    assert len(output.multi_modal_data["images"]) == 28 and output.num_turns == 6
    assert output.extra_fields["reward_extra_info"]["acc"] == output.reward_score == 1.0


def test_an_observation_without_room_is_taken_back_whole(
    task: VideoTask, checkpoint: Checkpoint
) -> None:
    engine = ScriptedEngine(checkpoint.tokenizer, [crop_reply(10, 20), answer_reply("B")])
    reply = [*checkpoint.tokenizer.encode(crop_reply(10, 20)), checkpoint.tokenizer.eos_token_id]
    output = play_one(
        checkpoint, engine, task, rules={"budget": "tiny"}, response_length=len(reply) + 40
    )
    assert output.extra_fields["end_reason"] == "context_exhausted"
    assert output.response_ids == reply and output.response_mask == [1] * len(reply)
    assert len(output.multi_modal_data["images"]) == 20  # the overview's alone


def test_a_prompt_without_room_is_no_crash(task: VideoTask, checkpoint: Checkpoint) -> None:
    engine = ScriptedEngine(checkpoint.tokenizer, [])
    output = play_one(checkpoint, engine, task, rules={"budget": "tiny"}, prompt_length=100)
    assert output.extra_fields["end_reason"] == "prompt_too_long" and not engine.calls
    assert output.prompt_ids and output.response_mask == [0] and output.response_logprobs == [0.0]
    assert output.reward_score == 0.0 and output.multi_modal_data == {}


def test_a_broken_video_is_no_crash(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    output = play_one(checkpoint, ScriptedEngine(checkpoint.tokenizer, []), make_task(path))
    assert output.extra_fields["end_reason"] == "video_failed" and output.response_mask == [0]


def test_a_reply_without_an_end_was_cut(task: VideoTask, checkpoint: Checkpoint) -> None:
    engine = ScriptedEngine(checkpoint.tokenizer, [crop_reply(10, 20)], closes=False)
    written = checkpoint.tokenizer.encode(crop_reply(10, 20))
    output = play_one(
        checkpoint, engine, task, rules={"budget": "tiny"}, response_length=len(written)
    )
    assert output.extra_fields["end_reason"] == "reply_cut"
    assert output.response_ids == written and output.response_mask == [1] * len(written)
