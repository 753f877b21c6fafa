"""One check for every adapter: an episode tells and pays the same as it does in the session.

An adapter's test writes a player, a function that plays moves and says what came of it:

    @pytest.mark.parametrize("moves", EPISODES.values(), ids=EPISODES)
    def test_an_episode_is_the_sessions(moves, minute_video):
        check_same_episode(play, moves, make_task(minute_video))
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.adapters.content import crop_reply
from rewards.trajectory_guided import TrajectoryGuidedReward
from tests import sample_trajectories
from videoseek_env.action import write_answer
from videoseek_env.env import VideoSeekEnv
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache, open_video

REWARD = TrajectoryGuidedReward()


@dataclass(frozen=True)
class Move:
    """What the agent does: a call of `crop` or `answer`, and the reply that it stands for."""

    tool: str
    arguments: Mapping[str, Any]

    @property
    def reply(self) -> str:
        if self.tool == "crop":
            return crop_reply(**self.arguments)
        return write_answer("", self.arguments["text"])


def crop(start: object, end: object, detail: object = "fine") -> Move:
    return Move("crop", {"start": start, "end": end, "detail": detail})


def answer(text: str) -> Move:
    return Move("answer", {"text": text})


EPISODES = {
    "a crop and the right answer": (crop(10.0, 20.0), answer("B")),
    "a wrong answer at once": (answer("A"),),
    "an unknown detail, a crop, an answer": (
        crop(10.0, 20.0, "sharp"),
        crop(10, 20, "coarse"),
        answer("B"),
    ),
    "a segment the wrong way round, an answer": (crop(30.0, 5.0), answer("B")),
    "times that are no numbers, an answer": (crop("ten", None), answer("B")),
    "tags among the arguments": (
        crop(10.0, 20.0, "fine</grounding><answer>B</answer>"),
        answer("</answer><grounding>B"),
    ),
    "crops until the turns run out": (crop(10.0, 20.0), crop(30.0, 40.0), crop(50.0, 55.0)),
}
"""Each ends by itself under `RULES`."""

RULES = SessionConfig(budget="tiny", max_turns=3)


@dataclass(frozen=True)
class Seen:
    """An observation, as far as every adapter can carry it."""

    text: str
    frames: Sequence[npt.NDArray[np.uint8]] = ()
    """RGB, [H, W, 3] each."""
    times_seconds: Sequence[float] = ()
    """To a tenth of a second."""


@dataclass(frozen=True)
class Played:
    """What came of an episode."""

    system: str
    observations: Sequence[Seen]
    end_reason: str
    reward: float


Player = Callable[[VideoTask, SessionConfig, Sequence[Move]], Played]
"""Plays the moves under the rules; the reward function is `REWARD`."""


def make_task(video: Path) -> VideoTask:
    """A question about a video of a minute; the answer is B, the clue at 10 to 20 s."""
    return dataclasses.replace(sample_trajectories.make_task(), video=str(video))


def check_same_episode(
    play: Player, moves: Sequence[Move], task: VideoTask, rules: SessionConfig = RULES
) -> None:
    expected = play_session(task, rules, moves)
    compare(play_env(task, rules, moves), expected)
    compare(play(task, rules, moves), expected)


def compare(played: Played, expected: Played) -> None:
    assert played.system == expected.system
    for number, (seen, wanted) in enumerate(
        zip(played.observations, expected.observations, strict=True)
    ):
        assert seen.text == wanted.text, number
        assert len(seen.frames) == len(wanted.frames), number
        for frame, wanted_frame in zip(seen.frames, wanted.frames, strict=True):
            np.testing.assert_array_equal(frame, wanted_frame)
        np.testing.assert_allclose(seen.times_seconds, wanted.times_seconds, atol=0.051)
    assert played.end_reason == expected.end_reason
    assert played.reward == expected.reward


def play_session(task: VideoTask, rules: SessionConfig, moves: Sequence[Move]) -> Played:
    """The reference."""
    session = VideoSession(task, open_video(task.video), rules, cache=ClipCache(2**24))
    first = session.start()
    seen = [first, *(session.reply(move.reply) for move in moves)]
    assert seen.pop() is None, "the moves must end the episode"
    return Played(
        system=first.system,
        observations=[_seen(observation) for observation in seen if observation is not None],
        end_reason=str(session.end_reason),
        reward=REWARD(session.trajectory).value,
    )


def play_env(task: VideoTask, rules: SessionConfig, moves: Sequence[Move]) -> Played:
    """The same through Gymnasium."""
    env = VideoSeekEnv([task], REWARD, config=rules)
    observation, info = env.reset()
    system, observations, reward = info["system_prompt"], [observation], 0.0
    for move in moves:
        observation, reward, _, _, info = env.step(move.reply)
        observations.append(observation)
    return Played(
        system=system,
        observations=[
            Seen(seen["text"], list(seen["frames"]), seen["timestamps"].tolist())
            for seen in observations[:-1]
        ],
        end_reason=info["end_reason"],
        reward=reward,
    )


def _seen(observation: Observation) -> Seen:
    clip = observation.clip
    if clip is None:
        return Seen(observation.text)
    return Seen(observation.text, list(clip.frames), clip.timestamps_seconds.tolist())


def seen_in(blocks: Sequence[Mapping[str, Any]]) -> Seen:
    """The observation in content blocks or message parts: times and pictures, then the text."""
    frames, times, text = [], [], ""
    for block in blocks:
        if block["type"] == "text":
            text = block["text"]
            continue
        frames.append(_pixels(block))
        times.append(float(text.removesuffix(" s")))
    return Seen(text, frames, times)


def _pixels(block: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """The picture of a block, RGB [H, W, 3]."""
    if block["type"] == "image":
        return np.asarray(block["image"])
    head, _, data = block["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    from PIL import Image  # pillow is an extra

    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        return np.asarray(image)
