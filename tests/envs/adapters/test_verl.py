"""verl 0.9.1 asks for transformers below 5.11, so it is not among this project's dependencies.

What needs it is skipped where it is missing. It imports on a CPU beside transformers 5.23 with ray,
tensordict, hydra-core, omegaconf, codetiming, torchdata and qwen_vl_utils; the worker's own
post-processing needs its transformers too, and torchvision. Its wheel has a top-level package
`tests`, which hides this one: put only its folder `verl` on the path.
"""

import asyncio
import dataclasses
import importlib.util
import inspect
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="transformers is an extra")

import transformers

from envs.adapters.verl import (
    GuardedEpisode,
    compute_score,
    reply_of,
    rows,
    shared_cache,
    task_of,
)
from envs.adapters.verl_loop import VideoSeekAgentLoop
from envs.adapters.verl_tool import CROP_SCHEMA, CROP_SYSTEM, VideoCropTool, tool_rows
from tests.envs.adapters.same_episode import (
    EPISODES,
    REWARD,
    RULES,
    Move,
    Played,
    Seen,
    check_same_episode,
    make_task,
)
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.action import Malformed, parse_reply
from videoseek_env.errors import MissingExtraError, TaskError
from videoseek_env.prompts import DEFAULT_PROMPTS
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory

HAS_VERL = all(importlib.util.find_spec(name) for name in ("verl", "tensordict", "hydra"))
needs_verl = pytest.mark.skipif(not HAS_VERL, reason="verl asks for an older transformers")
needs_its_transformers = pytest.mark.skipif(
    not HAS_VERL
    or tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 11)
    or importlib.util.find_spec("torchvision") is None,
    reason="the worker of verl 0.9.1 needs transformers below 5.11, and torchvision",
)

PUBLISHED = {
    "verl.experimental.agent_loop.agent_loop.AgentLoopBase.__init__": (
        "trainer_config", "server_manager", "tokenizer", "processor", "dataset_cls",
        "data_config", "hf_model_type", "kwargs",
    ),
    "verl.experimental.agent_loop.agent_loop.AgentLoopBase.run": ("sampling_params", "kwargs"),
    "verl.workers.rollout.llm_server.LLMServerClient.generate": (
        "request_id", "prompt_ids", "sampling_params", "image_data", "video_data", "audio_data",
        "mm_processor_kwargs", "kwargs",
    ),
    "verl.tools.base_tool.BaseTool.__init__": ("config", "tool_schema"),
    "verl.tools.base_tool.BaseTool.create": ("instance_id", "kwargs"),
    "verl.tools.base_tool.BaseTool.execute": ("instance_id", "parameters", "kwargs"),
    "verl.tools.base_tool.BaseTool.calc_reward": ("instance_id", "kwargs"),
    "verl.tools.base_tool.BaseTool.release": ("instance_id", "kwargs"),
}  # fmt: skip
"""Parameters of verl 0.9.1, without `self`."""

OUTPUT_FIELDS = (
    "prompt_ids", "response_ids", "response_mask", "response_logprobs", "routed_experts",
    "multi_modal_data", "reward_score", "num_turns", "metrics", "extra_fields",
    "mm_processor_kwargs", "mm_processor_output",
)  # fmt: skip
"""Fields of `AgentLoopOutput` of verl 0.9.1."""

TURNS = "<think>look</think>{call}\nuser\nCrop: 8 frames\nassistant\n<think>so</think>{answer}"
"""Two turns as verl decodes them, without special tokens."""


@pytest.fixture
def task(minute_video: Path) -> VideoTask:
    return make_task(minute_video)


def call_of(start: object = 10, end: object = 20, detail: object = "fine") -> str:
    arguments = {"start": start, "end": end, "detail": detail}
    return f"<tool_call>\n{json.dumps({'name': 'crop', 'arguments': arguments})}\n</tool_call>"


def test_rows_say_all_that_the_loop_needs_and_are_json(task: VideoTask) -> None:
    other = dataclasses.replace(task, id="other")
    [_, row] = json.loads(json.dumps(list(rows([task, other]))))
    assert task_of(row["extra_info"]) == other
    assert row["data_source"] == "clue_single_w_tool" and row["extra_info"]["index"] == 1
    truth = row["reward_model"]["ground_truth"]
    assert truth == {"answer": "B", "clue": [{"timestamp": [10.0, 20.0]}]}
    assert compute_score(row["data_source"], answer_reply("B"), truth)["score"] == 2.0


def test_a_row_of_other_data_is_an_error() -> None:
    with pytest.raises(TaskError, match=r"expected a field 'task', got \['index'\]; make the data"):
        task_of({"index": 3})


def test_a_solution_is_scored_with_the_crops_that_were_called(task: VideoTask) -> None:
    [row] = rows([task])
    truth = row["reward_model"]["ground_truth"]
    solution = TURNS.format(call=call_of(), answer="<answer>B</answer>")
    # Right, in form, and one call for exactly the clue: the whole bonus of 1.
    score = compute_score("clue_single_w_tool", solution, truth, extra_info={"num_turns": 4})
    assert score == {"score": 3.0, "acc": 1.0, "format": 1.0, "bonus": 1.0}
    wrong = TURNS.format(call=call_of(), answer="<answer>A</answer>")
    assert compute_score("clue_single_w_tool", wrong, truth)["score"] == 1.0


@pytest.mark.parametrize("call", [call_of(detail="sharp"), "<tool_call>no JSON</tool_call>"])
def test_a_call_that_makes_no_sense_costs_form(call: str, task: VideoTask) -> None:
    [row] = rows([task])
    solution = TURNS.format(call=call, answer="<answer>B</answer>")
    score = compute_score("clue_single_w_tool", solution, row["reward_model"]["ground_truth"])
    # One fault in two turns costs half of the form, and without it there is no bonus.
    assert score == {"score": 1.5, "acc": 1.0, "format": 0.5, "bonus": 0.0}


def test_a_solution_that_ends_with_a_call_has_no_answer(task: VideoTask) -> None:
    [row] = rows([task])
    truth = row["reward_model"]["ground_truth"]
    assert compute_score("clue_single_w_tool", f"<think>x</think>{call_of()}", truth)["acc"] == 0.0
    assert compute_score("clue_single_w_tool", "", truth)["score"] == 0.0


def test_an_unknown_data_source_is_an_error() -> None:
    with pytest.raises(TaskError, match="unknown data_source 'geo3k'"):
        compute_score("geo3k", "", {"answer": "B"})


@pytest.mark.parametrize("arguments", [None, "", [], {}, {"start": {}}, 7])
def test_any_arguments_make_a_reply(arguments: Any) -> None:
    assert reply_of(arguments).startswith("<think></think><grounding>")


def test_episodes_of_a_process_share_decoded_clips(task: VideoTask) -> None:
    clips = shared_cache(2**20)
    assert shared_cache(2**20) is clips
    for _ in range(2):
        assert GuardedEpisode(task, RULES, clips).start() is not None
    assert (clips.stats.misses, clips.stats.hits) == (1, 1)


def test_a_broken_video_ends_its_episode_and_raises_nothing(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    episode = GuardedEpisode(make_task(path), RULES, shared_cache())
    assert episode.start() is None and episode.reply(answer_reply("B")) is None
    episode.end()
    assert episode.trajectory.end_reason is EndReason.VIDEO_FAILED
    assert REWARD(episode.trajectory).value == 0.0


def test_a_video_that_fails_half_way_ends_its_episode(minute_video: Path, tmp_path: Path) -> None:
    path = tmp_path / "here_today.mp4"
    path.write_bytes(minute_video.read_bytes())
    episode = GuardedEpisode(make_task(path), RULES, shared_cache())
    assert episode.start() is not None
    path.unlink()
    assert episode.reply(crop_reply(10, 20)) is None
    assert episode.trajectory.end_reason is EndReason.VIDEO_FAILED
    assert len(episode.trajectory.turns) == 1


def test_tool_rows_hold_the_overview_and_leave_out_what_has_none(
    task: VideoTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    tasks = [task, dataclasses.replace(task, id="broken", video=str(broken))]
    [row] = tool_rows(tasks, rules={"budget": "tiny"})
    assert "left out task broken: video_failed" in caplog.text
    system, user = row["prompt"]
    assert system == {"role": "system", "content": CROP_SYSTEM}
    assert user["content"].count("<image>") == len(row["images"]) == 20
    assert user["content"].startswith("0.0 s<image>3.2 s<image>")
    assert all(image["bytes"].startswith(b"\x89PNG") for image in row["images"])
    create = row["extra_info"]["tools_kwargs"]["crop"]["create_kwargs"]
    assert task_of(create) == task


@pytest.mark.parametrize(
    "arguments", [{}, {"start": 5, "end": 4, "detail": "fine"}, {"start": 3, "end": 9}]
)
def test_what_the_tool_says_fits_into_verls_256_characters(arguments: dict[str, Any]) -> None:
    # verl cuts longer texts in the middle by default; ten hours make the longest times.
    action = parse_reply(reply_of(arguments), duration_seconds=36_000.0)
    assert isinstance(action, Malformed)
    assert len(DEFAULT_PROMPTS.error_text(action.message)) <= 256


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("verl.experimental.agent_loop.agent_loop.AgentLoopBase.run", VideoSeekAgentLoop.run),
        *((f"verl.tools.base_tool.BaseTool.{name}", getattr(VideoCropTool, name))
          for name in ("__init__", "create", "execute", "calc_reward", "release")),
    ],
)  # fmt: skip
def test_methods_take_what_verl_passes(name: str, ours: Any) -> None:
    parameters = [each for each in inspect.signature(ours).parameters if each != "self"]
    # verl passes the row, or keyword arguments of the tool, by name.
    assert [{"row": "kwargs"}.get(each, each) for each in parameters] == list(PUBLISHED[name])


def test_the_loop_takes_what_verl_passes() -> None:
    names = PUBLISHED["verl.experimental.agent_loop.agent_loop.AgentLoopBase.__init__"]
    arguments = dict.fromkeys([*names[:-1], "tools"])
    inspect.signature(VideoSeekAgentLoop).bind(rules={"budget": "tiny"}, **arguments)


@pytest.mark.skipif(HAS_VERL, reason="verl is installed")
def test_without_verl_an_error_says_what_is_missing() -> None:
    with pytest.raises(MissingExtraError, match="the agent loop needs the package 'verl'"):
        VideoSeekAgentLoop(data_config=None)
    with pytest.raises(MissingExtraError, match="the crop tool needs the package 'verl'"):
        VideoCropTool({"type": "native"})


# From here on, verl itself.

ignored = pytest.mark.filterwarnings("ignore::Warning")
"""verl and what it brings warn a lot, and this project can't change that."""


@needs_verl
@ignored
def test_the_published_signatures_are_verls() -> None:
    for path, names in PUBLISHED.items():
        module, owner, method = path.rsplit(".", 2)
        function = getattr(getattr(importlib.import_module(module), owner), method)
        found = [name for name in inspect.signature(function).parameters if name != "self"]
        assert tuple(found) == names, path
    from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

    assert tuple(AgentLoopOutput.model_fields) == OUTPUT_FIELDS


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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    from transformers import AutoProcessor

    from agents.llm.tiny import save_tiny, tiny_model
    from agents.llm.tiny_tokenizer import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer=tokenizer)
    folder = tmp_path_factory.mktemp("verl") / "tiny"
    save_tiny(folder, model=model, tokenizer=tokenizer, video_processor=False)
    return Checkpoint(folder, tokenizer, AutoProcessor.from_pretrained(folder), model)


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


@needs_verl
@ignored
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


@needs_verl
@ignored
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


@needs_verl
@ignored
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


@needs_verl
@ignored
def test_a_prompt_without_room_is_no_crash(task: VideoTask, checkpoint: Checkpoint) -> None:
    engine = ScriptedEngine(checkpoint.tokenizer, [])
    output = play_one(checkpoint, engine, task, rules={"budget": "tiny"}, prompt_length=100)
    assert output.extra_fields["end_reason"] == "prompt_too_long" and not engine.calls
    assert output.prompt_ids and output.response_mask == [0] and output.response_logprobs == [0.0]
    assert output.reward_score == 0.0 and output.multi_modal_data == {}


@needs_verl
@ignored
def test_a_broken_video_is_no_crash(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    output = play_one(checkpoint, ScriptedEngine(checkpoint.tokenizer, []), make_task(path))
    assert output.extra_fields["end_reason"] == "video_failed" and output.response_mask == [0]


@needs_verl
@ignored
def test_a_reply_without_an_end_was_cut(task: VideoTask, checkpoint: Checkpoint) -> None:
    engine = ScriptedEngine(checkpoint.tokenizer, [crop_reply(10, 20)], closes=False)
    written = checkpoint.tokenizer.encode(crop_reply(10, 20))
    output = play_one(
        checkpoint, engine, task, rules={"budget": "tiny"}, response_length=len(written)
    )
    assert output.extra_fields["end_reason"] == "reply_cut"
    assert output.response_ids == written and output.response_mask == [1] * len(written)


@needs_verl
@ignored
def test_the_tool_keeps_one_session_per_trajectory(task: VideoTask) -> None:
    class AgentData:
        """What verl passes along a trajectory."""

    async def crop_twice() -> list[Any]:
        tool, trajectory = (
            VideoCropTool({"type": "native", "rules": {"budget": "tiny", "max_turns": 3}}),
            AgentData(),
        )
        responses = []
        for arguments in ({"start": 10, "end": 20, "detail": "fine"}, {"start": "x"}, {}, {}):
            [row] = tool_rows([task], rules={"budget": "tiny"})
            create = row["extra_info"]["tools_kwargs"]["crop"]["create_kwargs"]
            instance, _ = await tool.create(create_kwargs=create)
            response, reward, metrics = await tool.execute(
                instance, arguments, agent_data=trajectory
            )
            await tool.release(instance)
            assert (reward, metrics) == (0.0, {}) and not tool._tasks
            responses.append(response)
        assert len(tool._episodes) == 1
        del trajectory
        assert len(tool._episodes) == 0
        return responses

    crop, error, *over = asyncio.run(crop_twice())
    assert len(crop.image) == 8 and crop.text.startswith("Crop: 8 frames from 10.0 s to 20.0 s")
    assert error.image is None and "list of two finite numbers" in error.text
    assert [response.text for response in over] == ["The episode is over: turns_exhausted."] * 2


@needs_verl
@ignored
def test_the_tool_has_a_schema_that_verl_reads(tmp_path: Path) -> None:
    from verl.tools.tool_registry import load_all_tools

    config = tmp_path / "tools.yaml"
    config.write_text(
        "tools:\n  - class_name: envs.adapters.verl_tool.VideoCropTool\n"
        "    config: {type: native, rules: {budget: tiny}}\n"
    )
    [tool] = load_all_tools(str(config), None)
    assert tool.name == "crop"
    assert tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) == CROP_SCHEMA


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


@needs_its_transformers
@ignored
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


@needs_its_transformers
@ignored
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
