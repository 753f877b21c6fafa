"""Play one episode by hand: look at the overview, crop where a card lies, answer.

Run: python examples/01_first_episode.py
"""

import gymnasium

import videoseek_env  # noqa: F401 - registers the environments
from videoseek_env.action import write_answer, write_crop
from videoseek_env.segment import Segment


def main() -> None:
    """Crop the middle third at every level of detail, then guess."""
    env = gymnasium.make("VideoSeek-v0", render_mode="ansi")
    observation, info = env.reset(seed=0)
    print(info["system_prompt"], observation["text"], sep="\n\n")
    third = float(observation["timestamps"][-1]) / 3
    for strategy in ("coarse", "medium", "fine"):
        reply = write_crop("What happens here?", Segment(third, third + 8), strategy)
        observation, *_, info = env.step(reply)
        frames = observation["frames"]
        print(f"{strategy:>8}: frames {frames.shape}, {info['visual_tokens']} visual tokens so far")
    *_, info = env.step(write_answer("I guess.", "A"))
    print(env.render())
    print("reward:", info["reward_parts"])
    env.close()


if __name__ == "__main__":
    main()
