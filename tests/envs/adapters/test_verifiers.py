import asyncio
import dataclasses
import importlib
import itertools
import json
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verifiers", reason="verifiers is an extra")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import verifiers.v1 as vf

from envs.adapters.verifiers import (
    VideoSeekEnvironment,
    VideoSeekTask,
    trajectory_of,
)
from tests.agents.llm.chat_server import KEY, MODEL, running_server
from tests.envs.adapters.same_episode import (
    EPISODES,
    RULES,
    Move,
    Played,
    answer,
    check_same_episode,
    crop,
    seen_in,
)
from videoseek_env.errors import MissingExtraError, TrajectoryError
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason

PLUGIN = """
from envs.adapters.verifiers import VideoSeekEnvironment, VideoSeekHarness, VideoSeekTaskset

__all__ = ["VideoSeekEnvironment", "VideoSeekHarness", "VideoSeekTaskset"]
"""
names = (f"verifiers-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_server("scripted") as address:
        yield address


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_videos.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SCRIPTED_KEY", KEY)
    yield "my-videos"
    sys.modules.pop("my_videos", None)


class Game:
    """One episode against the scripted server, by verifiers' own machinery."""

    def __init__(
        self,
        server: str,
        plugin: str,
        task: VideoTask,
        rules: SessionConfig = RULES,
        *,
        script: dict[str, Any],
        **fields: Any,
    ) -> None:
        self.server, self.script = server, {"name": next(names), **script}
        root = Path(task.video).with_name(self.script["name"])
        root.mkdir()
        (root / "annotations.jsonl").write_text(json.dumps(task.to_dict()), encoding="utf-8")
        taskset = {
            "id": plugin,
            "dataset": "folder",
            "options": {"root": str(root)},
            "budget": rules.budget,
            "max_turns": rules.max_turns,
        }
        taskset |= fields.pop("taskset", {})
        self.env = vf.load_environment(vf.resolve_env_config({"taskset": taskset, **fields}))
        self.ctx = vf.ModelContext(
            model=MODEL,
            client=vf.EvalClientConfig(base_url=f"{server}/v1", api_key_var="SCRIPTED_KEY"),
            sampling=vf.Sampling(script=self.script),
        )

    def play(self) -> Any:
        async def run() -> Any:
            async with self.env.serving():
                return await self.env.run_episode(next(iter(self.env.taskset)), self.ctx)

        return asyncio.run(run())

    @property
    def requests(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.server}/log/{self.script['name']}") as reply:
            return json.load(reply)["requests"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("moves", EPISODES.values(), ids=EPISODES)
def test_an_episode_is_the_sessions(
    moves: Sequence[Move], task: VideoTask, server: str, plugin: str
) -> None:
    def play(task: VideoTask, rules: SessionConfig, moves: Sequence[Move]) -> Played:
        script = {"replies": [move.reply for move in moves]}
        game = Game(server, plugin, task, rules, script=script, image_format="png")
        episode = game.play()
        assert episode.ok, episode.errors
        [trace] = episode.traces
        system, *messages = game.requests[-1]["messages"]
        told = [message["content"] for message in messages if message["role"] == "user"]
        return Played(
            system=system["content"],
            observations=list(map(seen_in, told)),
            end_reason=str(trajectory_of(trace).end_reason),
            reward=trace.reward,
        )

    check_same_episode(play, moves, task)


def replies(*moves: Move) -> dict[str, Any]:
    return {"replies": [move.reply for move in moves]}


RIGHT = replies(crop(10, 20), answer("B"))


def trace_of(episode: Any) -> Any:
    [trace] = episode.traces
    return trace


def test_the_parts_of_the_reward_are_metrics_and_a_saved_trace_can_be_scored_again(
    task: VideoTask, server: str, plugin: str
) -> None:
    game = Game(server, plugin, task, script=RIGHT)
    trace = trace_of(game.play())
    assert trace.metrics["acc"] == trace.metrics["format"] == 1
    assert trace.metrics["tool_turns"] == 1
    assert trace.reward == sum(trace.metrics[part] for part in ("acc", "format", "bonus"))
    saved = vf.WireTrace.model_validate(json.loads(json.dumps(trace.to_record())))
    assert trajectory_of(saved) == trajectory_of(trace)
    assert saved.task.key == task.id
    again = next(iter(game.env.taskset))
    saved.rewards.clear()
    asyncio.run(again.score(saved))
    assert saved.reward == trace.reward


def test_a_reward_of_ones_own_takes_the_place_of_the_default(
    task: VideoTask, server: str, plugin: str, tmp_path: Path
) -> None:
    module = tmp_path / "my_rewards.py"
    module.write_text(
        "from envs.adapters.verifiers import trajectory_of\n"
        "async def frugal(trace):\n"
        "    return -float(len(trajectory_of(trace).crops))\n",
        encoding="utf-8",
    )
    rewards = {"trajectory_reward": {"fn": f"{module}:frugal", "weight": 0.5}}
    game = Game(server, plugin, task, script=RIGHT, taskset={"task": {"rewards": rewards}})
    assert trace_of(game.play()).reward == -0.5


def test_thoughts_that_the_server_splits_off_are_part_of_the_reply(
    task: VideoTask, server: str, plugin: str
) -> None:
    script = {
        "replies": ["<think>not <answer>A</answer></think><answer>B</answer>"],
        "reasoning": "reasoning_content",
    }
    trace = trace_of(Game(server, plugin, task, script=script).play())
    [turn] = trajectory_of(trace).turns
    assert turn.reply == "<think>not A</think><answer>B</answer>"
    assert trace.metrics["format"] == 1


def test_no_reply_at_all_ends_the_episode(task: VideoTask, server: str, plugin: str) -> None:
    script = {"replies": [""], "choice": {"message": {"role": "assistant", "content": None}}}
    trace = trace_of(Game(server, plugin, task, script=script).play())
    assert trajectory_of(trace).end_reason is EndReason.NO_ACTION
    assert trace.reward == 0


def test_a_limit_of_verifiers_ends_the_episode_and_it_is_scored(
    task: VideoTask, server: str, plugin: str
) -> None:
    trace = trace_of(Game(server, plugin, task, script=RIGHT, agent={"max_turns": 1}).play())
    assert trace.stop_condition == "max_turns"
    played = trajectory_of(trace)
    assert (len(played.turns), played.end_reason) == (1, EndReason.ABANDONED)
    assert trace.rewards["trajectory_reward"].score == 0


def test_a_prompt_over_the_context_limit_asks_nobody(
    task: VideoTask, server: str, plugin: str
) -> None:
    long = dataclasses.replace(task, question="Why? " * 10_000)
    game = Game(server, plugin, long, script=RIGHT)
    trace = trace_of(game.play())
    assert trajectory_of(trace).end_reason is EndReason.PROMPT_TOO_LONG
    assert (trace.num_turns, trace.reward) == (0, 0)


def test_a_server_that_refuses_fails_the_episode_without_a_reward(
    task: VideoTask, server: str, plugin: str
) -> None:
    script = RIGHT | {"faults": [{"status": 400, "body": "too many images"}]}
    episode = Game(server, plugin, task, script=script).play()
    assert not episode.ok
    trace = trace_of(episode)
    assert "too many images" in trace.errors[0].message
    assert trace.rewards == {}


def test_a_video_that_cannot_be_opened_fails_its_episode_without_a_reward(
    task: VideoTask, server: str, plugin: str, tmp_path: Path
) -> None:
    video = tmp_path / "broken.mp4"
    video.write_bytes(b"no video")
    episode = Game(server, plugin, dataclasses.replace(task, video=str(video)), script=RIGHT).play()
    assert not episode.ok
    assert "broken.mp4" in trace_of(episode).errors[0].message
    assert trace_of(episode).rewards == {}
    with pytest.raises(TrajectoryError, match="see its errors"):
        trajectory_of(trace_of(episode))


def test_episodes_at_once_share_what_is_decoded(task: VideoTask, server: str, plugin: str) -> None:
    game = Game(server, plugin, task, script=RIGHT | {"gather": 3})

    async def play() -> list[Any]:
        async with game.env.serving():
            task = next(iter(game.env.taskset))
            return await asyncio.gather(*(game.env.run_episode(task, game.ctx) for _ in range(3)))

    assert [trace_of(episode).metrics["acc"] for episode in asyncio.run(play())] == [1, 1, 1]
    # The overview and the crop.
    assert game.env._cache.stats.misses == 2


def test_frames_can_be_thinned_out_and_sent_as_jpeg(
    task: VideoTask, server: str, plugin: str
) -> None:
    game = Game(server, plugin, task, script=RIGHT, max_images=2)
    assert game.play().ok
    *frames, text = game.requests[0]["messages"][1]["content"]
    assert [part["type"] for part in frames] == ["text", "image_url"] * 2
    assert frames[1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert text["text"].endswith("2 of the 20 frames are shown.")


def test_the_default_questions_are_needles_made_for_the_budget(plugin: str) -> None:
    taskset = vf.load_taskset(vf.taskset_config_type(plugin)(id=plugin, budget="tiny"))
    tasks = list(taskset)
    keys = [task.key for task in tasks]
    assert len(set(keys)) == len(keys) > 10
    assert all("<grounding>" in task.data.system_prompt for task in tasks)
    assert taskset.rules() == SessionConfig(budget="tiny")


def test_what_verifiers_looks_for_is_there(plugin: str) -> None:
    assert vf.default_harness_id(plugin) == plugin
    assert vf.environment_class(plugin) is VideoSeekEnvironment
    assert vf.task_type(plugin) is VideoSeekTask


def test_without_verifiers_the_import_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    monkeypatch.delitem(sys.modules, "envs.adapters.verifiers")
    with pytest.raises(MissingExtraError, match=r"videoseek-env\[verifiers\]"):
        importlib.import_module("envs.adapters.verifiers")
