"""Play a set of tasks on eight environments, each stepped as soon as its reply has come.

The policy here looks at pixels; put a request to your model's server in its place. The environments
share one cache of decoded clips, so that questions about one video decode its overview once.

Run: python examples/12_vector_rollouts.py [number of environments]
"""

import sys
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from agents.seeker import PixelSeeker
from envs.vector import VideoSeekVectorEnv
from rewards import TrajectoryGuidedReward, accuracy
from videoseek_env import Trajectory, VideoTask, load_tasks


def play(vector: VideoSeekVectorEnv, tasks: Iterable[VideoTask]) -> list[Trajectory]:
    """Play every task; an environment that is done takes the next one."""
    waiting = deque(tasks)
    policies = [PixelSeeker() for _ in range(vector.num_envs)]
    writing: dict[Future[str], int] = {}
    finished: list[Trajectory] = []
    with ThreadPoolExecutor(vector.num_envs) as server:

        def begin(indices: Iterable[int]) -> None:
            chosen = {index: {"task_id": waiting.popleft().id} for index in indices if waiting}
            vector.reset_subset(chosen)
            for index in chosen:
                policies[index].reset(seed=0)
                ask(index)

        def ask(index: int) -> None:
            observation = vector.envs[index].observation
            writing[server.submit(policies[index].act, observation)] = index

        begin(range(vector.num_envs))
        while writing:
            arrived, _ = wait(writing, return_when=FIRST_COMPLETED)
            replies = {writing.pop(future): future.result() for future in arrived}
            idle = []
            for index, (_, _, terminated, truncated, info) in vector.step_subset(replies).items():
                if terminated or truncated:
                    finished.append(info["trajectory"])
                    idle.append(index)
                else:
                    ask(index)
            begin(idle)
    return finished


def main() -> None:
    """Play the default needle tasks, and say how fast and how well."""
    num_envs = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    tasks = load_tasks("needle")
    vector = VideoSeekVectorEnv(
        num_envs, tasks, TrajectoryGuidedReward(), autoreset_mode="Disabled"
    )
    started = time.perf_counter()
    trajectories = play(vector, tasks)
    seconds = time.perf_counter() - started
    right = sum(map(accuracy, trajectories)) / len(trajectories)
    clips = vector.cache.stats
    print(f"{len(trajectories)} episodes, {len(trajectories) / seconds:.1f} a second")
    print(f"accuracy {right:.0%}")
    print(f"{clips.misses} clips decoded, {clips.hits} more from the cache")
    vector.close()


if __name__ == "__main__":
    main()
