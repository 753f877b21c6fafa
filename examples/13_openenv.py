"""Start an OpenEnv server, and let a policy play needle tasks on it over the network.

The policy here looks at pixels; put a request to your model's server in its place. Needs
`pip install 'videoseek-env[openenv]'`.

Run: python examples/13_openenv.py [number of tasks]
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

from agents.seeker import PixelSeeker
from envs.adapters.openenv import VideoSeekAction, VideoSeekClient, VideoSeekObservation
from videoseek_env import Trajectory


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """The address of a server in a process of its own, which ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "envs.adapters.openenv_server", "--port", port, *arguments]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:
        try:
            while not answers(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None:
                    raise SystemExit(f"the server did not start; see: {' '.join(command)}")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def answers(address: str) -> bool:
    """Whether somebody answers there."""
    try:
        with urlopen(address):
            return True
    except URLError:
        return False


def play(client: VideoSeekClient, seed: int) -> tuple[VideoSeekObservation, float]:
    """Play the task that a seed draws: the last observation, and the slowest step in seconds."""
    policy, slowest = PixelSeeker(), 0.0
    policy.reset(seed=seed)
    result = client.reset(seed=seed)
    while not result.done:
        reply = policy.act(result.observation.unpacked())
        started = time.perf_counter()
        result = client.step(VideoSeekAction(reply=reply))
        slowest = max(slowest, time.perf_counter() - started)
    return result.observation, slowest


def main() -> None:
    """Play, and print a line per task."""
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    print(f"{'task':<26}{'ending':<12}{'turns':>6}{'reward':>8}{'slowest step':>16}")
    with server() as address, VideoSeekClient(address).sync() as client:
        for seed in range(tasks):
            last, seconds = play(client, seed)
            episode = Trajectory.from_dict(last.trajectory)
            print(
                f"{episode.task.id:<26}{last.end_reason:<12}{len(episode.turns):>6}"
                f"{last.reward:>8.2f}{1000 * seconds:>13.0f} ms"
            )


if __name__ == "__main__":
    main()
