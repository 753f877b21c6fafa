import dataclasses
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.llm.openai_policy import OpenAIPolicy
from agents.rollout import RolloutConfig, rollout
from tests.agents.llm.chat_server import KEY, MODEL
from tests.agents.llm.scripted_server import TINY, Server, config_for, log_of, requests_of
from tests.sample_trajectories import answer_reply, crop_reply, make_task
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason

EXAMPLE = Path(__file__).parents[3] / "examples" / "11_openai_server.py"


def tasks_for(video: Path, count: int) -> list[VideoTask]:
    return [
        dataclasses.replace(make_task(), id=f"task-{number}", video=str(video))
        for number in range(count)
    ]


def test_one_failing_request_ends_one_episode(server: Server, minute_video: Path) -> None:
    config = config_for(
        server.url,
        crop_reply(10, 20),
        answer_reply("B"),
        script={"faults": [{"status": 500, "body": "out of memory"}]},
        max_retries=0,
    )
    with OpenAIPolicy.factory(config) as make_policy:
        episodes = list(
            rollout(make_policy, tasks_for(minute_video, 6), RolloutConfig(workers=3), session=TINY)
        )
    endings = [episode.trajectory.end_reason for episode in episodes]
    assert endings.count(EndReason.ANSWERED) == 5
    failed = episodes[endings.index(EndReason.POLICY_FAILED)]
    assert failed.error is not None
    assert re.match(r"PolicyError: the model 'scripted' at .* answered HTTP 500", failed.error)
    assert failed.reward.value == 0.0
    assert {episode.reward.value for episode in episodes if episode is not failed} == {3.0}


def test_the_outcome_does_not_depend_on_the_number_of_workers(
    server: Server, minute_video: Path
) -> None:
    def play_all(workers: int) -> tuple[list[Any], list[str]]:
        config = config_for(server.url, crop_reply(10, 20), answer_reply("B"))
        plan = RolloutConfig(workers=workers, episodes_per_task=2)
        with OpenAIPolicy.factory(config) as make_policy:
            episodes = rollout(make_policy, tasks_for(minute_video, 3), plan, session=TINY)
            played = [(episode.seed, episode.trajectory) for episode in episodes]
        return played, sorted(json.dumps(request) for request in requests_of(config))

    alone, together = play_all(1), play_all(4)
    assert alone == together
    assert len(alone[1]) == 12


def test_requests_under_way_are_limited(server: Server, minute_video: Path) -> None:
    # The server answers requests in pairs: with fewer than two under way it would wait for ever.
    config = config_for(server.url, answer_reply("B"), script={"gather": 2}, max_concurrency=2)
    with OpenAIPolicy.factory(config) as make_policy:
        plan = RolloutConfig(workers=6)
        episodes = list(rollout(make_policy, tasks_for(minute_video, 6), plan, session=TINY))
    assert [episode.error for episode in episodes] == [None] * 6
    assert log_of(config)["peak"] == 2


def test_without_a_limit_all_workers_ask_at_once(server: Server, minute_video: Path) -> None:
    config = config_for(server.url, answer_reply("B"), script={"gather": 6})
    with OpenAIPolicy.factory(config) as make_policy:
        plan = RolloutConfig(workers=6)
        episodes = list(rollout(make_policy, tasks_for(minute_video, 6), plan, session=TINY))
    assert [episode.error for episode in episodes] == [None] * 6
    assert log_of(config)["peak"] == 6


def test_the_example_plays_with_a_server(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tyro")
    monkeypatch.chdir(tmp_path)
    arguments = {"base-url": server.url, "model": MODEL, "api-key": KEY, "tasks": 2}
    given = [f"--{name}={value}" for name, value in arguments.items()]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *given])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    *episodes, total = capsys.readouterr().out.splitlines()
    assert ["answered           2 turns  answer B" in line for line in episodes] == [True, True]
    assert total.startswith("4 replies: ")
