"""Let a model behind an OpenAI-compatible server play needle tasks.

Run: python examples/11_openai_server.py --base-url http://localhost:8000/v1 --model NAME
Without an address it asks nobody, and shows the request that a server would get.
"""

from dataclasses import dataclass

import tyro

from agents.llm.openai_client import ChatClient, OpenAIConfig
from agents.llm.openai_policy import OpenAIPolicy, user_message
from agents.rollout import RolloutConfig, rollout
from videoseek_env import ClipCache, SessionConfig, VideoSession, VideoTask, load_tasks, open_video

SERVERS = """
Start a server with a vision model, such as one of these, and give its address and the model's name:
  vllm serve Qwen/Qwen3-VL-4B-Instruct                    --base-url http://localhost:8000/v1
  llama-server -hf Qwen/Qwen3-VL-4B-Instruct-GGUF         --base-url http://localhost:8080/v1
  transformers serve Qwen/Qwen3-VL-4B-Instruct            the same as vllm, and --no-stop-at-tags"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which model plays how many tasks."""

    base_url: str | None = None
    """The server's address, which often ends with /v1."""
    model: str = "Qwen/Qwen3-VL-4B-Instruct"
    """The model's name, as the server knows it."""
    api_key: str = "none"
    """For servers that check one."""
    stop_at_tags: bool = True
    """Off for servers that refuse stop strings, and for reasoning models."""
    max_images: int | None = None
    """Frames of one observation at most."""
    tasks: int = 6
    """Tasks to play."""
    workers: int = 4
    """Episodes at a time."""


def play(tasks: list[VideoTask], config: OpenAIConfig, workers: int) -> None:
    """Play, and print a line per episode."""
    session = SessionConfig(force_answer=True)
    with ChatClient(config) as client:
        for episode in rollout(
            lambda: OpenAIPolicy(client), tasks, RolloutConfig(workers=workers), session=session
        ):
            played = episode.trajectory
            print(
                f"{played.task.id:<22} {played.end_reason:<18} {len(played.turns)} turns  "
                f"answer {played.answer or '-':<4} right {played.task.answer:<4} "
                f"reward {episode.reward.value:.2f}  {episode.seconds:.1f} s"
            )
            if episode.error:
                print(" ", episode.error)
    usage = client.usage
    print(
        f"{usage.requests} replies: {usage.prompt_tokens} tokens read, "
        f"{usage.completion_tokens} written, as the server counts"
    )


def show_request(task: VideoTask, config: OpenAIConfig) -> None:
    """Print what the first request about a task would be."""
    reader = open_video(task.video)
    try:
        observation = VideoSession(task, reader, cache=ClipCache(2**28)).start()
    finally:
        reader.close()
    *frames, text = user_message(observation, config)["content"]
    times = [part["text"] for part in frames[::2]]
    size = sum(len(part["image_url"]["url"]) for part in frames[1::2])
    print("No --base-url, so nobody was asked. This is what a server would get first:\n")
    print(f"system: {observation.system}\n")
    print(f"user: {len(times)} images, {size / 1024:.0f} KB, each behind its time:")
    print(f"{', '.join(times[:3])} ... {times[-1]}\n{text['text']}")
    print(SERVERS)


def main(arguments: Arguments) -> None:
    """Play if there is a server, else show the request."""
    config = OpenAIConfig(
        model=arguments.model, base_url=arguments.base_url, api_key=arguments.api_key,
        stop_at_tags=arguments.stop_at_tags, max_images=arguments.max_images,
    )  # fmt: skip
    tasks = load_tasks("needle")[: arguments.tasks]
    if arguments.base_url is None:
        show_request(tasks[0], config)
    else:
        play(tasks, config, arguments.workers)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
