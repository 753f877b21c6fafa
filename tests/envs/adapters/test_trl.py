import dataclasses
import inspect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("trl", reason="TRL is an extra")
pytest.importorskip("PIL")

import datasets
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
from envs.adapters.content import TOOL_SYSTEM, crop_reply, for_tools, image_of
from envs.adapters.trl import environment_factory, train_dataset
from rewards import Reward
from tests.envs.adapters.same_episode import (
    EPISODES,
    REWARD,
    RULES,
    Move,
    Played,
    answer,
    check_same_episode,
    crop,
    make_task,
    seen_in,
)
from tests.synthetic_video import read_barcodes
from videoseek_env.action import STRATEGIES, Crop, Fault, Malformed, parse_reply, write_crop
from videoseek_env.budget import TINY
from videoseek_env.errors import (
    ConfigError,
    EpisodeError,
    MissingExtraError,
    TaskError,
    VideoDecodeError,
)
from videoseek_env.prompts import DEFAULT_PROMPTS, Prompts
from videoseek_env.segment import Segment
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import ClipCache

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using 'environment_factory':UserWarning"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]


@pytest.fixture
def task(minute_video: Path) -> VideoTask:
    return make_task(minute_video)


def environment(task: VideoTask, rules: SessionConfig = RULES, **options: Any) -> Any:
    environment = environment_factory([task], config=rules, **options)()
    environment.reset(task_id=task.id)
    return environment


def text_of(blocks: Sequence[dict[str, Any]]) -> str:
    """The text of an observation without frames."""
    [block] = blocks
    assert block["type"] == "text"
    return str(block["text"])


def play(task: VideoTask, rules: SessionConfig, moves: Sequence[Move]) -> Played:
    environment = environment_factory([task], config=rules, reward=REWARD)()
    system, *blocks = environment.reset(task_id=task.id, prompt=[{"role": "user", "content": ""}])
    seen = [blocks, *(getattr(environment, move.tool)(**move.arguments) for move in moves)]
    ending = text_of(seen.pop())
    reward = environment.get_reward()
    assert environment.session is not None
    assert ending == f"The episode is over: {environment.session.end_reason}."
    assert reward is not None
    return Played(
        system=system["text"].removesuffix("\n\n"),
        observations=list(map(seen_in, seen)),
        end_reason=str(environment.session.end_reason),
        reward=reward,
    )


@pytest.mark.parametrize("moves", EPISODES.values(), ids=EPISODES)
def test_an_episode_is_the_sessions(moves: Sequence[Move], task: VideoTask) -> None:
    check_same_episode(play, moves, task, for_tools(RULES))


def test_the_only_public_methods_are_the_tools_and_what_trl_asks_for(task: VideoTask) -> None:
    methods = inspect.getmembers(environment(task), callable)
    assert {name for name, _ in methods if not name.startswith("_")} == {
        "reset", "crop", "answer", "get_reward"
    }  # fmt: skip


def test_after_the_end_tools_say_so_and_change_nothing(task: VideoTask) -> None:
    environment_ = environment(task)
    environment_.crop(start=10, end=20, detail="fine")
    environment_.answer(text="B")
    before = environment_.session.trajectory
    for _ in range(2):
        assert text_of(environment_.answer(text="C")) == "The episode is over: answered."
        assert text_of(environment_.crop(1, 9, "fine")) == "The episode is over: answered."
    assert environment_.session.trajectory == before
    # Accuracy 1, format 1, and at most 1 for having cropped the clue.
    assert 2 < environment_.get_reward() <= 3


def test_an_episode_without_an_answer_is_scored_and_over(task: VideoTask) -> None:
    environment_ = environment(task)
    environment_.crop(start=10, end=20, detail="fine")
    assert environment_.get_reward() == 0
    assert environment_.session.end_reason is EndReason.ABANDONED
    assert text_of(environment_.answer(text="B")) == "The episode is over: abandoned."
    assert environment_.get_reward() == 0
    assert environment(task).get_reward() == 0, "not even a crop"


def test_the_reward_is_that_of_the_function_given(task: VideoTask) -> None:
    seen: list[Trajectory] = []

    def count(trajectory: Trajectory) -> Reward:
        seen.append(trajectory)
        return Reward(np.float32(7), {})  # type: ignore[arg-type]

    environment_ = environment(task, reward=count)
    environment_.answer(text="B")
    assert type(environment_.get_reward()) is float
    assert seen == [environment_.session.trajectory]


def test_a_reset_leaves_nothing_of_the_episode_before(task: VideoTask, tmp_path: Path) -> None:
    other = dataclasses.replace(task, id="other", question="Which letter?")
    environment_ = environment_factory([task, other], config=RULES)()
    first = environment_.reset(task_id=task.id)
    environment_.crop(10, 20, "fine")
    environment_.answer("B")
    again = environment_.reset(task_id="other")
    assert environment_.session is not None
    assert environment_.session.trajectory.turns == ()
    assert environment_.session.task == other
    assert again[-1]["text"] == first[-1]["text"].replace(task.question, "Which letter?")
    assert environment_.get_reward() == 0


def test_members_of_a_group_see_the_same_and_decode_it_once(task: VideoTask) -> None:
    cache = ClipCache(2**24)
    make = environment_factory([task], config=RULES, cache=cache)
    first, second = (seen_in(make().reset(task_id=task.id)) for _ in range(2))
    for frame, other in zip(first.frames, second.frames, strict=True):
        np.testing.assert_array_equal(frame, other)
    assert (cache.stats.misses, cache.stats.hits) == (1, 1)


def test_rows_name_their_tasks(task: VideoTask) -> None:
    other = dataclasses.replace(task, id="other")
    rows = train_dataset([task, other])
    assert isinstance(rows, datasets.Dataset)
    assert rows["task_id"] == [task.id, "other"]
    environment_ = environment_factory([task, other], config=RULES)()
    for row in rows:
        assert environment_.reset(**row)
        assert environment_.session is not None
        assert environment_.session.task.id == row["task_id"]


@pytest.mark.parametrize("row", [{"task_id": "nobody"}, {"prompt": []}])
def test_a_row_of_no_task_is_an_error(row: dict[str, Any], task: VideoTask) -> None:
    with pytest.raises(TaskError, match=r"no task .* such as: .*train_dataset"):
        environment_factory([task])().reset(**row)


def test_tasks_have_ids_of_their_own(task: VideoTask) -> None:
    for tasks, count in (([], 0), ([task, task], 1)):
        with pytest.raises(TaskError, match=f"got {len(tasks)} tasks with {count} ids"):
            environment_factory(tasks)


def test_nothing_happens_before_a_reset(task: VideoTask) -> None:
    environment_ = environment_factory([task])()
    for call in (
        environment_.get_reward,
        lambda: environment_.answer("B"),
        lambda: environment_.crop(1, 5, "fine"),
    ):
        with pytest.raises(EpisodeError, match="call reset"):
            call()


def test_a_video_that_cannot_be_opened_ends_its_episode_alone(
    task: VideoTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = dataclasses.replace(task, id="broken", video=str(tmp_path / "none.mp4"))
    environment_ = environment_factory([task, broken], config=RULES)()
    with caplog.at_level(logging.WARNING):
        assert text_of(environment_.reset(task_id="broken")) == "The video can't be shown."
    assert "task broken" in caplog.text and "none.mp4" in caplog.text
    assert text_of(environment_.crop(1, 5, "fine")) == "The episode is over: video_failed."
    assert environment_.get_reward() is None
    assert len(environment_.reset(task_id=task.id)) > 1


def test_a_video_that_fails_midway_has_no_reward(task: VideoTask, tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(Path(task.video).read_bytes())
    environment_ = environment(dataclasses.replace(task, video=str(path)))
    environment_.session._reader.close()
    path.write_bytes(b"")
    with pytest.raises(VideoDecodeError, match=r"v\.mp4"):  # TRL tells the model
        environment_.crop(10, 20, "fine")
    assert text_of(environment_.answer("B")) == "The episode is over: video_failed."
    assert environment_.get_reward() is None


def test_the_prompt_explains_tools_unless_it_is_ones_own(task: VideoTask) -> None:
    assert "<grounding>" in DEFAULT_PROMPTS.system
    assert for_tools().prompts.system_text() == TOOL_SYSTEM
    own = SessionConfig(prompts=Prompts(system="Look."), max_turns=9)
    assert for_tools(own) == own
    blocks = environment_factory([task], config=own)().reset(task_id=task.id)
    assert blocks[0]["text"] == "Look.\n\n"


def test_frames_beyond_the_limit_are_thinned_out(task: VideoTask) -> None:
    _, *blocks = environment_factory([task], config=RULES, max_images=3)().reset(task_id=task.id)
    seen = seen_in(blocks)
    # The tiny overview has 20 frames, evenly spaced over frames 0 to 599: of 19 steps, 0, 10 (9.5
    # rounds to even) and 19.
    assert read_barcodes(np.stack(seen.frames)) == [0, 315, 599]
    assert seen.text.endswith("\n3 of the 20 frames are shown.")


def test_at_least_one_frame_is_shown(task: VideoTask) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        environment_factory([task], max_images=0)().reset(task_id=task.id)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
"""What JSON can hold, and what a parser makes of NaN."""


@given(anything, anything, anything)
def test_no_argument_of_a_crop_is_anything_but_a_crop_or_a_fault_of_one(
    start: object, end: object, detail: object
) -> None:
    action = parse_reply(crop_reply(start, end, detail), duration_seconds=60.0)
    if isinstance(action, Malformed):
        assert action.fault in (Fault.BAD_SEGMENT, Fault.EMPTY_SEGMENT, Fault.BAD_STRATEGY)
    else:
        assert isinstance(action, Crop)


@given(st.floats(0, 1e6), st.floats(1, 1e6), st.sampled_from(STRATEGIES))
def test_a_good_crop_is_written_in_the_strict_form(
    start: float, length: float, detail: Any
) -> None:
    segment = Segment(start, start + length)
    assert crop_reply(start, start + length, detail) == write_crop("", segment, detail)


def test_without_its_packages_the_adapter_says_what_to_install(
    task: VideoTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"videoseek-env\[trl\]"):
        train_dataset([task])
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="pillow"):
        image_of(np.zeros((1, 1, 3), np.uint8))


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
    environment_ = environment(task)
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
