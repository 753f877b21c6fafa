"""Policies that need no model: a random one, and an oracle."""

from __future__ import annotations

import math
import re

import numpy as np

from videoseek_env.action import MIN_CROP_SECONDS, write_answer, write_crop
from videoseek_env.segment import Segment
from videoseek_env.session import Observation
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.video.clip import STRATEGIES

_OPTION = re.compile(r"^([A-Z])\. (.*)$", re.MULTILINE)


def read_options(text: str) -> dict[str, str]:
    r"""The options of a question as the agent reads them, by letter.

    >>> read_options("Which colour?\nA. red\nB. blue")
    {'A': 'red', 'B': 'blue'}
    """
    return dict(_OPTION.findall(text))


class RandomPolicy:
    """Crops anywhere or answers anything, half of the time each."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng()
        self._letters: list[str] = []
        self._video: Segment | None = None

    def reset(self, *, seed: int | None = None) -> None:
        """Begin an episode."""
        self._rng = np.random.default_rng(seed)
        self._letters, self._video = [], None

    def act(self, observation: Observation) -> str:
        """A random crop, or a random answer."""
        clip = observation.clip
        if clip is not None and clip.strategy == "overview":
            self._letters = list(read_options(observation.text))
            self._video = clip.segment
        segment = self._any_segment()
        if segment is not None and self._rng.random() < 0.5:
            strategy = STRATEGIES[self._rng.integers(len(STRATEGIES))]
            return write_crop("Anywhere.", segment, strategy)
        return write_answer("Anything.", self._any_answer(segment))

    def _any_segment(self) -> Segment | None:
        """A random crop inside the video, to a tenth of a second; None if it is too short."""
        if self._video is None:
            return None
        first = math.ceil(10 * self._video.start_seconds)
        last = math.floor(10 * self._video.end_seconds)
        least = round(10 * MIN_CROP_SECONDS)
        if last - first < least:
            return None
        start = int(self._rng.integers(first, last - least + 1))
        end = int(self._rng.integers(start + least, last + 1))
        return Segment(start / 10, end / 10)

    def _any_answer(self, segment: Segment | None) -> str:
        if self._letters:
            return str(self._rng.choice(self._letters))
        return write_segment(segment) if segment is not None else "nothing"


def write_segment(segment: Segment) -> str:
    """A temporal-grounding answer.

    >>> write_segment(Segment(2.0, 4.0))
    '{"temporal_segment": [2.0, 4.0]}'
    """
    return f'{{"temporal_segment": [{segment.start_seconds}, {segment.end_seconds}]}}'


class OraclePolicy:
    """Crops every clue that needs a crop, then gives the right answer: the demonstrator."""

    def __init__(self) -> None:
        self._clues: list[Segment] = []
        self._answer = ""
        self._end_seconds = math.inf

    def reset(self, *, seed: int | None = None) -> None:
        """Begin an episode."""
        self._clues, self._answer, self._end_seconds = [], "", math.inf

    def reveal(self, task: VideoTask) -> None:
        """Learn the clues and the answer."""
        if task.kind in (TaskKind.SINGLE_CLUE_TOOL, TaskKind.MULTI_CLUE_TOOL):
            self._clues = list(task.clues)
        is_grounding = task.kind is TaskKind.TEMPORAL_GROUNDING
        self._answer = write_segment(task.clues[0]) if is_grounding else task.answer

    def act(self, observation: Observation) -> str:
        """The next crop, then the answer."""
        if observation.system and observation.clip is not None:  # the overview
            self._end_seconds = observation.clip.segment.end_seconds
        if not self._clues:
            return write_answer("I have seen what I need.", self._answer)
        clue = self._clues.pop(0)
        return write_crop(f"The clue is at {clue}.", _croppable(clue, self._end_seconds), "fine")


def _croppable(clue: Segment, end_seconds: float) -> Segment:
    """The clue, or the shortest crop around its middle that lies in the video."""
    around = (clue.start_seconds + clue.end_seconds - MIN_CROP_SECONDS) / 2
    start = min(clue.start_seconds, around)
    if clue.start_seconds < end_seconds:  # else it is still to come, in live video
        start = min(start, end_seconds - MIN_CROP_SECONDS)
    start = max(start, 0.0)
    return Segment(start, max(clue.end_seconds, start + MIN_CROP_SECONDS))
