"""A small network for `VideoSeekDiscreteEnv`: it chooses where to look, and reads what it sees.

Plain torch, so that any learner can use it: the examples plug it into stable-baselines3 and into
tianshou.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from envs.discrete_features import CODE_BITS
from envs.discrete_layout import DiscreteLayout
from videoseek_env.budget import FrameSize
from videoseek_env.errors import ConfigError
from videoseek_env.video.clip import STRATEGIES

MIN_CELL_PX = 8
"""Smaller frames would be less than one patch."""


class Judgement(NamedTuple):
    """What the network makes of B observations.

    The first five are the logits of `VideoSeekDiscreteEnv`'s action space, part by part and in its
    order, so that their concatenation suits a policy over a `MultiDiscrete`.
    """

    start: Tensor
    """Logits of the start bins, [B, start_bins]."""
    length: Tensor
    """Logits of the lengths, [B, length_bins]."""
    strategy: Tensor
    """Logits of the strategies, [B, 3]."""
    crop: Tensor
    """Logit of a crop, against those of the answers, [B, 1]."""
    answers: Tensor
    """Logits of the options, [B, max_options]."""
    state: Tensor
    """What a value may need besides: the crop's features, `turn`, whether there is a crop, [B, F].
    """

    def flat_logits(self) -> Tensor:
        """Logits in the order of `FlatActions`: every crop, then every answer.

        Their softmax is the distribution that the parts stand for: the chance of a crop times
        those of its start, length and strategy.

        Returns:
            [B, start_bins * length_bins * 3 + max_options].
        """
        start, length, strategy = (
            part.log_softmax(dim=1) for part in (self.start, self.length, self.strategy)
        )
        places = start[:, :, None, None] + length[:, None, :, None] + strategy[:, None, None, :]
        return torch.cat([places.flatten(1) + self.crop, self.answers], dim=1)


class DiscreteNetwork(nn.Module):
    """Logits of where to look and what to answer.

    Every frame goes through the same few convolutions. Where to start depends on how well each
    frame of the overview fits the question, and on what was looked at; which option to choose, on
    how well it fits the crop on view.
    """

    def __init__(self, layout: DiscreteLayout, *, width: int = 64) -> None:
        """Make a network for observations of a layout.

        Args:
            layout: The sizes of observations and actions.
            width: Features of a frame, of the question and of an option.

        Raises:
            ConfigError: If a frame has less than 8 pixels in height or width.
        """
        super().__init__()
        _check_size("overview_size", layout.overview_size)
        _check_size("clip_size", layout.clip_size)
        self.layout = layout
        self.sizes = (layout.start_bins, layout.length_bins, len(STRATEGIES), 1, layout.max_options)
        self.state_features = width + 2
        self.glance = _glance(layout.overview_size, width)
        self.interest = nn.Linear(width, 1)
        self.question = nn.Linear(layout.question_words * CODE_BITS, width)
        seen = layout.start_bins * len(STRATEGIES)
        self.start = nn.Linear(layout.overview_frames + seen, layout.start_bins)
        self.stare = _stare(layout.clip_size, width)
        self.option = nn.Linear(layout.option_words * CODE_BITS, width)
        self.reading = nn.Linear(width, width)
        self.manner = nn.Linear(self.state_features, sum(self.sizes[1:4]))

    @property
    def features(self) -> int:
        """All numbers of a `Judgement`, for one observation."""
        return sum(self.sizes) + self.state_features

    def forward(self, observation: Mapping[str, Tensor]) -> Judgement:
        """Judge observations.

        Args:
            observation: Arrays of `VideoSeekDiscreteEnv`, each [B, ...]; the pictures as uint8, or
                as floats in [0, 1].
        """
        has_crop = (observation["clip_times"][:, :1] >= 0).float()
        crop = self._crop_features(observation["clip"]) * has_crop
        state = torch.cat([crop, observation["turn"], has_crop], dim=1)
        length, strategy, go_on = self.manner(state).split(self.sizes[1:4], dim=1)
        # At first a crop is as likely as all answers together: who never looks learns nothing.
        go_on = go_on + math.log(self.layout.max_options)
        answers = self._answers(observation["options"], crop) * has_crop
        return Judgement(self._start(observation), length, strategy, go_on, answers, state)

    def _start(self, observation: Mapping[str, Tensor]) -> Tensor:
        frames = _cells(observation["overview"], self.layout.overview_size)
        frames = frames[:, : self.layout.overview_frames]
        features = _each(self.glance, frames)
        asked = self.question(observation["question"])[:, None]
        fit = (features * asked).sum(dim=2) / math.sqrt(features.shape[2])
        places = [fit + self.interest(features)[..., 0], observation["coverage"]]
        logits: Tensor = self.start(torch.cat(places, dim=1))
        return logits

    def _crop_features(self, sheet: Tensor) -> Tensor:
        """The largest value of each feature over the frames, [B, width]."""
        return _each(self.stare, _cells(sheet, self.layout.clip_size)).amax(dim=1)

    def _answers(self, options: Tensor, crop: Tensor) -> Tensor:
        encoded = self.option(options.reshape(len(options), self.layout.max_options, -1))
        fit: Tensor = (encoded * self.reading(crop)[:, None]).sum(dim=2)
        # Twice what attention's scale would be: answers are worth being sure of.
        return fit * 2 / math.sqrt(encoded.shape[2])


def _glance(size: FrameSize, width: int) -> nn.Sequential:
    """Enough for colours."""
    patches = (size.height // 4) * (size.width // 4)
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16 * patches, width), nn.ReLU()
    )


def _stare(size: FrameSize, width: int) -> nn.Sequential:
    """Enough for digits."""
    patches = (size.height // 8) * (size.width // 8)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 32, 2, 2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * patches, width), nn.ReLU()),
    )


def _cells(sheets: Tensor, size: FrameSize) -> Tensor:
    """The frames of contact sheets [B, 3, H, W], row by row: [B, cells, 3, height, width]."""
    batch, channels, height, width = sheets.shape
    rows, columns = height // size.height, width // size.width
    grid = sheets.reshape(batch, channels, rows, size.height, columns, size.width)
    frames = grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames


def _each(network: nn.Module, frames: Tensor) -> Tensor:
    """Every frame through one network: [B, cells, F]."""
    features: Tensor = network(frames.flatten(0, 1))
    return features.reshape(*frames.shape[:2], -1)


def _check_size(name: str, size: FrameSize) -> None:
    if min(size) < MIN_CELL_PX:
        raise ConfigError(
            f"expected a layout whose {name} is at least {MIN_CELL_PX} x {MIN_CELL_PX} pixels, got "
            f"{size.height} x {size.width}; make it larger, or use a network of your own"
        )
