"""Teach stable-baselines3's PPO to look: it learns to crop the card and to read its digit.

Run: python examples/05_stable_baselines3.py --steps 40000 --videos 800

Without arguments it is a glimpse; with these it takes minutes on one core.
"""

import argparse

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from torch import nn

from agents.discrete_network import DiscreteNetwork
from envs.discrete import make_video_seek_discrete
from envs.discrete_tasks import PEEPHOLE_LAYOUT, load_card_tasks
from envs.discrete_wrappers import PlainInfo
from rewards import Accuracy, CoverageShaping, TrajectoryGuidedReward
from videoseek_env import ClipCache

ENVS = 16
CACHE = ClipCache(2**30)


class Judgements(BaseFeaturesExtractor):
    """Everything that the network says of an observation, the logits of the action first."""

    def __init__(self, space):
        network = DiscreteNetwork(PEEPHOLE_LAYOUT)
        super().__init__(space, network.features)
        self.network = network

    def forward(self, observation):
        """Features [B, F] of a batch of observations."""
        return torch.cat(self.network(observation), dim=1)


def make_env(tasks, reward, *, max_turns=3, shaping=None):
    """An environment that shares decoded clips with the others."""
    env = make_video_seek_discrete(
        tasks,
        reward=reward,
        shaping=shaping,
        max_turns=max_turns,
        limits_terminate=True,
        cache=CACHE,
    )
    return PlainInfo(env)  # the trajectories would fill the memory


def learn(tasks, steps, *, max_turns=3, seed=0, callback=None):
    """Train PPO on tasks."""
    reward = TrajectoryGuidedReward(format_weight=0)  # an action's reply is always in form
    shaping = CoverageShaping()
    envs = DummyVecEnv(
        [lambda: make_env(tasks, reward, max_turns=max_turns, shaping=shaping)] * ENVS
    )
    ppo = PPO(
        "MultiInputPolicy",
        VecMonitor(envs),
        n_steps=1024 // ENVS,
        batch_size=256,
        n_epochs=4,
        gamma=shaping.gamma,
        learning_rate=1e-3,
        ent_coef=0.01,
        policy_kwargs={
            "features_extractor_class": Judgements,
            "net_arch": {"pi": [], "vf": [64]},
        },
        seed=seed,
        device="cpu",
    )
    nn.init.eye_(ppo.policy.action_net.weight)  # start from the network's logits as they are
    return ppo.learn(steps, callback)


def main():
    """Learn, then answer questions about videos that were not learned from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1024)
    parser.add_argument("--videos", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ppo = learn(load_card_tasks(videos=args.videos), args.steps)
    test = load_card_tasks("test", videos=min(args.videos, 100))
    env = Monitor(make_env(test, Accuracy()))
    env.reset(seed=0)
    accuracy, _ = evaluate_policy(ppo, env, n_eval_episodes=len(test))
    print(f"{accuracy:.0%} of questions about other videos answered right")


if __name__ == "__main__":
    main()
