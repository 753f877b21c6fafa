"""A GRPO step, ours against TRL's; and what reading a group's prompt once is worth.

Run with `python benchmarks/training.py`; `--quick` takes one round and a smaller model.

Both trainers play the same questions about the same frames with the same model: as many episodes of
a question, prompts of the same tokens, replies of the same number of tokens, one reply an episode.
TRL's prompts hold every other frame as an image, since its image tokens cover one frame where ours
cover two: the visual tokens and the patches are as many. Rewards are random numbers. A step plays,
learns, and changes the parameters; the first one of each trainer is not counted. Seconds are those
of the processor, of one thread; the table has medians, and medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from agents.learning.collecting import CollectorConfig
from agents.learning.grpo import GRPOLearner
from agents.learning.grpo_config import GRPOConfig
from agents.learning.optimiser import OptimiserConfig
from agents.llm.context import Context
from agents.llm.model import VisionLanguageModel
from agents.llm.tiny import TINY_PROMPTS, TinyConfig, save_tiny, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer
from rewards import Reward
from videoseek_env import SessionConfig, load_tasks
from videoseek_env.budget import TINY, Budget, Quota
from videoseek_env.session import Observation, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory
from videoseek_env.video import ClipCache, open_video

REPLY_TOKENS = 48
GROUP = 8
LONG = replace(TINY, name="long", overview=Quota(768, 256), overview_frames=96, context_tokens=4096)
"""An overview of many frames, as the published budgets have it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One comparison."""

    name: str
    budget: Budget
    questions: int


SETTINGS = (
    Setting("short prompts", TINY, 8),
    Setting("prompts dominate", LONG, 2),
)


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one side in one round."""

    seconds: float
    """A step."""
    tokens: float
    """Read and written in a step: a reply of random weights now and then ends by itself."""

    @property
    def tokens_per_second(self) -> float:
        """What is compared."""
        return self.tokens / self.seconds


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, a smaller model")
    parser.add_argument("--steps", type=int, default=4, help="steps counted in a round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rounds = 1 if arguments.quick else 3
    size = TinyConfig(layers=2) if arguments.quick else TinyConfig()
    print(f"{GROUP} episodes a question, replies of {REPLY_TOKENS} tokens, {rounds} rounds")
    for setting in SETTINGS:
        compare(setting, size, rounds=rounds, steps=arguments.steps)


def compare(setting: Setting, size: TinyConfig, *, rounds: int, steps: int) -> None:
    """Time all sides in turns."""
    rules = SessionConfig(
        budget=replace(setting.budget, max_reply_tokens=REPLY_TOKENS - 1), prompts=TINY_PROMPTS
    )
    tasks = load_tasks("needle", videos=4, budget=TINY)[: setting.questions]
    prompts = [first_observation(task, rules) for task in tasks]
    prompt = len(prompt_tokens(prompts[0]))
    sides: dict[str, Callable[[], Speed]] = {
        "ours": lambda: our_speed(size, tasks, rules, steps, prompt, share=True),
        "ours, each prompt by itself": lambda: our_speed(
            size, tasks, rules, steps, prompt, share=False
        ),
        "TRL": lambda: trl_speed(size, prompts, steps, prompt),
    }
    measured: dict[str, list[Speed]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            measured[name].append(measure())
    print(f"\n{setting.name}: {setting.questions} questions, prompts of {prompt} tokens")
    print(f"{'':30}{'s a step':>9}{'tokens/s':>10}{'ours is':>9}")
    for name, speeds in measured.items():
        ratio = statistics.median(
            ours.tokens_per_second / other.tokens_per_second
            for ours, other in zip(measured["ours"], speeds, strict=True)
        )
        seconds = statistics.median(speed.seconds for speed in speeds)
        rate = statistics.median(speed.tokens_per_second for speed in speeds)
        print(f"{name:30}{seconds:9.2f}{rate:10.0f}{ratio:8.2f}x", flush=True)


def first_observation(task: VideoTask, rules: SessionConfig) -> Observation:
    """The overview and the question."""
    return VideoSession(task, open_video(task.video), rules, cache=ClipCache(2**26)).start()


def make_model(size: TinyConfig) -> VisionLanguageModel:
    """Random weights."""
    tokenizer = tiny_tokenizer()
    return VisionLanguageModel.wrap(tiny_model(size, tokenizer=tokenizer), tokenizer)


def prompt_tokens(seen: Observation) -> Any:
    """The tokens of a first observation."""
    context = Context()
    make_model(TinyConfig(layers=1)).builder.observe(context, seen)
    return context.tokens


def our_speed(
    size: TinyConfig,
    tasks: list[VideoTask],
    rules: SessionConfig,
    steps: int,
    prompt: int,
    *,
    share: bool,
) -> Speed:
    """Of our learner."""
    rng = np.random.default_rng(0)

    def reward(trajectory: Trajectory) -> Reward:
        return Reward(float(rng.normal()))

    learner = GRPOLearner(
        make_model(size),
        tasks,
        GRPOConfig(
            steps=steps + 1,
            collector=CollectorConfig(questions=len(tasks), group_size=GROUP, workers=1),
            drop_uninformative=False,
            optimiser=OptimiserConfig(learning_rate=1e-6),
            share_prompts=share,
        ),
        session=rules,
        reward=reward,
    )
    learner.update(0)
    began = time.process_time()
    replies = [learner.update(step).metrics["reply_tokens"] for step in range(1, steps + 1)]
    seconds = (time.process_time() - began) / steps
    return Speed(seconds, len(tasks) * GROUP * (prompt + statistics.mean(replies)))


def trl_speed(size: TinyConfig, prompts: list[Observation], steps: int, prompt: int) -> Speed:
    """Of TRL's trainer."""
    from datasets import Dataset
    from transformers import AutoProcessor, PrinterCallback, TrainerCallback
    from trl import GRPOConfig as TRLConfig
    from trl import GRPOTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        began = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                self.began = time.process_time()

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tiny_tokenizer()
        model = tiny_model(size, tokenizer=tokenizer)
        save_tiny(f"{folder}/model", model=model, tokenizer=tokenizer, video_processor=False)
        processor = AutoProcessor.from_pretrained(f"{folder}/model")
        trainer = GRPOTrainer(
            model,
            reward_funcs=lambda completions, **rest: rng.normal(size=len(completions)).tolist(),
            args=TRLConfig(
                folder,
                max_steps=steps + 1,
                num_generations=GROUP,
                per_device_train_batch_size=GROUP * len(prompts),
                learning_rate=1e-6,
                max_completion_length=REPLY_TOKENS,
                generation_kwargs={"min_new_tokens": REPLY_TOKENS},
                loss_type="dapo",
                epsilon_high=0.3,
                save_strategy="no",
                report_to="none",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                chat_template_kwargs={
                    "processor_kwargs": {"images_kwargs": {"return_tensors": "pt"}}
                },
            ),
            train_dataset=Dataset.from_list([trl_row(seen) for seen in prompts]),
            processing_class=processor,
        )
        clock = Clock()
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        seconds = (time.process_time() - clock.began) / steps
    return Speed(seconds, len(prompts) * GROUP * (prompt + REPLY_TOKENS))


def trl_row(seen: Observation) -> dict[str, Any]:
    """The same prompt in TRL's words: an image for every pair of frames, its time before it."""
    if seen.clip is None:
        raise ValueError("the first observation has an overview")
    content: list[dict[str, Any]] = []
    images = []
    for time_seconds, frame in zip(
        seen.clip.timestamps_seconds[::2], seen.clip.frames[::2], strict=True
    ):
        content += [{"type": "text", "text": f"{time_seconds:.0f}"}, {"type": "image"}]
        images.append(Image.fromarray(frame))
    content.append({"type": "text", "text": seen.text})
    messages = [
        {"role": "system", "content": [{"type": "text", "text": seen.system}]},
        {"role": "user", "content": content},
    ]
    return {"prompt": messages, "images": images}


if __name__ == "__main__":
    main()
