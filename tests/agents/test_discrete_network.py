import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.discrete_network import DiscreteNetwork
from envs.discrete import VideoSeekDiscreteEnv, make_video_seek_discrete
from envs.discrete_layout import DiscreteLayout
from envs.discrete_tasks import PEEPHOLE_LAYOUT, load_card_tasks
from envs.discrete_wrappers import FlatActions
from rewards import Accuracy
from videoseek_env.budget import FrameSize
from videoseek_env.errors import ConfigError
from videoseek_env.task import VideoTask

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def card_tasks(tmp_path_factory: pytest.TempPathFactory) -> list[VideoTask]:
    """Four questions about one video."""
    return load_card_tasks(videos=1, root=tmp_path_factory.mktemp("cards"))


def played(tasks: list[VideoTask]) -> dict[str, Tensor]:
    """An episode's observations as a batch: after reset, and after a crop of 2 parts and of 1."""
    env = make_video_seek_discrete(tasks)
    seen = [env.reset(seed=0)[0]]
    seen += [env.step(np.array([start, length, 2, 0]))[0] for start, length in ((3, 1), (7, 0))]
    return {name: torch.as_tensor(np.stack([one[name] for one in seen])) for name in seen[0]}


def make_network(layout: DiscreteLayout = PEEPHOLE_LAYOUT) -> DiscreteNetwork:
    torch.manual_seed(0)
    return DiscreteNetwork(layout)


def sampled(layout: DiscreteLayout) -> dict[str, Tensor]:
    space = layout.observation_space()
    space.seed(0)
    return {name: torch.as_tensor(array[None]) for name, array in space.sample().items()}


def test_a_judgement_starts_with_the_logits_of_the_action_space(
    card_tasks: list[VideoTask],
) -> None:
    network, batch = make_network(), played(card_tasks)
    judgement = network(batch)
    sizes = PEEPHOLE_LAYOUT.action_space().nvec.tolist()
    # The last number is 0 to crop or an answer's: two parts of a judgement.
    shapes = [tuple(part.shape) for part in judgement]
    assert shapes[:3] == [(3, size) for size in sizes[:3]]
    assert shapes[3:5] == [(3, 1), (3, sizes[3] - 1)]
    assert torch.cat(judgement, dim=1).shape == (3, network.features)


@pytest.mark.parametrize(
    "layout",
    [
        DiscreteLayout(),
        DiscreteLayout(start_bins=1, length_bins=1, max_options=1, option_words=1),
        # Five frames in a grid of six cells, neither square nor a multiple of a patch.
        DiscreteLayout(overview_frames=5, overview_size=FrameSize(9, 13), max_options=26),
        DiscreteLayout(clip_frames=1, clip_size=FrameSize(8, 8), question_words=1),
    ],
    ids=["default", "ones", "odd", "least"],
)
def test_every_layout_has_a_network(layout: DiscreteLayout) -> None:
    judgement = make_network(layout)(sampled(layout))
    assert judgement.start.shape == (1, layout.start_bins)
    assert judgement.answers.shape == (1, layout.max_options)
    assert all(part.isfinite().all() for part in judgement)


@pytest.mark.parametrize("name", ["overview_size", "clip_size"])
def test_frames_of_less_than_a_patch_are_an_error(name: str) -> None:
    layout = DiscreteLayout(**{name: FrameSize(8, 7)})
    with pytest.raises(ConfigError, match=f"{name} is at least 8 x 8 pixels, got 8 x 7"):
        DiscreteNetwork(layout)


def test_pictures_as_bytes_or_shares_are_the_same(card_tasks: list[VideoTask]) -> None:
    network, batch = make_network(), played(card_tasks)
    shares = {name: batch[name].float() / 255 for name in ("overview", "clip")}
    for part, other in zip(network(batch), network(batch | shares), strict=True):
        torch.testing.assert_close(part, other)


def test_without_a_crop_no_option_is_better_than_another(card_tasks: list[VideoTask]) -> None:
    judgement = make_network()(played(card_tasks))
    assert not judgement.answers[0].any() and not judgement.state[0].any()
    assert judgement.answers[1].unique().numel() == 4


def test_a_crop_starts_as_likely_as_all_answers_together(card_tasks: list[VideoTask]) -> None:
    network = make_network()
    torch.nn.init.zeros_(network.manner.weight)
    torch.nn.init.zeros_(network.manner.bias)
    judgement = network(played(card_tasks))
    choices = torch.cat([judgement.crop, judgement.answers], dim=1)[0].softmax(dim=0)
    # Without a crop the four answers share the other half evenly.
    assert choices.tolist() == pytest.approx([1 / 2, 1 / 8, 1 / 8, 1 / 8, 1 / 8])


def test_options_in_another_order_are_judged_the_same(card_tasks: list[VideoTask]) -> None:
    network, batch = make_network(), played(card_tasks)
    order = [2, 0, 3, 1]
    shuffled = batch["options"].reshape(3, 4, -1)[:, order].flatten(1)
    answers = network(batch | {"options": shuffled}).answers
    torch.testing.assert_close(answers, network(batch).answers[:, order])


def test_the_question_moves_the_start_and_the_crop_moves_the_answer(
    card_tasks: list[VideoTask],
) -> None:
    network, batch = make_network(), played(card_tasks)
    before = network(batch)
    asked = network(batch | {"question": batch["question"].roll(32, dims=1)})
    assert not torch.equal(asked.start, before.start)
    torch.testing.assert_close(asked.answers, before.answers)
    shown = network(batch | {"clip": batch["clip"].flip(0)})
    torch.testing.assert_close(shown.start, before.start)
    assert not torch.equal(shown.answers[1:], before.answers[1:])


def test_frames_of_a_crop_count_wherever_they_stand(card_tasks: list[VideoTask]) -> None:
    network, batch = make_network(), played(card_tasks)
    # Two rows of three frames: the rows change places.
    upper, lower = batch["clip"].chunk(2, dim=2)
    swapped = network(batch | {"clip": torch.cat([lower, upper], dim=2)})
    torch.testing.assert_close(swapped.answers, network(batch).answers)


def test_flat_logits_are_the_distribution_of_their_parts(card_tasks: list[VideoTask]) -> None:
    judgement = make_network()(played(card_tasks))
    flat = judgement.flat_logits().softmax(dim=1)
    start, length, strategy = (part.softmax(dim=1) for part in judgement[:3])
    choice = torch.cat([judgement.crop, judgement.answers], dim=1).softmax(dim=1)
    env = FlatActions(make_video_seek_discrete(card_tasks))
    assert flat.shape == (3, env.action_space.n)
    for number in range(env.action_space.n):
        start_bin, length_bin, strategy_index, answer = env.action(number).tolist()
        expected = choice[:, answer]
        if answer == 0:
            where = start[:, start_bin] * length[:, length_bin]
            expected = expected * where * strategy[:, strategy_index]
        torch.testing.assert_close(flat[:, number], expected)


def accuracy(ppo: Any, env: Any, tasks: list[VideoTask]) -> float:
    rewards = []
    for task in tasks:
        observation, _ = env.reset(options={"task_id": task.id})
        is_over = False
        while not is_over:
            action, _ = ppo.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            is_over = terminated or truncated
        rewards.append(reward)
    return float(np.mean(rewards))


def test_ppo_learns_the_questions_about_one_video(card_tasks: list[VideoTask]) -> None:
    pytest.importorskip("stable_baselines3", reason="an extra")
    example = runpy.run_path(str(EXAMPLES / "05_stable_baselines3.py"))
    env = example["make_env"](card_tasks, Accuracy())
    assert isinstance(env.unwrapped, VideoSeekDiscreteEnv)
    # Chance is one in four. Answers need a crop of the few seconds in which the digit is seen.
    ppo = example["learn"](card_tasks, 4096, seed=0)
    assert accuracy(ppo, env, card_tasks) >= 0.75
