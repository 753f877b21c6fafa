"""What happened in an episode, and JSON Lines there and back. Clips are kept by reference."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from videoseek_env.action import Action, Crop, FinalAnswer, parse_reply
from videoseek_env.errors import TaskError, TrajectoryError, VideoSeekError
from videoseek_env.task import VideoTask
from videoseek_env.video.clip import ClipRef

_logger = logging.getLogger(__name__)

_Record = TypeVar("_Record")


class EndReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    """The agent answered."""
    TURNS_EXHAUSTED = "turns_exhausted"
    """The last turn was not an answer."""
    CLIPS_EXHAUSTED = "clips_exhausted"
    """A crop would have passed the limit of clips."""
    CONTEXT_EXHAUSTED = "context_exhausted"
    """An observation would have passed the context limit; it was rolled back as a whole."""
    PROMPT_TOO_LONG = "prompt_too_long"
    """The question and the overview alone pass the context limit."""
    NO_ACTION = "no_action"
    """A reply held neither a grounding nor an answer."""
    REPLY_CUT = "reply_cut"
    """A reply passed the length limit."""
    VIDEO_FAILED = "video_failed"
    """The video could not be decoded."""
    POLICY_FAILED = "policy_failed"
    """The policy raised an exception."""
    ABANDONED = "abandoned"
    """The host stopped the episode before its end."""

    @property
    def is_exceeded(self) -> bool:
        """Whether turns, clips or context ran out."""
        return self in (
            EndReason.TURNS_EXHAUSTED,
            EndReason.CLIPS_EXHAUSTED,
            EndReason.CONTEXT_EXHAUSTED,
            EndReason.PROMPT_TOO_LONG,
        )

    @property
    def is_void(self) -> bool:
        """Whether the last reply could not be an action at all."""
        return self in (EndReason.NO_ACTION, EndReason.REPLY_CUT)


@dataclass(frozen=True, slots=True)
class Turn:
    """One observation and the reply to it."""

    observation: str
    """The text that the agent read."""
    clip: ClipRef | None
    """The frames that came with it; None for an error observation."""
    reply: str
    """What the agent wrote, up to the length limit."""
    action: Action
    """What the reply means."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A finished episode, or one so far."""

    task: VideoTask
    turns: tuple[Turn, ...]
    end_reason: EndReason | None
    """None while the episode runs."""
    duration_seconds: float
    """End of the video's timeline, to which segments are clamped; its length if it starts at 0."""
    context_tokens: int = 0
    """Tokens in the context at the end: visual ones exact, text ones as counted."""
    max_turns: int = 0
    """The turn limit that held."""
    start_seconds: float = 0.0
    """Start of the video's timeline."""

    @property
    def replies(self) -> tuple[str, ...]:
        """What the agent wrote, turn by turn."""
        return tuple(turn.reply for turn in self.turns)

    @property
    def answer(self) -> str | None:
        """The final answer's text, or None if there was none."""
        if self.end_reason is not EndReason.ANSWERED or not self.turns:
            return None
        action = self.turns[-1].action
        return action.text if isinstance(action, FinalAnswer) else None

    @property
    def crops(self) -> tuple[Crop, ...]:
        """The crops that were asked for in good form, also where a limit then refused them."""
        return tuple(turn.action for turn in self.turns if isinstance(turn.action, Crop))

    @property
    def clips(self) -> tuple[ClipRef, ...]:
        """Every clip that was shown, the overview first."""
        return tuple(turn.clip for turn in self.turns if turn.clip is not None)

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of all clips shown."""
        return sum(clip.visual_tokens for clip in self.clips)

    def to_dict(self) -> dict[str, Any]:
        """The trajectory as JSON-serialisable fields; `from_dict` reads them back."""
        return {
            "task": self.task.to_dict(),
            "turns": [
                {
                    "observation": turn.observation,
                    "clip": turn.clip.to_dict() if turn.clip else None,
                    "reply": turn.reply,
                }
                for turn in self.turns
            ],
            "end_reason": self.end_reason.value if self.end_reason else None,
            "duration_seconds": self.duration_seconds,
            "context_tokens": self.context_tokens,
            "max_turns": self.max_turns,
            "start_seconds": self.start_seconds,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Trajectory:
        """Read a trajectory from the fields that `to_dict` writes; actions are parsed anew.

        Raises:
            TrajectoryError: If a field is missing or of the wrong type.
        """
        try:
            duration = float(fields["duration_seconds"])
            start = float(fields.get("start_seconds", 0.0))
            turns = tuple(_read_turn(turn, start, duration) for turn in fields["turns"])
            return cls(
                task=VideoTask.from_dict(fields["task"]),
                turns=turns,
                end_reason=EndReason(fields["end_reason"]) if fields["end_reason"] else None,
                duration_seconds=duration,
                context_tokens=int(fields["context_tokens"]),
                max_turns=int(fields["max_turns"]),
                start_seconds=start,
            )
        except TaskError as error:
            raise TrajectoryError(str(error)) from error
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise TrajectoryError(
                f"not a saved trajectory: {type(error).__name__}: {error}"
            ) from error


def _read_turn(fields: Mapping[str, Any], start_seconds: float, end_seconds: float) -> Turn:
    observation, reply = fields["observation"], fields["reply"]
    if not (isinstance(observation, str) and isinstance(reply, str)):
        raise TypeError("an observation and a reply are texts")
    return Turn(
        observation=observation,
        clip=ClipRef.from_dict(fields["clip"]) if fields["clip"] else None,
        reply=reply,
        action=parse_reply(reply, duration_seconds=end_seconds, start_seconds=start_seconds),
    )


def append_jsonl(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records to a JSON Lines file, each flushed as it is written.

    A last line that a killed process left unfinished is cut off first, so the file stays readable.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        _mend_tail(file)
        for record in records:
            # ASCII escapes survive what UTF-8 can't encode, such as a model's lone surrogate.
            file.write(json.dumps(record, ensure_ascii=True).encode() + b"\n")
            file.flush()


def filter_jsonl(path: str | Path, keep: Callable[[Mapping[str, Any]], bool]) -> None:
    """Take records out of a JSON Lines file, at once: who is killed here loses no line."""
    path = Path(path)
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    append_jsonl(draft, (record for _, record in read_jsonl(path) if keep(record)))
    draft.replace(path)


def _mend_tail(file: BinaryIO) -> None:
    """End the file with a whole line: finish a whole record, cut a torn one."""
    position = file.seek(0, io.SEEK_END)
    blocks: list[bytes] = []
    while position > 0 and not (blocks and b"\n" in blocks[-1]):
        step = min(position, 1 << 16)
        position -= step
        file.seek(position)
        blocks.append(file.read(step))
    last_line = b"".join(reversed(blocks)).rpartition(b"\n")[2]
    if not last_line:
        return
    try:
        json.loads(last_line)
    except (ValueError, RecursionError):
        file.truncate(file.seek(0, io.SEEK_END) - len(last_line))
        _logger.warning("%s: cut off an unfinished last line", file.name)
    else:
        file.write(b"\n")


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stream (line number, record) from a JSON Lines file; blank lines are passed over.

    An unfinished last line, as a killed process leaves it, is logged and skipped.

    Raises:
        TrajectoryError: If another line is not a JSON object; it names the file and the line.
    """
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not line.endswith("\n"):
                    _logger.warning("%s:%d: skipped an unfinished last line", path, number)
                    return
                raise TrajectoryError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(record, dict):
                raise TrajectoryError(
                    f"{path}:{number}: expected a JSON object, got {record!r:.60}"
                )
            yield number, record


def write_trajectories(path: str | Path, trajectories: Iterable[Trajectory]) -> None:
    """Append trajectories to a JSON Lines file."""
    append_jsonl(path, (trajectory.to_dict() for trajectory in trajectories))


def read_records(
    path: str | Path, from_dict: Callable[[Mapping[str, Any]], _Record]
) -> Iterator[_Record]:
    """Stream what `from_dict` makes of each line of a JSON Lines file.

    Raises:
        TrajectoryError: On a broken line; it names the file and the line.
    """
    for number, fields in read_jsonl(path):
        try:
            record = from_dict(fields)
        except VideoSeekError as error:
            raise TrajectoryError(f"{path}:{number}: {error}") from error
        yield record


def read_trajectories(path: str | Path) -> Iterator[Trajectory]:
    """Stream the trajectories of a JSON Lines file; errors as in `read_records`."""
    return read_records(path, Trajectory.from_dict)
