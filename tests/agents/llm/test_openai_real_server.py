from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agents.rollout import RolloutConfig, rollout
from tests.agents.llm.chat_server import running_server
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from videoseek_env.datasets import load_tasks
from videoseek_env.session import SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason
from videoseek_env.video import ClipCache, open_video

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from agents.llm.openai_client import ChatClient, OpenAIConfig  # noqa: E402
from agents.llm.openai_policy import OpenAIPolicy  # noqa: E402

TINY = SessionConfig(budget="tiny")

CROP, ANSWER = crop_reply(10, 20), answer_reply("B")


class TinyServer(NamedTuple):
    url: str
    folder: str
    """The model's name, too."""
    tokenizer: Any


@pytest.fixture(scope="module")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyServer]:
    """`transformers serve` with an untrained model that has a token for a crop and one for an
    answer: with a bias towards these two it plays whole episodes.
    """
    tiny = pytest.importorskip("agents.llm.tiny")
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.add_tokens([CROP, ANSWER])
    folder = tmp_path_factory.mktemp("served") / "tiny"
    config = tiny.TinyConfig(layers=2, vision_layers=1)
    model = tiny.tiny_model(config, tokenizer=tokenizer)
    tiny.save_tiny(folder, model=model, tokenizer=tokenizer, video_processor=False)
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent), "OMP_NUM_THREADS": "1"}
    arguments = ("transformers", str(folder), "--device", "cpu")
    with running_server(*arguments, environment=quiet) as address:
        yield TinyServer(f"{address}/v1", str(folder), tokenizer)


@pytest.fixture(scope="module")
def needle_tasks(tmp_path_factory: pytest.TempPathFactory) -> list[VideoTask]:
    return load_tasks(
        "needle", root=tmp_path_factory.mktemp("needle"), videos=2, tasks_per_video=3, width=64,
        height=64, fps=2, budget="tiny", duration_seconds=(70, 80), progress=False,
    )  # fmt: skip


def config_of(served: TinyServer, **fields: Any) -> OpenAIConfig:
    settings = {"model": served.folder, "base_url": served.url, "api_key": "none"}
    # This server hands a stop string to code that can't take it: HTTP 500.
    return OpenAIConfig(**{**settings, "temperature": 1.0, "stop_at_tags": False, **fields})


def acting_config(served: TinyServer) -> OpenAIConfig:
    """Replies of one token, a crop or an answer."""
    tokens = served.tokenizer.convert_tokens_to_ids([CROP, ANSWER])
    bias = {"logit_bias": {str(token): 100.0 for token in tokens}}
    return config_of(served, max_reply_tokens=1, extra_body=bias)


def test_a_real_model_plays_needle_episodes_on_several_threads(
    tiny_server: TinyServer, needle_tasks: list[VideoTask]
) -> None:
    plan = RolloutConfig(workers=3, episodes_per_task=2)
    with ChatClient(acting_config(tiny_server)) as client:
        episodes = list(rollout(lambda: OpenAIPolicy(client), needle_tasks, plan, session=TINY))
        usage = client.usage
    assert len(episodes) == 12
    turns = [turn for episode in episodes for turn in episode.trajectory.turns]
    assert {episode.error for episode in episodes} == {None}
    assert {turn.reply for turn in turns} == {CROP, ANSWER}
    endings = {episode.trajectory.end_reason for episode in episodes}
    assert endings <= {EndReason.ANSWERED, EndReason.TURNS_EXHAUSTED, EndReason.CONTEXT_EXHAUSTED}
    assert EndReason.ANSWERED in endings
    assert max(len(episode.trajectory.turns) for episode in episodes) > 1
    assert (usage.requests, usage.completion_tokens) == (len(turns), len(turns))


def test_the_same_seed_draws_the_same_episodes_from_a_real_model(
    tiny_server: TinyServer, needle_tasks: list[VideoTask]
) -> None:
    def drawn(seed: int) -> list[str]:
        plan = RolloutConfig(seed=seed, episodes_per_task=4)
        with OpenAIPolicy.factory(acting_config(tiny_server)) as make_policy:
            episodes = rollout(make_policy, needle_tasks[:1], plan, session=TINY)
            return [turn.reply for episode in episodes for turn in episode.trajectory.turns]

    first = drawn(1)
    assert {*first} == {CROP, ANSWER}
    assert drawn(1) == first


def test_a_real_model_sees_the_frames_and_reads_the_text(
    tiny_server: TinyServer, minute_video: Path
) -> None:
    with ChatClient(acting_config(tiny_server)) as client:
        policy = OpenAIPolicy(client)
        policy.reset(seed=0)
        session = VideoSession(
            replace(make_task(), video=str(minute_video)),
            open_video(minute_video),
            TINY,
            cache=ClipCache(2**24),
        )
        seen = session.start()
        policy.act(seen)
    assert seen.clip is not None
    # A frame of 32 x 32 pixels is one visual token, between two that mark its ends.
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    frames = "".join(f"{time:.1f} s{image}" for time in seen.clip.timestamps_seconds)
    prompt = (
        f"<|im_start|>system\n{seen.system}<|im_end|>\n"
        f"<|im_start|>user\n{frames}{seen.text}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert policy.usage.prompt_tokens == len(tiny_server.tokenizer(prompt)["input_ids"])


def test_what_an_untrained_model_babbles_is_data(
    tiny_server: TinyServer, needle_tasks: list[VideoTask]
) -> None:
    plan = RolloutConfig(workers=2)
    config = config_of(tiny_server, max_reply_tokens=16)
    with OpenAIPolicy.factory(config) as make_policy:
        episodes = list(rollout(make_policy, needle_tasks, plan, session=TINY))
    assert {episode.error for episode in episodes} == {None}
    assert {episode.trajectory.end_reason for episode in episodes} == {EndReason.NO_ACTION}


def test_a_server_that_can_not_stop_at_strings_says_so_in_the_episode(
    tiny_server: TinyServer, needle_tasks: list[VideoTask]
) -> None:
    # Should this server have learnt it, drop the remark about it at `stop_at_tags`.
    config = config_of(tiny_server, stop_at_tags=True, max_retries=0)
    with OpenAIPolicy.factory(config) as make_policy:
        (episode,) = rollout(make_policy, needle_tasks[:1], session=TINY)
    assert episode.trajectory.end_reason is EndReason.POLICY_FAILED
    assert episode.error is not None and "HTTP 500" in episode.error
