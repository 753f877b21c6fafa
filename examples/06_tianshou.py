"""Teach tianshou's PPO the same: one number for each action, and an actor of plain torch.

Run: python examples/06_tianshou.py --steps 60000 --videos 800

Without arguments it is a glimpse; with these it takes minutes on one core.
"""

import argparse
import os

os.environ["TQDM_DISABLE"] = "1"  # tianshou draws a bar for every few gradient steps

import numpy as np
import torch
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from torch import nn

from agents.discrete_network import DiscreteNetwork
from envs.discrete import make_video_seek_discrete
from envs.discrete_tasks import PEEPHOLE_LAYOUT, load_card_tasks
from envs.discrete_wrappers import FlatActions, PlainInfo
from rewards import Accuracy, CoverageShaping, TrajectoryGuidedReward
from videoseek_env import ClipCache

RULES = {"max_turns": 3, "limits_terminate": True, "cache": ClipCache(2**30)}


class Actor(DiscreteNetwork):
    """The logits of every action."""

    def forward(self, obs, state=None, info=None):
        """Logits [B, A], and the state that tianshou hands back with the next observations."""
        observation = {name: torch.as_tensor(array) for name, array in obs.items()}
        return super().forward(observation).flat_logits(), state


class Critic(nn.Module):
    """The value, by what was looked at so far."""

    def __init__(self):
        super().__init__()
        seen = 1 + 3 * PEEPHOLE_LAYOUT.start_bins
        self.layers = nn.Sequential(nn.Linear(seen, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, obs):
        """Values [B, 1]."""
        return self.layers(torch.as_tensor(np.concatenate([obs["turn"], obs["coverage"]], axis=1)))


def make_env(tasks, reward, *, shaping=None):
    """An environment with a number for each action, and without trajectories in `info`."""
    env = make_video_seek_discrete(tasks, reward=reward, shaping=shaping, **RULES)
    return PlainInfo(FlatActions(env))


def learn(tasks, steps, *, seed=0, callback=None):
    """Train PPO on tasks; the callback gets PPO and the steps so far."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - tianshou shuffles with it
    shaping, reward = CoverageShaping(), TrajectoryGuidedReward(format_weight=0)
    envs = DummyVectorEnv([lambda: make_env(tasks, reward, shaping=shaping)] * 16)
    envs.seed(seed)
    actor, space = Actor(PEEPHOLE_LAYOUT), make_env(tasks, reward).action_space
    policy = DiscreteActorPolicy(actor=actor, action_space=space)
    adam = AdamOptimizerFactory(lr=1e-3)
    ppo = PPO(policy=policy, critic=Critic(), optim=adam, gamma=shaping.gamma, max_grad_norm=0.5)
    params = OnPolicyTrainerParams(
        training_collector=Collector(ppo, envs, VectorReplayBuffer(1024, 16)),
        max_epochs=1,
        epoch_num_steps=steps,
        collection_step_num_env_steps=1024,
        batch_size=256,
        update_step_num_repetitions=4,
        training_fn=callback and (lambda epoch, step: callback(ppo, step)),
        show_progress=False,
    )
    ppo.run_training(params)
    return ppo


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1024)
    parser.add_argument("--videos", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ppo = learn(load_card_tasks(videos=args.videos), args.steps)
    test = load_card_tasks("test", videos=min(args.videos, 100))
    env = DummyVectorEnv([lambda: make_env(test, Accuracy())])
    env.seed(0)
    played = Collector(ppo, env).collect(n_episode=len(test), reset_before_collect=True)
    print(f"{played.returns_stat.mean:.0%} of questions about other videos answered right")
