"""Episodes for the tests of the report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agents.episode import Episode
from rewards.reward import Reward
from videoseek_env.action import parse_reply, write_answer, write_crop
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason, Trajectory, Turn
from videoseek_env.video.clip import ClipRef, ClipStrategy


def make_task(video: Path | str, **changes: object) -> VideoTask:
    fields: dict[str, object] = {
        "id": "t",
        "video": str(video),
        "question": "Which card comes first?",
        "answer": "B",
        "kind": TaskKind.SINGLE_CLUE_TOOL,
        "options": ("red", "blue"),
        "clues": (Segment(30.0, 36.0),),
    }
    return VideoTask(**(fields | changes))  # type: ignore[arg-type]


def make_ref(
    video: Path | str, indices: Sequence[int], strategy: ClipStrategy = "overview"
) -> ClipRef:
    times = tuple(index / 10 for index in indices)
    segment = Segment(times[0], times[-1] + 0.1)
    return ClipRef(str(video), tuple(indices), times, 96, 128, segment, strategy, 12)


def make_turn(reply: str, clip: ClipRef | None = None, observation: str = "Look.") -> Turn:
    return Turn(observation, clip, reply, parse_reply(reply, duration_seconds=60.0))


def make_episode(
    *turns: Turn,
    task: VideoTask,
    policy: str = "oracle",
    value: float = 1.0,
    end_reason: EndReason = EndReason.ANSWERED,
    **changes: object,
) -> Episode:
    trajectory = Trajectory(task, turns, end_reason, 60.0, context_tokens=99, max_turns=6)
    parts = {"acc": value, "format": 0.5}
    episode = Episode(policy, 3, trajectory, Reward(value, parts), seconds=0.25)
    return replace(episode, **changes)  # type: ignore[arg-type]


def make_seeking_episode(video: Path, **changes: object) -> Episode:
    turns = (
        make_turn(
            write_crop("There?", Segment(29.0, 40.0), "fine"), make_ref(video, [0, 300, 599])
        ),
        make_turn(write_answer("Blue.", "B"), make_ref(video, [290, 310, 330, 400], "fine")),
    )
    return make_episode(*turns, **({"task": make_task(video)} | changes))  # type: ignore[arg-type]
