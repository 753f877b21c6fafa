"""What the adapters add to a step, and what a step through an OpenEnv server takes.

    python benchmarks/adapters.py            200 steps of each kind
    python benchmarks/adapters.py --quick    20 steps

All clips are in the cache, because decoding is the same with every adapter. On a busy machine, look
at what is added more than at the times.
"""

from __future__ import annotations

import argparse
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from fastapi import FastAPI

from envs.adapters.content import ImageFormat
from envs.adapters.openenv import VideoSeekAction, VideoSeekClient
from envs.adapters.openenv_server import FrameEncoder, VideoSeekEnvironment, make_app, serve
from envs.adapters.trl import environment_factory
from envs.adapters.verl import GuardedEpisode
from rewards import TrajectoryGuidedReward
from videoseek_env.action import write_answer, write_crop
from videoseek_env.datasets import load_tasks
from videoseek_env.env import VideoSeekEnv
from videoseek_env.segment import Segment
from videoseek_env.session import SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache, open_video

BUDGETS = ("tiny", "laptop", "qwen3-vl")
FORMATS = get_args(ImageFormat)
REPLIES = {
    "crop": write_crop("look", Segment(30.0, 40.0), "fine"),
    "error": "<grounding>{}</grounding>",
    "answer": write_answer("so", "A"),
}
CALLS = {
    "crop": ("crop", (30.0, 40.0, "fine")),
    "error": ("crop", (None, None, "fine")),
    "answer": ("answer", ("A",)),
}
"""The same as calls of tools."""

Step = Callable[[str], object]
"""Carries out one of `REPLIES`, by its name."""


def medians(begins: Mapping[str, Callable[[], Step]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each kind of step, each the first of an episode, taken in turns."""
    times: dict[str, list[list[float]]] = {name: [[] for _ in REPLIES] for name in begins}
    for _ in range(repeats + 1):
        for place, kind in enumerate(REPLIES):
            for name, begin in begins.items():
                step = begin()
                started = time.perf_counter()
                step(kind)
                times[name][place].append(1000 * (time.perf_counter() - started))
    return {
        name: [statistics.median(each[1:]) for each in by_kind] for name, by_kind in times.items()
    }


def beginners(task: VideoTask, config: SessionConfig) -> dict[str, Callable[[], Step]]:
    """What starts an episode in the session, and through each adapter."""
    cache, reward = ClipCache(2**30), TrajectoryGuidedReward()
    reader = open_video(task.video)
    env = VideoSeekEnv([task], reward, config=config, cache=cache)
    openenv = VideoSeekEnvironment(
        VideoSeekEnv([task], reward, config=config, cache=cache), FrameEncoder()
    )
    trl = environment_factory([task], config=config, cache=cache)()

    def in_session() -> Step:
        session = VideoSession(task, reader, config, cache=cache)
        session.start()
        return lambda kind: session.reply(REPLIES[kind])

    def in_gymnasium() -> Step:
        env.reset()
        return lambda kind: env.step(REPLIES[kind])

    def in_openenv() -> Step:
        openenv.reset()
        return lambda kind: openenv.step(VideoSeekAction(reply=REPLIES[kind]))

    def in_trl() -> Step:
        trl.reset(task_id=task.id)
        return lambda kind: getattr(trl, CALLS[kind][0])(*CALLS[kind][1])

    def in_verl() -> Step:
        episode = GuardedEpisode(task, config, cache)
        episode.start()
        return lambda kind: episode.reply(REPLIES[kind])

    return {
        "VideoSession": in_session,
        "VideoSeekEnv": in_gymnasium,
        "OpenEnv, no network": in_openenv,
        "TRL": in_trl,
        "verl, its episode": in_verl,
    }


def step_latency(repeats: int) -> None:
    """Steps without a network, and what each adapter adds to the session's."""
    print("a step without a network, median ms (added to the session's)")
    print(f"{'':<32}" + "".join(f"{kind:>20}" for kind in REPLIES))
    for budget in BUDGETS:
        found = medians(beginners(load_tasks("needle")[0], SessionConfig(budget=budget)), repeats)
        base = found["VideoSession"]
        for name, times in found.items():
            cells = (f"{ms:.3f} ({ms - less:+.3f})" for ms, less in zip(times, base, strict=True))
            print(f"{budget:<10}{name:<22}" + "".join(f"{cell:>20}" for cell in cells))


def encoding() -> None:
    """What an overview is as a message, and what encoding it takes, once per clip."""
    print(f"\n{'an overview on its way':<26}{'raw MB':>10}{'message MB':>14}{'encoding ms':>14}")
    rng = np.random.default_rng(0)
    for budget in BUDGETS:
        env = VideoSeekEnv(
            load_tasks("needle")[:1], TrajectoryGuidedReward(), config=SessionConfig(budget=budget)
        )
        clean = env.reset()[0]["frames"]
        noisy = np.clip(clean + rng.normal(0, 6, clean.shape), 0, 255).astype(np.uint8)
        for what, frames in (("needle", clean), ("with film grain", noisy)):
            for image_format in FORMATS:
                started = time.process_time()
                urls = FrameEncoder(image_format)(frames)
                milliseconds = 1000 * (time.process_time() - started)
                size = sum(map(len, urls)) / 1e6
                name = f"{budget} {what}, {image_format}"
                print(f"{name:<34}{frames.nbytes / 1e6:>6.2f}{size:>10.2f}{milliseconds:>14.0f}")


def round_trips(repeats: int) -> None:
    """A step from a client on this machine, its frames decoded or not."""
    print("\na step through an OpenEnv server on this machine, median ms")
    print(f"{'':<22}" + "".join(f"{kind:>10}" for kind in REPLIES) + f"{'crop, unpacked':>18}")
    with server() as address:
        for budget in BUDGETS:
            for image_format in FORMATS:
                with VideoSeekClient(f"{address}/{budget}-{image_format}").sync() as client:
                    found = medians(over_network(client), repeats)
                row = "".join(f"{ms:>10.2f}" for ms in found["packed"])
                print(f"{budget + ', ' + image_format:<22}{row}{found['unpacked'][0]:>18.2f}")


def over_network(client: Any) -> dict[str, Callable[[], Step]]:
    """What starts an episode on a server, whose frames are then decoded or not."""

    def begin() -> Step:
        client.reset(seed=0)
        return lambda kind: client.step(VideoSeekAction(reply=REPLIES[kind]))

    def begin_unpacking() -> Step:
        client.reset(seed=0)
        return lambda kind: client.step(VideoSeekAction(reply=REPLIES[kind])).observation.unpacked()

    return {"packed": begin, "unpacked": begin_unpacking}


@contextmanager
def server() -> Iterator[str]:
    """The address of a server with an application for each budget and image format."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with subprocess.Popen(
        [sys.executable, __file__, "--serve", port],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            while not _answers(f"http://127.0.0.1:{port}/docs"):
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with {process.returncode}")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    try:
        with urlopen(address):
            return True
    except URLError:
        return False


def serve_all(port: int) -> None:
    """Serve every budget with every image format."""
    app = FastAPI()
    for budget in BUDGETS:
        config, tasks = SessionConfig(budget=budget), load_tasks("needle")[:1]
        for image_format in FORMATS:
            path = f"/{budget}-{image_format}"
            app.mount(path, make_app(tasks, config=config, image_format=image_format))
    serve(app, port=port)


def main() -> None:
    """Run every part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--serve", type=int, metavar="PORT", help="only be the server")
    arguments = parser.parse_args()
    if arguments.serve:
        serve_all(arguments.serve)
        return
    repeats = 20 if arguments.quick else 200
    print(f"Python {platform.python_version()}, {platform.machine()}\n")
    step_latency(repeats)
    encoding()
    round_trips(repeats // 2)


if __name__ == "__main__":
    main()
