"""Options of `videoseek train`; nothing heavy is imported here, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What all learners take."""

    model: str = "tiny"
    """Folder or hub name of a Qwen2.5-VL or Qwen3-VL; "tiny" makes one of random weights."""
    adapter: str | None = None
    """A LoRA adapter of the model to go on with, a folder or a hub name."""
    lora_rank: int = 0
    """Learn a new LoRA adapter of this rank in place of all weights; 0 does not."""
    annotations: Path | None = None
    """A folder of your own with annotations.jsonl and videos; by default needle tasks."""
    videos: int = 40
    """Needle videos to make, unless they are there."""
    budget: str | None = None
    """Budget preset; by default the model's own if it was trained here, else laptop."""
    max_turns: int | None = None
    """Replies at most; by default the model's own if it was trained here, else 6."""
    out: Path = Path("runs/train")
    """Folder of the run: config.json, log.jsonl, checkpoints."""
    resume: bool = False
    """Go on with the run in the folder, with the settings that it was started with."""
    steps: int = 100
    """Updates in all."""
    learning_rate: float = 1e-5
    """At its peak."""
    warmup_share: float = 0.0
    """Share of the steps in which the learning rate grows from zero."""
    max_grad_norm: float = 1.0
    """Longer gradients are shortened to this."""
    train_vision: bool = False
    """Let the vision tower learn too."""
    max_tokens: int = 16_384
    """Tokens of one forward and backward, which bounds memory."""
    seed: int = 0
    """Decides everything that is random."""
    dtype: Literal["auto", "float32", "bfloat16"] | None = None
    """Of the weights; auto takes that of the checkpoint. By default float32, which weights need to
    learn, and auto beneath an adapter."""
    mixed_precision: Literal["no", "bf16"] | None = None
    """Of the arithmetic; by default what `accelerate` was told, else bf16 on a GPU that has it."""
    gradient_checkpointing: bool = False
    """Compute layers twice and keep less, for long contexts; prompts are not shared then."""
    save_every: int = 50
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints to leave."""
    show_every: int = 10
    """Steps between lines on the terminal."""
    tensorboard: bool = False
    """Write event files for TensorBoard too."""
    wandb_project: str | None = None
    """Log to this project of wandb too; WANDB_MODE=offline keeps it here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SFT(TrainOptions):
    """Supervised fine-tuning on trajectories."""

    demonstrations: Path | None = None
    """JSON Lines of trajectories or episodes; by default an oracle plays the tasks."""
    batch_size: int = 32
    """Trajectories of a step."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Of the learning rate."""
    decoupling_probability: float = 0.0
    """Share of batches with task-decoupled attention: 0 in the first stage, 0.1 in the second."""
    decoupling_scope: Literal["tags", "turn"] = "tags"
    """What is masked then: the content of tags, or the thinking too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOptions(TrainOptions):
    """What learners that play take."""

    reward: str | None = None
    """As module:name, see rescore; by default the trajectory-guided reward."""
    temperature: float = 1.0
    """Of sampling."""
    shaping: bool = False
    """Pay turns for what they have shown of the clues, at no gain over the episode; grpo then
    credits each turn with what came after it."""
    workers: int = 2
    """Threads that decode."""
    rollout_batch: int = 64
    """Episodes that the model plays at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPO(RolloutOptions):
    """Group relative policy optimisation."""

    learning_rate: float = 1e-6
    """At its peak."""
    variant: Literal["dapo", "grpo", "dr_grpo", "gspo"] = "dapo"
    """Which published variant; dapo is what Video-o3 takes."""
    questions: int = 32
    """Groups that a step learns from."""
    group_size: int = 8
    """Episodes of each question."""
    minibatches: int = 1
    """Optimiser steps on one batch of episodes; with one, nothing is clipped."""
    task_decoupling: bool = False
    """Play and learn with task-decoupled attention inside tags."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PPO(RolloutOptions):
    """Proximal policy optimisation with a value head."""

    episodes: int = 128
    """Episodes of a step."""
    epochs: int = 1
    """How often they are gone through."""
    minibatches: int = 4
    """Optimiser steps of each time."""
    lam: float = 1.0
    """Trade of bias for variance in advantages: 0 trusts the values, 1 the rewards."""


@dataclass(frozen=True, slots=True)
class Train:
    """Teach a model: by demonstrations (sft), or by rewards (grpo, ppo)."""

    options: tyro.conf.OmitSubcommandPrefixes[
        Annotated[SFT, tyro.conf.subcommand("sft")]
        | Annotated[GRPO, tyro.conf.subcommand("grpo")]
        | Annotated[PPO, tyro.conf.subcommand("ppo")]
    ]

    def run(self) -> int:
        """Run the command."""
        from agents.train import run_train

        return run_train(self.options)
