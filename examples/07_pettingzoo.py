"""Two agents under PettingZoo: one looks for the moments, the other answers from them alone.

Run: python examples/07_pettingzoo.py            compares the pair with one agent that does both
     python examples/07_pettingzoo.py --learn    learns where to look, in about a minute
"""

import re
import sys

import numpy as np

from agents.baselines import read_options
from agents.needle_eyes import find_sightings, read_card
from agents.rollout import rollout
from agents.seeker import PixelSeeker, Plan, make_plan
from envs.decoupled import ANSWERER, SEEKER
from envs.seeker_answerer import env
from videoseek_env import Observation, Segment, TaskKind, load_tasks
from videoseek_env.action import write_answer, write_crop
from videoseek_env.datasets.needle_scene import COLOURS

rng = np.random.default_rng(0)


def read_cards(observation: Observation) -> str:
    """The answerer: it reads the cards that it is shown, and guesses where there are none."""
    clip, options = observation.clip, read_options(observation.text)
    cards = [seen for seen in find_sightings(clip) if seen.thing.kind == "card"] if clip else []
    plan = make_plan(observation.text.partition("\n")[0], cards, lambda card: "")
    plan = plan or Plan(tuple(cards[:1]), "".join)
    digits = [read_card(clip, card.thing.colour) for card in plan.cards]
    answer = plan.answer(digits) if digits and all(digits) else None
    letters = [letter for letter in options if options[letter] == answer] or list(options)
    return write_answer("By what I see.", str(rng.choice(letters)) if letters else answer or "?")


class LearningSeeker:
    """Crops around one frame of the overview: a softmax over what the frames look like."""

    weights = np.zeros(3)

    def act(self, observation: Observation) -> str:
        """Crop once, then hand over."""
        clip = observation.clip
        if clip.strategy != "overview":
            return write_answer("That is all.", "done")
        asked = np.array(COLOURS[re.search("|".join(COLOURS), observation.text)[0]])
        frames = clip.frames[:, ::4, ::4].astype(int)
        shares = [abs(frames - colour).max(axis=-1) < 40 for colour in (asked, asked * 0.78)]
        looks = [*shares, np.ptp(frames, axis=-1) / 255]  # its colour, a darker shade, any colour
        features = 20 * np.stack([look.mean(axis=(1, 2)) for look in looks], axis=1)
        odds = np.exp(features @ self.weights)
        choice = rng.choice(len(odds), p=odds / odds.sum())
        self.score = features[choice] - odds @ features / odds.sum()  # gradient of log p(choice)
        time = float(clip.timestamps_seconds[choice])
        return write_crop("Perhaps here.", Segment(max(0, time - 4), time + 4), "fine")


def play(game, task, seek) -> tuple[float, list[dict]]:
    """One episode: the reward that both agents get, and the last info of each."""
    acts, infos = {SEEKER: seek, ANSWERER: read_cards}, {}
    game.reset(options={"task_id": task.id})
    for agent in game.agent_iter():
        _, reward, terminated, truncated, infos[agent] = game.last(observe=False)
        is_over = terminated or truncated
        game.step(None if is_over else acts[agent](game.unwrapped.observation))
    return reward, list(infos.values())


def compare() -> None:
    """The same eyes in one context and in two: who is right, and what it costs."""
    tasks = load_tasks("needle")
    game, rows = env(tasks=tasks), {}
    for task, one in zip(tasks, rollout(PixelSeeker, tasks), strict=True):
        first, second = play(game, task, PixelSeeker().act)[1]
        alone = [one.reward.parts["acc"], one.trajectory.visual_tokens, len(one.trajectory.turns)]
        both = [first[name] + second[name] for name in ("visual_tokens", "turns")]
        rows.setdefault(task.kind, []).append([alone, [first["reward_parts"]["acc"], *both]])
    for kind, row in rows.items():
        for agents, (right, tokens, calls) in enumerate(np.mean(row, axis=0), start=1):
            cost = f"{tokens:4.0f} visual tokens, {calls:.1f} calls"
            print(f"{kind:19}  agents: {agents}  {right:4.0%} right  {cost}")


def learn() -> None:
    """REINFORCE on the reward that both share; the answerer stays as it is."""
    kind = {"kinds": (TaskKind.SINGLE_CLUE_TOOL,), "width": 320, "height": 180, "videos": 6}
    train, test = (load_tasks("needle", split=split, **kind) for split in ("train", "test"))
    game, other, seeker = env(tasks=train), env(tasks=test), LearningSeeker()
    for epoch in range(10):
        held_out = np.mean([play(other, task, seeker.act)[0] for task in test[::4]])
        results = [(play(game, task, seeker.act)[0], seeker.score) for task in train]
        rewards, scores = map(np.array, zip(*results, strict=True))
        print(f"epoch {epoch}: reward {rewards.mean():.2f} of 3, held out {held_out:.2f}")
        seeker.weights = seeker.weights + 3 * (rewards - rewards.mean()) @ scores / len(train)


if __name__ == "__main__":
    learn() if "--learn" in sys.argv else compare()
