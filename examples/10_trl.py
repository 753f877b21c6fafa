"""Train with TRL: the model calls `crop` and `answer`, and GRPO rewards the episode.

A tiny model first has to be shown what a tool call looks like. A real one needs no lesson, template
or processor: give its name, and a `max_completion_length` that holds the frames of all crops.

Run: python examples/10_trl.py --steps 20
"""

import tempfile
import warnings
from dataclasses import replace
from typing import Any

import torch
import tyro
from transformers import AutoProcessor, PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_template

from agents.llm.tiny import TINY_PROMPTS, save_tiny, tiny_model
from agents.llm.tiny_tokenizer import CHAT_TEMPLATE, tiny_tokenizer
from envs.adapters.trl import VideoSeekTRLEnvironment, environment_factory, train_dataset
from videoseek_env import SessionConfig, get_budget, load_tasks

BUDGET = replace(get_budget("tiny"), name="small", overview_frames=4, max_crop_frames=4)
CALL = '<tool_call>{"name": "'  # the pieces are a token each, so that a call is learnt in seconds
PIECES = [CALL + 'crop", "arguments": {"start": ', ', "end": ', ', "detail": "',
          CALL + 'answer", "arguments": {"text": "', '"}}</tool_call>']  # fmt: skip
WRITE_CALLS = """\
{%- for call in message['tool_calls'] or [] -%}
{{- '<tool_call>' + (call['function'] | tojson) + '</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>"""
TENSORS = {"images_kwargs": {"return_tensors": "pt"}}  # for TRL 1.16 without torchvision


def make_model(folder: str) -> tuple[Any, Any]:
    """A tiny model and its processor, with a chat template that has tools."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(PIECES)
    model = tiny_model(tokenizer=tokenizer)
    save_tiny(f"{folder}/model", model=model, tokenizer=tokenizer, video_processor=False)
    processor = AutoProcessor.from_pretrained(f"{folder}/model")
    processor.chat_template = CHAT_TEMPLATE.replace("{{- '<|im_end|>", WRITE_CALLS)
    processor.tokenizer.response_template = qwen3_template
    return model, processor


def lesson(environment: VideoSeekTRLEnvironment, task_id: str, letter: str) -> list[Any]:
    """A conversation with a call of each tool."""
    messages: list[Any] = [{"role": "user", "content": environment.reset(task_id)}]
    crop = {"start": 10, "end": 20, "detail": "fine"}
    for name, arguments in (("crop", crop), ("answer", {"text": letter})):
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        result = getattr(environment, name)(**arguments)
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "name": name, "content": result})
    return [*messages, {"role": "assistant", "content": "."}]


def teach(model: Any, processor: Any, lessons: list[Any]) -> None:
    """Fit the model to the lessons, one at a time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    as_tensors = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    for messages in lessons:
        batch = processor.apply_chat_template([messages], **as_tensors)
        labels = batch["input_ids"].masked_fill(batch["mm_token_type_ids"] == 1, -100)
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main(steps: int = 2) -> None:
    """Train by GRPO with TRL, and print the mean reward of each step."""
    warnings.simplefilter("ignore")  # TRL calls environments experimental
    torch.set_num_threads(1)
    tasks = load_tasks("needle", budget="tiny")[:4]
    make = environment_factory(tasks, config=SessionConfig(budget=BUDGET, prompts=TINY_PROMPTS))
    with tempfile.TemporaryDirectory() as folder:
        model, processor = make_model(folder)
        lessons = [lesson(make(), task.id, letter) for letter in "ABCD" for task in tasks]
        teach(model, processor, 5 * lessons)
        settings = GRPOConfig(
            folder, max_steps=steps, num_generations=8, learning_rate=1e-4, logging_steps=1,
            max_completion_length=200, chat_template_kwargs={"processor_kwargs": TENSORS},
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, bf16=False,
        )  # fmt: skip
        trainer = GRPOTrainer(model, args=settings, train_dataset=train_dataset(tasks),
                              processing_class=processor, environment_factory=make)  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    for step in trainer.state.log_history[:-1]:
        calls = step["tools/call_frequency"]
        print(f"step {step['step']}: reward {step['reward']:.2f}, {calls:.1f} tool calls each")


if __name__ == "__main__":
    tyro.cli(main)
