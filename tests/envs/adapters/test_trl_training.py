import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl", reason="TRL is an extra")
pytest.importorskip("PIL")

import torch
import trl
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl.chat_template_utils import (
    add_response_schema,
    parse_response,
    qwen3_template,
    qwen3_vl_chat_template,
)

from agents.llm.tiny import TINY_PROMPTS, save_tiny, tiny_model
from agents.llm.tiny_tokenizer import CHAT_TEMPLATE, tiny_tokenizer
from envs.adapters.trl import environment_factory, train_dataset
from rewards import Reward
from tests.envs.adapters.same_episode import RULES, answer, crop, make_task
from videoseek_env.budget import TINY
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using 'environment_factory':UserWarning"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]

PIECES = [
    '<tool_call>{"name": "crop", "arguments": {"start": ', ', "end": ', ', "detail": "',
    '<tool_call>{"name": "answer", "arguments": {"text": "', '"}}</tool_call>',
]  # fmt: skip
"""A token each, so that a minute of learning is enough to call a tool."""

TEMPLATE = CHAT_TEMPLATE.replace(
    "{{- '<|im_end|>",
    """\
{%- for call in message['tool_calls'] or [] -%}
{{- '<tool_call>' + (call['function'] | tojson) + '</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>""",
)
"""Without the tools' schemas, which alone would be 800 tokens to the tiny tokenizer."""

SMALL = SessionConfig(
    budget=dataclasses.replace(TINY, name="small", overview_frames=4, max_crop_frames=4),
    prompts=TINY_PROMPTS,
)

TENSORS = {"processor_kwargs": {"images_kwargs": {"return_tensors": "pt"}}}
"""Without torchvision, image processors return arrays. TRL 1.16 takes them apart as tensors where
nobody in a batch got images from a tool."""


@dataclasses.dataclass
class Pupil:
    """A tiny model that calls `crop` and then answers with any letter."""

    folder: Path
    tasks: list[VideoTask]

    def load(self) -> tuple[Any, Any]:
        processor = AutoProcessor.from_pretrained(self.folder)
        processor.chat_template = TEMPLATE
        processor.tokenizer.response_template = qwen3_template
        return AutoModelForImageTextToText.from_pretrained(self.folder), processor


@pytest.fixture(scope="module")
def pupil(minute_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Pupil:
    folder = tmp_path_factory.mktemp("trl")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(PIECES)
    model = tiny_model(tokenizer=tokenizer)
    save_tiny(folder / "new", model=model, tokenizer=tokenizer, video_processor=False)
    tasks = [dataclasses.replace(make_task(minute_video), id=name) for name in ("one", "two")]
    _, processor = Pupil(folder / "new", tasks).load()
    teach(model, [encoded(processor, tasks[0], letter) for letter in "ABCD"])
    save_tiny(folder / "taught", model=model, tokenizer=tokenizer, video_processor=False)
    return Pupil(folder / "taught", tasks)


def encoded(processor: Any, task: VideoTask, letter: str) -> dict[str, Any]:
    """A whole conversation with both tools, as TRL would write it."""
    environment = environment_factory([task], config=SMALL)()
    messages: list[dict[str, Any]] = [{"role": "user", "content": environment.reset(task.id)}]
    for move in (crop(10, 20), answer(letter)):
        call = {"type": "function", "function": {"name": move.tool, "arguments": move.arguments}}
        result = getattr(environment, move.tool)(**move.arguments)
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": move.tool, "content": result},
        ]
    messages.append({"role": "assistant", "content": "."})
    return dict(
        processor.apply_chat_template(
            [messages], tokenize=True, return_dict=True, return_tensors="pt"
        )
    )


def teach(model: Any, demonstrations: list[dict[str, Any]]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        batch = demonstrations[step % len(demonstrations)]
        ids = batch["input_ids"]
        labels = ids.masked_fill(ids == model.config.image_token_id, -100)
        model(**batch, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


class Recorder(trl.GRPOTrainer):  # type: ignore[misc, name-defined]
    """Keeps what the model is trained on."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.batches = [*getattr(self, "batches", []), batch]
        return batch


def letter_matters(trajectory: Trajectory) -> Reward:
    """Pays for a crop, and for each answer something else: hardly a group is all alike."""
    rank = "ABCD".find(trajectory.answer or "-") + 1
    return Reward(0.5 * len(trajectory.crops) + rank / 10, {})


def train(
    pupil: Pupil, folder: Path, *, max_completion_length: int = 200, steps: int, batch_size: int = 4
) -> tuple[Any, list[Trajectory]]:
    """Train the model with the real trainer; the trainer, and every episode that was scored."""
    scored: list[Trajectory] = []

    def reward(trajectory: Trajectory) -> Reward:
        scored.append(trajectory)
        return letter_matters(trajectory)

    model, processor = pupil.load()
    settings = trl.GRPOConfig(
        output_dir=str(folder),
        max_steps=steps,
        num_generations=4,
        per_device_train_batch_size=batch_size,
        max_completion_length=max_completion_length,
        learning_rate=1e-3,
        chat_template_kwargs=TENSORS,
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
    )
    trainer = Recorder(
        model=model,
        args=settings,
        train_dataset=train_dataset(pupil.tasks),
        processing_class=processor,
        environment_factory=environment_factory(pupil.tasks, config=SMALL, reward=reward),
    )
    trainer.train()
    return trainer, scored


def test_grpo_trains_on_episodes(pupil: Pupil, tmp_path: Path) -> None:
    trainer, scored = train(pupil, tmp_path, steps=2)
    groups = [scored[:4], scored[4:]]
    assert [len({played.task.id for played in group}) for group in groups] == [1, 1]
    # The overview is the first clip.
    assert sum(len(played.clips) > 1 for played in scored) >= 4
    assert sum(played.end_reason is EndReason.ANSWERED for played in scored) >= 4
    rewards = [[letter_matters(played).value for played in group] for group in groups]
    logged = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert logged == pytest.approx([sum(group) / 4 for group in rewards])
    assert max(np.std(group) for group in rewards) > 0
    before = pupil.load()[0].state_dict()
    after = trainer.model.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert all(after[name].isfinite().all() for name in after)


def test_the_loss_leaves_out_what_the_tools_said_and_no_image_is_lost(
    pupil: Pupil, tmp_path: Path
) -> None:
    trainer, scored = train(pupil, tmp_path, steps=1)
    [batch] = trainer.batches
    tokenizer, image = trainer.processing_class.tokenizer, trainer.model.config.image_token_id
    cells = sum(clip.height * clip.width * len(clip.indices) for played in scored
                for clip in played.clips) // 32**2  # fmt: skip
    placeholders = (batch["prompt_ids"] == image).sum() + (batch["completion_ids"] == image).sum()
    # Each frame is an image of its own, so a pair costs twice what the session counts.
    assert placeholders == cells == 2 * sum(played.visual_tokens for played in scored)
    assert batch["image_grid_thw"].prod(-1).sum() == 4 * cells
    assert batch["mm_token_type_ids"].sum() == cells
    for row, played in enumerate(scored):
        ids, mask = batch["completion_ids"][row], batch["completion_mask"][row].bool()
        own = ids[mask & batch["tool_mask"][row].bool()]
        told = ids[mask & ~batch["tool_mask"][row].bool()]
        assert image not in own
        written = tokenizer.decode(own)
        assert written.count("<tool_call>{") >= len(played.turns)
        assert "The episode is over" not in written
        for turn in played.turns[1:]:
            assert turn.observation in tokenizer.decode(told)


def test_a_tool_result_that_does_not_fit_is_taken_back_and_the_episode_scored(
    pupil: Pupil, tmp_path: Path
) -> None:
    # A crop's call has 9 tokens, its 4 frames of 2 x 3 cells alone are 24.
    trainer, scored = train(pupil, tmp_path, max_completion_length=24, steps=1)
    [batch] = trainer.batches
    assert batch["completion_ids"].shape[1] <= 24
    assert trainer.model.config.image_token_id not in batch["completion_ids"]
    cropped = [played for played in scored if played.crops]
    assert cropped
    assert {played.end_reason for played in cropped} == {EndReason.ABANDONED}
    assert trainer.state.log_history[0]["reward"] == pytest.approx(0.5 * len(cropped) / 4)


def test_a_video_that_cannot_be_opened_costs_its_group_and_not_the_run(
    pupil: Pupil, tmp_path: Path
) -> None:
    good, other = pupil.tasks
    broken = dataclasses.replace(other, video=str(tmp_path / "none.mp4"))
    trainer, scored = train(
        dataclasses.replace(pupil, tasks=[good, broken]), tmp_path, steps=1, batch_size=8
    )
    assert [played.task.id for played in scored] == [good.id] * 4
    rewards = [letter_matters(played).value for played in scored]
    assert trainer.state.log_history[0]["reward"] == pytest.approx(sum(rewards) / 4)
    # None of the four is compared with anything.
    assert (trainer.batches[0]["advantages"] == 0).sum() >= 4


def test_qwen3_vl_is_told_of_the_tools_and_its_calls_are_understood(
    pupil: Pupil, task: VideoTask
) -> None:
    _, processor = pupil.load()
    processor.chat_template = qwen3_vl_chat_template
    del processor.tokenizer.response_template
    add_response_schema(processor)
    environment_ = environment_factory([task], config=RULES)()
    tools = [environment_.crop, environment_.answer]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": environment_.reset(task.id)}],
        tools=tools, add_generation_prompt=True, tokenize=False,
    )  # fmt: skip
    for part in ('"crop"', '"answer"', "in seconds of the whole video", '"enum": ["coarse"'):
        assert part in prompt
    assert prompt.count("<|image_pad|>") == 20
    written = '<tool_call>\n{"name": "crop", "arguments": {"start": 10, "end": 20.5, '
    written += '"detail": "fine"}}\n</tool_call><|im_end|>'
    tokenizer = processor.tokenizer
    message = parse_response(
        tokenizer, tokenizer.encode(written), prefix=tokenizer.encode(prompt), tools=tools
    )
    [call] = message["tool_calls"]
    getattr(environment_, call["function"]["name"])(**call["function"]["arguments"])
    [turn] = environment_.session.trajectory.turns
    assert turn.reply == crop(10, 20.5).reply
