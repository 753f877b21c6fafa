"""`videoseek train`: options in, a run in its folder out."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from agents.baselines import OraclePolicy
from agents.cli_train import GRPO, PPO, SFT, RolloutOptions, TrainOptions
from agents.learning.checkpoint import step_of
from agents.learning.collecting import CollectorConfig
from agents.learning.demonstration_reader import DemonstrationReader
from agents.learning.demonstrations import Demonstrator
from agents.learning.grpo import GRPOLearner
from agents.learning.grpo_config import GRPOConfig
from agents.learning.learner import Learner
from agents.learning.optimiser import OptimiserConfig
from agents.learning.ppo import PPOConfig, PPOLearner
from agents.learning.running import RunConfig, run
from agents.learning.sft import SFTConfig, SFTLearner
from agents.learning.terminal import Terminal
from agents.learning.tracking import Tracker, make_trackers
from agents.llm.decoupling import TaskDecoupling
from agents.llm.model import VisionLanguageModel, is_adapter
from agents.llm.tiny import TINY_PROMPTS, TinyConfig, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer
from agents.named_reward import checked, load_reward
from agents.named_tasks import are_from_nothing, tasks_for
from agents.rollout import RolloutConfig, rollout
from agents.session_rules import first_rules, overridden, write_rules
from agents.settings_file import write_settings
from agents.train_settings import settings_of, settled_options
from rewards.credit import CoverageShaping
from rewards.reward import RewardFunction
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.errors import ConfigError, MissingExtraError, check_counts
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import Trajectory, read_records

_PATIENCE: Final = timedelta(hours=1)
"""How long processes wait for one whose videos hang, say."""


def run_train(options: TrainOptions) -> int:
    """Train until the end, and say where everything is.

    Returns:
        0.

    Raises:
        ConfigError: If the options can't be gone by: see `settled_options`.
    """
    console, started = Console(), time.perf_counter()
    options, checkpoint = settled_options(options)
    _check(options)
    set_seed(options.seed)
    disable_progress_bar()  # one for each checkpoint would bury ours
    patience = InitProcessGroupKwargs(timeout=_PATIENCE)
    accelerator = Accelerator(mixed_precision=_precision(options), kwargs_handlers=[patience])
    model, rules = load_learning_model(options, checkpoint, device=accelerator.device)
    learner = make_learner(options, model, rules, accelerator=accelerator)
    settings = settings_of(options) | {"mixed_precision": accelerator.mixed_precision}

    def trackers(done: int) -> list[Tracker]:
        made = make_trackers(
            options.out,
            config=settings,
            resume_from=done,
            tensorboard=options.tensorboard,
            wandb_project=options.wandb_project,
        )
        write_settings(options.out / "config.json", settings)  # from here on it is a run
        return made

    done = 0 if checkpoint is None else step_of(checkpoint)
    if accelerator.is_main_process:
        _say_where_it_begins(console, options, done)
    terminal = Terminal(console, learner.total_steps, every=options.show_every, done=done)
    shown = terminal if accelerator.is_main_process else nullcontext()
    config = RunConfig(folder=options.out, save_every=options.save_every, keep=options.keep)
    with shown:
        saved = run(
            learner,
            config,
            accelerator=accelerator,
            checkpoint=checkpoint,
            trackers=trackers,
            show=terminal.show,
            annotate=lambda folder: write_rules(folder / "model", rules),
        )
    if accelerator.is_main_process:
        _say_where(console, options, saved, started)
    accelerator.end_training()
    return 0


def make_learner(
    options: TrainOptions,
    model: VisionLanguageModel,
    rules: SessionConfig,
    *,
    accelerator: Accelerator,
) -> Learner:
    """The learner that the options describe."""
    if isinstance(options, SFT):
        return _sft(options, model, rules, accelerator)
    if isinstance(options, GRPO):
        return GRPOLearner(
            model,
            _tasks(options, rules),
            _grpo_config(options),
            session=rules,
            reward=_reward(options),
            accelerator=accelerator,
        )
    if isinstance(options, PPO):
        return PPOLearner(
            model,
            _tasks(options, rules),
            _ppo_config(options),
            session=rules,
            reward=_reward(options),
            accelerator=accelerator,
        )
    raise ConfigError(f"expected options of sft, grpo or ppo, got {type(options).__name__}")


def load_learning_model(
    options: TrainOptions,
    checkpoint: Path | None = None,
    *,
    device: torch.device | None = None,
) -> tuple[VisionLanguageModel, SessionConfig]:
    """The model to teach, and the rules of its episodes.

    Args:
        options: Name, adapter, budget.
        checkpoint: Goes on from here in place of what the options name.
        device: Where weights are loaded to; by default the CPU.
    """
    name: str | Path = options.model
    adapter: str | Path | None = options.adapter
    if checkpoint is not None and (adapter or options.lora_rank):
        adapter = checkpoint / "model"
    elif checkpoint is not None:
        name = checkpoint / "model"
    known = first_rules(adapter, name, options.model)
    if name == "tiny":
        model = _tiny(options)
        known = known or SessionConfig(budget="tiny", prompts=TINY_PROMPTS)
    else:
        model = VisionLanguageModel.from_pretrained(
            name,
            dtype=options.dtype or ("auto" if _has_adapter(options) else "float32"),
            device_map=None if device is None or device.type == "cpu" else {"": str(device)},
            adapter=None if adapter is None else str(adapter),
        )
    if options.lora_rank and adapter is None:
        model = _with_lora(model, options.lora_rank)
    if options.gradient_checkpointing:
        model.checkpoint_gradients()
    rules = known or SessionConfig()
    return model, overridden(rules, budget=options.budget, max_turns=options.max_turns)


def _precision(options: TrainOptions) -> str | None:
    """What the accelerator is told; None leaves it to `accelerate launch` and its settings."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # which it says of itself, too
    if options.mixed_precision is not None or launched != "no" or not torch.cuda.is_available():
        return options.mixed_precision
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else None


def _has_adapter(options: TrainOptions) -> bool:
    return bool(options.lora_rank or options.adapter or is_adapter(options.model))


def _check(options: TrainOptions) -> None:
    if not 0 <= options.seed < 2**32 or options.lora_rank < 0:
        raise ConfigError("--seed must be in [0, 2^32), and --lora-rank at least 0")
    whole = {name: value for name, value in asdict(options).items() if type(value) is int}
    check_counts(options, *(whole.keys() - {"seed", "lora_rank"}))
    if options.model == "tiny" and (options.lora_rank or options.adapter):
        raise ConfigError(
            "an adapter is for a model with a folder or a name: give it with --model, or the "
            "adapter's own folder to go on with that"
        )
    if options.dtype == "bfloat16" and not _has_adapter(options):
        raise ConfigError(
            "weights that learn are float32, or most updates would be rounded off: leave --dtype "
            "out, and compute in half precision with --mixed-precision bf16"
        )
    if options.lora_rank and (options.adapter or is_adapter(options.model)):
        raise ConfigError("--lora-rank makes a new adapter; leave it out to go on with another one")


def _tiny(options: TrainOptions) -> VisionLanguageModel:
    network = tiny_model(TinyConfig(seed=options.seed))
    return VisionLanguageModel.wrap(network, tiny_tokenizer())


def _with_lora(model: VisionLanguageModel, rank: int) -> VisionLanguageModel:
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise MissingExtraError("peft", "lora", "--lora-rank") from error
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    return replace(model, network=get_peft_model(model.network, config))


def _tasks(options: TrainOptions, rules: SessionConfig) -> list[VideoTask]:
    return tasks_for(
        rules,
        annotations=options.annotations,
        videos=options.videos,
        seed=options.seed,
        split="train",
    )


def _optimiser(options: TrainOptions, schedule: str = "constant") -> OptimiserConfig:
    return OptimiserConfig(
        learning_rate=options.learning_rate,
        schedule=schedule,  # type: ignore[arg-type]
        warmup_share=options.warmup_share,
        max_grad_norm=options.max_grad_norm,
        # Random weights see nothing yet.
        train_vision=options.train_vision or options.model == "tiny",
    )


def _sft(
    options: SFT, model: VisionLanguageModel, rules: SessionConfig, accelerator: Accelerator
) -> SFTLearner:
    decoupling = None
    if options.decoupling_probability:
        decoupling = TaskDecoupling(
            scope=options.decoupling_scope, probability=options.decoupling_probability
        )
    config = SFTConfig(
        steps=options.steps,
        batch_size=options.batch_size,
        optimiser=_optimiser(options, options.schedule),
        decoupling=decoupling,
        max_tokens=options.max_tokens,
        seed=options.seed,
    )
    trajectories = _trajectories(options, model, rules)
    reader = DemonstrationReader(model.builder, trajectories, prompts=rules.prompts)
    return SFTLearner(model, reader, config, accelerator=accelerator)


def _trajectories(
    options: SFT, model: VisionLanguageModel, rules: SessionConfig
) -> list[Trajectory]:
    if options.demonstrations is not None:
        return list(read_records(options.demonstrations, _trajectory))
    # A model that was made from nothing knows its own words alone.
    demonstrator = Demonstrator if are_from_nothing(rules) else OraclePolicy
    played = rollout(
        demonstrator,
        _tasks(options, rules),
        RolloutConfig(seed=options.seed),
        session=model.counting(rules),
    )
    return [one.trajectory for one in played if one.error is None]


def _trajectory(fields: Mapping[str, Any]) -> Trajectory:
    """The trajectory of a saved one, or of a saved episode."""
    return Trajectory.from_dict(fields.get("trajectory", fields))


def _collector(options: RolloutOptions, **counts: Any) -> CollectorConfig:
    return CollectorConfig(workers=options.workers, batch_size=options.rollout_batch, **counts)


def _grpo_config(options: GRPO) -> GRPOConfig:
    return GRPOConfig(
        steps=options.steps,
        collector=_collector(options, questions=options.questions, group_size=options.group_size),
        optimiser=_optimiser(options),
        minibatches=options.minibatches,
        temperature=options.temperature,
        shaping=CoverageShaping() if options.shaping else None,
        task_decoupling=options.task_decoupling,
        max_tokens=options.max_tokens,
        seed=options.seed,
    ).as_variant(options.variant)


def _ppo_config(options: PPO) -> PPOConfig:
    return PPOConfig(
        steps=options.steps,
        collector=_collector(options, questions=options.episodes, group_size=1),
        optimiser=_optimiser(options),
        epochs=options.epochs,
        minibatches=options.minibatches,
        lam=options.lam,
        temperature=options.temperature,
        shaping=CoverageShaping() if options.shaping else None,
        max_tokens=options.max_tokens,
        seed=options.seed,
    )


def _reward(options: RolloutOptions) -> RewardFunction:
    if options.reward is None:
        return TrajectoryGuidedReward()
    return checked(load_reward(options.reward))


def _say_where_it_begins(console: Console, options: TrainOptions, done: int) -> None:
    if done == options.steps:
        console.print(f"All {done} steps are done.")
    elif done:
        console.print(f"{done} of {options.steps} steps are done.")
    elif (options.out / "config.json").exists():
        console.print("There is no checkpoint yet: the run begins again.")


def _say_where(console: Console, options: TrainOptions, saved: Path, started: float) -> None:
    console.print(f"Log:    {options.out / 'log.jsonl'}", soft_wrap=True, markup=False, emoji=False)
    console.print(f"Model:  {saved / 'model'}", soft_wrap=True, markup=False, emoji=False)
    model = saved / "model" if saved.is_absolute() else f"./{saved / 'model'}"
    folder = options.annotations
    tasks = f" --annotations {shlex.quote(str(folder))}" if folder else ""
    # Who sampled under a mask plays by it too.
    is_masked = isinstance(options, GRPO) and options.task_decoupling
    scope = " --model.scope tags" if is_masked else ""
    policy = shlex.quote(f"hf:{model}")
    console.print(
        f"Next:   videoseek eval --policy {policy}{tasks}{scope}",
        soft_wrap=True,
        markup=False,
        emoji=False,
    )
    console.print(f"Done in {time.perf_counter() - started:.0f} s.")
