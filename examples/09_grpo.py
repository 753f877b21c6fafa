"""Supervised fine-tuning and then GRPO from Python: the loop is yours, the library does the steps.

Run: python examples/09_grpo.py --sft-steps 300 --grpo-steps 50 --videos 40

A model of random weights learns the form of replies from an oracle, and then by its rewards. The
default is a glimpse; `videoseek train` adds checkpoints, logs and resuming to the same learners.
"""

import argparse

import torch

from agents.baselines import OraclePolicy
from agents.learning.collecting import CollectorConfig
from agents.learning.demonstration_reader import DemonstrationReader
from agents.learning.grpo import GRPOLearner
from agents.learning.grpo_config import GRPOConfig
from agents.learning.optimiser import OptimiserConfig
from agents.learning.sft import SFTConfig, SFTLearner
from agents.llm.model import VisionLanguageModel
from agents.llm.tiny import TINY_PROMPTS, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer
from agents.rollout import RolloutConfig, rollout
from rewards import TrajectoryGuidedReward
from videoseek_env import SessionConfig, load_tasks
from videoseek_env.budget import TINY

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--sft-steps", type=int, default=6)
parser.add_argument("--grpo-steps", type=int, default=2)
parser.add_argument("--videos", type=int, default=2)
args = parser.parse_args()
torch.set_num_threads(1)

# A model. Any Qwen-VL folder does too: VisionLanguageModel.from_pretrained("Qwen/Qwen3-VL-4B-...").
model = VisionLanguageModel.wrap(tiny_model(), tiny_tokenizer())
rules = SessionConfig(budget=TINY, prompts=TINY_PROMPTS, max_turns=3)
tasks = load_tasks("needle", videos=args.videos, budget=TINY)

# Demonstrations: trajectories of any policy. Contexts are counted in the model's own tokens.
played = rollout(OraclePolicy, tasks, RolloutConfig(workers=2), session=model.counting(rules))
trajectories = [episode.trajectory for episode in played if episode.error is None]
sft = SFTLearner(
    model,
    DemonstrationReader(model.builder, trajectories, prompts=rules.prompts),
    SFTConfig(
        steps=args.sft_steps,
        batch_size=8,
        optimiser=OptimiserConfig(learning_rate=2e-3, schedule="cosine", warmup_share=0.1),
    ),
)
for step in range(sft.total_steps):
    metrics = sft.update(step).metrics
    if step % 10 == 0 or step + 1 == sft.total_steps:
        print(f"SFT  {step + 1:4}  loss {metrics['loss']:.3f}")

# Reinforcement: groups of episodes, rewarded by whatever function of a trajectory you like.
grpo = GRPOLearner(
    model,
    tasks,
    GRPOConfig(
        steps=args.grpo_steps,
        collector=CollectorConfig(questions=2, group_size=4),
        drop_uninformative=args.grpo_steps > 2,
        optimiser=OptimiserConfig(learning_rate=1e-4),
    ),
    session=rules,
    reward=TrajectoryGuidedReward(),
)
for step in range(grpo.total_steps):
    update = grpo.update(step)
    metrics = update.metrics
    print(
        f"GRPO {step + 1:4}  reward {metrics['reward']:.2f}  calls {metrics['calls']:.1f}  "
        f"{metrics['tokens_per_second']:.0f} tokens/s"
    )
print("a reply:", update.experiences[-1].trajectory.replies[0][:200])
