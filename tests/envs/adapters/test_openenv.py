import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openenv")

from openenv.cli.__main__ import app as cli
from openenv.core.generic_client import GenericEnvClient
from pydantic import ValidationError
from typer.testing import CliRunner
from websockets.sync.client import ClientConnection, connect

from envs.adapters.content import data_url
from envs.adapters.openenv import (
    VideoSeekAction,
    VideoSeekClient,
    VideoSeekObservation,
    VideoSeekState,
)
from envs.adapters.openenv_server import (
    FrameEncoder,
    VideoSeekEnvironment,
    make_app,
)
from tests.envs.adapters.same_episode import (
    EPISODES,
    REWARD,
    RULES,
    Move,
    Played,
    Seen,
    check_same_episode,
    make_task,
)
from tests.hostile_replies import random_hostile_replies
from tests.sample_trajectories import answer_reply, crop_reply
from tests.synthetic_video import read_barcodes, write_video
from videoseek_env.action import Fault
from videoseek_env.env import VideoSeekEnv
from videoseek_env.errors import EpisodeError, TaskError
from videoseek_env.session import SessionConfig
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import ClipCache, open_video

ROOT = Path(__file__).parents[3]

APP = """
from fastapi import FastAPI
from envs.adapters.openenv_server import make_app, serve
from videoseek_env import ClipCache, SessionConfig, load_tasks

tasks, cache = load_tasks("folder", root="."), ClipCache(2**26)
tiny = SessionConfig(budget="tiny", max_turns=3)
app = FastAPI()
app.mount("/tiny", make_app(tasks, config=tiny, cache=cache))
app.mount("/few", make_app(tasks, config=tiny, max_sessions=2))
app.mount("/big", make_app(tasks, config=SessionConfig(budget="qwen3-vl")))
app.get("/misses")(lambda: cache.stats.misses)
serve(app, port=0)
"""


@dataclass(frozen=True)
class Server:
    address: str
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(encoding="utf-8")

    def client(self, app: str = "tiny") -> Any:
        return VideoSeekClient(f"{self.address}/{app}").sync()

    def socket(self, app: str) -> ClientConnection:
        """The bare protocol: one session, as a client in any language opens it."""
        return connect(f"{self.address.replace('http', 'ws')}/{app}/ws", max_size=None)


@pytest.fixture(scope="module")
def server(minute_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in a process of its own: four questions about a minute, and two other videos."""
    folder = tmp_path_factory.mktemp("server")
    noise = np.random.default_rng(0).integers(0, 256, (128, 224, 416, 3), np.uint8)
    write_video(
        folder / "noise.mp4", 128, fps=2, height=224, width=416, pictures=noise,
        options={"preset": "ultrafast", "crf": "10"},
    )  # fmt: skip
    (folder / "broken.mp4").write_bytes(b"no video")
    videos = {f"minute-{number}": str(minute_video) for number in range(4)}
    videos |= {"noise": "noise.mp4", "broken": "broken.mp4"}
    question = {"question": "Which?", "options": ["1", "2"], "answer": "B", "clues": [[10, 20]]}
    lines = [json.dumps({"id": name, "video": path} | question) for name, path in videos.items()]
    (folder / "annotations.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "served.py").write_text(APP, encoding="utf-8")
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "served.py"],
            cwd=folder,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    try:
        while not (
            found := re.search(r"running on (http://\S+)", (folder / "log.txt").read_text())
        ):
            assert process.poll() is None, (folder / "log.txt").read_text()
            time.sleep(0.1)
        yield Server(found[1], folder)
    finally:
        process.terminate()
        process.wait(timeout=30)


def environment(task: VideoTask, rules: SessionConfig = RULES) -> VideoSeekEnvironment:
    """A session without a network."""
    return VideoSeekEnvironment(VideoSeekEnv([task], REWARD, config=rules), FrameEncoder())


def act(reply: str) -> VideoSeekAction:
    return VideoSeekAction(reply=reply)


def played(observations: Sequence[VideoSeekObservation]) -> Played:
    """What came of an episode whose last observation says that it is over."""
    *running, last = observations
    assert [observation.done for observation in observations] == [False] * len(running) + [True]
    assert [observation.reward for observation in running] == [None] + [0.0] * (len(running) - 1)
    assert last.text == f"The episode is over: {last.end_reason}." and not last.frames
    assert last.end_reason is not None and last.reward is not None
    seen = []
    for observation in (observation.unpacked() for observation in running):
        clip = observation.clip
        frames = () if clip is None else list(clip.frames)
        times = () if clip is None else clip.timestamps_seconds.tolist()
        seen.append(Seen(observation.text, frames, times))
    return Played(observations[0].system, seen, last.end_reason.value, float(last.reward))


def play_here(task: VideoTask, rules: SessionConfig, moves: Sequence[Move]) -> Played:
    here = environment(task, rules)
    return played([here.reset(), *(here.step(act(move.reply)) for move in moves)])


@pytest.mark.parametrize("moves", EPISODES.values(), ids=EPISODES)
def test_an_episode_is_the_sessions(moves: Sequence[Move], task: VideoTask) -> None:
    check_same_episode(play_here, moves, task)


@pytest.mark.parametrize("moves", EPISODES.values(), ids=EPISODES)
def test_an_episode_over_the_network_is_the_sessions(
    moves: Sequence[Move], server: Server, minute_video: Path
) -> None:
    [_, task, *_] = tasks_of(server, minute_video)

    def play(task: VideoTask, rules: SessionConfig, moves: Sequence[Move]) -> Played:
        with server.client() as client:
            results = [client.reset(task_id=task.id)]
            results += [client.step(act(move.reply)) for move in moves]
        assert all(result.reward == result.observation.reward for result in results)
        return played([result.observation for result in results])

    check_same_episode(play, moves, task)


def tasks_of(server: Server, video: Path) -> list[VideoTask]:
    """The questions about the minute, as the server has them."""
    own = {"id": "minute-0", "question": "Which?", "options": ("1", "2")}
    return [replace(make_task(video), **own | {"id": f"minute-{n}"}) for n in range(4)]


def test_many_clients_play_their_own_tasks_at_once(server: Server, minute_video: Path) -> None:
    # 10 frames per second: second 5 n to second 5 n + 4 are the frames 50 n to 50 n + 40.
    async def play(number: int) -> tuple[list[int], Trajectory]:
        async with VideoSeekClient(f"{server.address}/tiny") as client:
            await client.reset(task_id=f"minute-{number % 4}")
            result = await client.step(act(crop_reply(5 * number, 5 * number + 4)))
            crop = result.observation.unpacked().clip
            assert crop is not None
            result = await client.step(act(answer_reply("AB"[number % 2])))
            return read_barcodes(crop.frames), Trajectory.from_dict(result.observation.trajectory)

    async def play_all() -> list[tuple[list[int], Trajectory]]:
        return await asyncio.gather(*(play(number) for number in range(10)))

    for number, (barcodes, trajectory) in enumerate(asyncio.run(play_all())):
        assert trajectory.task == tasks_of(server, minute_video)[number % 4]
        assert trajectory.answer == "AB"[number % 2]
        assert barcodes == list(trajectory.clips[1].indices)
        assert 50 * number <= barcodes[0] <= barcodes[-1] <= 50 * number + 40


def test_sessions_share_what_was_decoded(server: Server) -> None:
    import urllib.request

    def misses() -> int:
        with urllib.request.urlopen(f"{server.address}/misses") as answer:
            return int(answer.read())

    with server.client() as client:
        client.reset(task_id="minute-0")
        before = misses()
        for _ in range(3):
            with server.client() as other:
                other.reset(task_id="minute-1")
    assert misses() == before


def test_a_seed_draws_the_task_that_it_draws_in_gymnasium(
    server: Server, minute_video: Path
) -> None:
    # The two other videos come last; seeds that draw them are left out.
    tasks = [*tasks_of(server, minute_video), make_task(minute_video), make_task(minute_video)]
    env = VideoSeekEnv(
        [replace(task, id=f"task-{n}") for n, task in enumerate(tasks)], REWARD, config=RULES
    )
    drawn = {seed: env.reset(seed=seed)[1]["task_id"] for seed in range(12)}
    usable = {seed: name[-1] for seed, name in drawn.items() if name[-1] in "0123"}
    assert len(set(usable.values())) > 1
    with server.client() as client:
        for seed, number in usable.items():
            client.reset(seed=seed)
            assert client.state().task_id == f"minute-{number}", seed


def test_malformed_replies_get_a_text_and_cost_a_turn(server: Server) -> None:
    with server.client() as client:
        client.reset(task_id="minute-0", episode_id="mine")
        result = client.step(act("<grounding>{}</grounding>"))
        assert result.observation.error is Fault.MISSING_KEY
        assert "temporal_segment" in result.observation.text
        assert not result.observation.frames and result.observation.clip is None
        assert (result.reward, result.done) == (0.0, False)
        state = client.state()
        assert (state.episode_id, state.step_count, state.malformed_replies) == ("mine", 1, 1)
        assert client.step(act("no tags")).observation.end_reason is EndReason.NO_ACTION


def test_any_string_is_a_reply(server: Server) -> None:
    replies = ["", "\ud800 \x00 \U0001f3ac", "x" * 1_000_000]
    replies += random_hostile_replies(60, np.random.default_rng(0))
    with server.client() as client:
        endings = []
        for reply in replies:
            client.reset(task_id="minute-0")
            result = client.step(act(reply))
            endings.append(result.observation.end_reason)
            assert result.done == (endings[-1] is not None)
    assert endings[:3] == [EndReason.NO_ACTION, EndReason.NO_ACTION, EndReason.REPLY_CUT]


def test_what_unicode_lacks_is_replaced_in_a_reply() -> None:
    assert act("a\ud800b").reply == "a\ufffdb"
    assert act("\ud83c\udfac é").reply == "\U0001f3ac é"


def test_a_reply_out_of_order_is_refused_and_the_session_goes_on(server: Server) -> None:
    with server.client() as client:
        with pytest.raises(RuntimeError, match=r"no episode yet; call reset\(\) first"):
            client.step(act("too early"))
        client.reset(task_id="minute-0")
        assert client.step(act(answer_reply("B"))).done
        with pytest.raises(RuntimeError, match=r"the episode is over; call reset\(\) first"):
            client.step(act("too late"))
        assert not client.reset(task_id="minute-0").done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "minute-0"}, r"unknown reset arguments \['task'\]; expected seed, episode_id"),
        ({"task_id": "hour"}, "no task 'hour' among 6, such as: minute-0"),
        ({"seed": -1}, "Seed must be greater or equal to zero"),
        ({"seed": "one"}, "Seed must be a python integer"),
    ],
)
def test_a_reset_that_makes_no_sense_is_refused(
    arguments: dict[str, Any], message: str, server: Server
) -> None:
    with server.client() as client:
        with pytest.raises(RuntimeError, match=message):
            client.reset(**arguments)
        assert not client.reset(task_id="minute-0").done


@pytest.mark.parametrize("action", [{}, {"reply": 7}, {"reply": "x", "tool": "crop"}])
def test_an_action_of_another_form_is_refused(action: dict[str, Any], server: Server) -> None:
    with pytest.raises(ValidationError):
        VideoSeekAction(**action)
    with GenericEnvClient(f"{server.address}/tiny").sync() as client:
        client.reset(task_id="minute-0")
        with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
            client.step(action)
        result = client.step({"reply": answer_reply("B")})
        assert result.done and result.observation["end_reason"] == "answered"


def test_clients_that_leave_make_room(server: Server) -> None:
    def answer_of(socket: ClientConnection, kind: str, **data: Any) -> dict[str, Any]:
        socket.send(json.dumps({"type": kind, "data": data}))
        answer: dict[str, Any] = json.loads(socket.recv())
        return answer

    with server.socket("few") as first, server.socket("few") as second:
        for socket in (first, second):
            assert answer_of(socket, "reset", task_id="minute-0")["type"] == "observation"
        with server.socket("few") as third:
            refusal = json.loads(third.recv())["data"]
            assert refusal["code"] == "CAPACITY_REACHED" and refusal["max_sessions"] == 2
        # One is cut off while its crop is decoded, without a word; the other says that it leaves.
        first.send(json.dumps({"type": "step", "data": {"reply": crop_reply(1, 59)}}))
        first.socket.close()
        second.send(json.dumps({"type": "close"}))
        for _ in range(2):
            deadline = time.monotonic() + 60
            while True:
                with server.socket("few") as newcomer:
                    answer = answer_of(newcomer, "reset", task_id="minute-0")
                    if answer["type"] == "observation":
                        break
                assert time.monotonic() < deadline, answer
                time.sleep(0.05)


def test_the_log_has_no_traceback_for_clients_that_left(server: Server) -> None:
    server.client().connect().close()
    with server.client() as client:
        client.reset(task_id="minute-0")
    with server.client() as client:  # by the time it is answered, the server has seen both leave
        client.reset(task_id="minute-1")
        assert "WebSocket /tiny/ws" in server.log
        assert "Traceback" not in server.log


def test_a_video_that_cannot_be_opened_ends_its_episode_and_nothing_else(server: Server) -> None:
    with server.client() as client:
        result = client.reset(task_id="broken")
        assert result.done and result.reward is None
        assert result.observation.end_reason is EndReason.VIDEO_FAILED
        assert result.observation.text == "The video can't be shown."
        assert "broken.mp4" in result.observation.failure
        assert client.state().end_reason is EndReason.VIDEO_FAILED
        with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
            client.step(act("and now?"))
        assert not client.reset(task_id="minute-0").done


def test_a_video_that_fails_half_way_ends_the_episode_without_a_reward(
    minute_video: Path, tmp_path: Path
) -> None:
    path = tmp_path / "here_today.mp4"
    path.write_bytes(minute_video.read_bytes())
    here = environment(make_task(path))
    assert not here.reset().done
    path.unlink()
    last = here.step(act(crop_reply(10, 20)))
    assert last.done and last.reward is None and last.reward_parts == {}
    assert last.end_reason is EndReason.VIDEO_FAILED and here.state.end_reason == last.end_reason
    assert last.failure is not None and "here_today.mp4" in last.failure
    trajectory = Trajectory.from_dict(last.trajectory or {})
    assert len(trajectory.turns) == 1
    with pytest.raises(EpisodeError, match="over"):
        here.step(act("more"))


def test_large_frames_arrive_whole(server: Server) -> None:
    # Noise hardly compresses: 128 frames of 224 x 416 pixels are 36 MB, more than the 16 MiB that
    # servers and clients of web sockets take as they come.
    with server.client("big") as client:
        result = client.reset(task_id="noise")
    assert sum(map(len, result.observation.frames)) > 2 * 2**24
    seen = result.observation.unpacked()
    reader = open_video(server.folder / "noise.mp4")
    assert seen.clip is not None and seen.clip_ref is not None
    expected = ClipCache(0).load(seen.clip_ref, reader)
    np.testing.assert_array_equal(seen.clip.frames, expected.frames)
    np.testing.assert_array_equal(seen.clip.timestamps_seconds, expected.timestamps_seconds)


def test_a_question_too_long_for_the_context_ends_at_reset(task: VideoTask) -> None:
    wordy = replace(task, question="which? " * 2000)
    first = environment(wordy).reset()
    assert first.done and first.end_reason is EndReason.PROMPT_TOO_LONG
    assert first.reward == 0.0 and not first.frames


def test_the_last_observation_has_the_score_and_the_trajectory(task: VideoTask) -> None:
    here = environment(task)
    here.reset()
    here.step(act(crop_reply(10, 20)))
    last = here.step(act(answer_reply("B")))
    trajectory = Trajectory.from_dict(last.trajectory or {})
    score = REWARD(trajectory)
    assert (last.reward, last.reward_parts) == (score.value, dict(score.parts))
    assert last.reward == 3.0  # right, in form, and a crop of exactly the clue
    assert trajectory.task == task and len(trajectory.turns) == 2


def test_the_state_counts_from_before_the_first_reset(task: VideoTask) -> None:
    here = environment(task)
    assert here.state == VideoSeekState()
    here.reset(episode_id="first")
    # An overview of 20 frames of 32 x 32 pixels: ten pairs of one token.
    assert (here.state.task_id, here.state.visual_tokens) == (task.id, 10)
    here.reset()
    assert here.state.episode_id not in (None, "first") and here.state.step_count == 0


def test_closing_abandons_the_episode(task: VideoTask) -> None:
    here = environment(task)
    here.reset()
    here.close()
    with pytest.raises(EpisodeError, match="over"):
        here.step(act(answer_reply("B")))


def test_jpeg_is_several_times_smaller_and_nearly_the_same(task: VideoTask) -> None:
    env = VideoSeekEnv([task], REWARD, config=SessionConfig(budget="qwen3-vl"))
    env.reset()
    assert env.observation.clip is not None
    frame = env.observation.clip.frames[0].astype(int)
    frame = np.clip(frame + np.random.default_rng(0).normal(0, 8, frame.shape), 0, 255)
    frame = frame.astype(np.uint8)
    png, jpeg = data_url(frame, "png"), data_url(frame, "jpeg")
    assert png.startswith("data:image/png;base64,") and jpeg.startswith("data:image/jpeg;base64,")
    assert 2 * len(jpeg) < len(png)
    first = VideoSeekEnvironment(env, FrameEncoder("jpeg")).reset().unpacked().clip
    assert first is not None
    off = np.abs(first.frames.astype(int) - env.observation.clip.frames)
    assert first.frames.shape == env.observation.clip.frames.shape and 0 < off.mean() < 3


def test_a_clip_is_encoded_once_and_forgotten_with_its_frames() -> None:
    encode, frames = FrameEncoder(), np.zeros((2, 32, 32, 3), np.uint8)
    first = encode(frames)
    assert encode(frames) is first
    assert encode(frames.copy()) is not first
    del frames
    gc.collect()
    assert encode._encoded == {}


def test_an_app_needs_tasks_with_ids_of_their_own(task: VideoTask) -> None:
    with pytest.raises(TaskError, match="each with its own id"):
        make_app([task, task])


def test_openenv_validates_the_running_server(server: Server) -> None:
    run = CliRunner().invoke(cli, ["validate", f"{server.address}/tiny"])
    report = json.loads(run.output)
    assert report["passed"] and report["mode"] == "simulation", report["summary"]


def test_openenv_validates_the_folder_of_the_example() -> None:
    run = CliRunner().invoke(cli, ["validate", str(ROOT / "examples" / "openenv_server")])
    *_, found = run.output.strip().partition("Issues found:")
    # A lock file is its user's to make: it fixes the package index too.
    assert found.split("\n  - ") == ["", "Missing uv.lock - run 'uv lock' to generate it"], (
        run.output
    )
