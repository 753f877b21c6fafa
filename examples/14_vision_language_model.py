"""Let a vision-language model play groups of episodes, and look at what it read and wrote.

Run: python examples/14_vision_language_model.py [A_QWEN3_VL, such as Qwen/Qwen3-VL-4B-Instruct]

Without a name it makes a tiny Qwen3-VL from code: it knows nothing, but everything else is real.
"""

import sys
from collections import Counter

from agents.llm.batch import TokenBatch
from agents.llm.context import TokenRole
from agents.llm.decoupling import decoupled_rows
from agents.llm.generation import Sampling
from agents.llm.hf_policy import HFPolicy
from agents.llm.likelihood import log_probabilities
from agents.llm.model import VisionLanguageModel
from agents.llm.tiny import TINY_PROMPTS, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer
from agents.rollout import RolloutConfig, rollout
from videoseek_env import SessionConfig, load_tasks, open_video
from videoseek_env.video.cache import load_clip


def main() -> None:
    """Play, print the endings, and score one context anew."""
    if len(sys.argv) > 1:
        model = VisionLanguageModel.from_pretrained(sys.argv[1])
        rules = SessionConfig(budget="qwen3-vl")
    else:
        model = VisionLanguageModel.wrap(tiny_model(), tiny_tokenizer())
        rules = SessionConfig(budget="tiny", prompts=TINY_PROMPTS)
    players: list[HFPolicy] = []

    def make() -> HFPolicy:
        players.append(HFPolicy(model, sampling=Sampling(max_tokens=48), scope="tags"))
        return players[-1]

    tasks = load_tasks("needle", budget=rules.budget, videos=2)[:4]
    groups = RolloutConfig(episodes_per_task=4, seed=0)
    episodes = list(rollout(make, tasks, groups, session=model.counting(rules)))
    print("endings:", dict(Counter(str(episode.trajectory.end_reason) for episode in episodes)))

    context = players[0].context
    roles = Counter(TokenRole(role).name for role in context["role"].tolist())
    print(f"{len(context)} tokens, {int(context['trained'].sum())} of them written:", dict(roles))

    # What training starts from: the same tokens, scored in one forward.
    batch = TokenBatch.stack([context.tokens], pad_id=model.vocabulary.end_of_turn)
    clips = [load_clip(clip.ref, open_video(clip.ref.video)) for clip in context.clips]
    plan = decoupled_rows(batch.role, batch.clip, batch.valid)
    scores = log_probabilities(model, batch, model.encode(clips), decoupling=plan)
    sampled = batch.logprob[batch.trained]
    difference = (scores[batch.trained] - sampled).abs().max().item()
    print(f"log-probabilities differ from those of sampling by at most {difference:.1e}")


if __name__ == "__main__":
    main()
