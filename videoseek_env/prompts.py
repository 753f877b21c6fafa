"""What the agent reads: replaceable templates, filled by `str.format`."""

from __future__ import annotations

from dataclasses import dataclass

from videoseek_env.errors import ConfigError
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.video.clip import ClipRef

_SYSTEM = """\
You answer a question about a video. First you see an overview: a few small frames of all of it.
In every turn, think inside <think>...</think>, and then do exactly one of two things.
To look closer, crop a stretch of the video, at a level of detail that is coarse, medium or fine:
<grounding>{{"temporal_segment": [start, end], "sampling_strategy": "fine"}}</grounding>
Times are seconds of the whole video, at least one second apart. You then get new frames of it.
To finish, answer: <answer>...</answer>"""

_ANSWER_FORMS = {
    TaskKind.OPEN_ENDED: "Answer in a few words.",
    TaskKind.TEMPORAL_GROUNDING: (
        'Answer with the stretch as JSON: {"temporal_segment": [start, end]}, in seconds.'
    ),
}
_CHOICE_FORM = "Answer with the letter of the right option."


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The texts of an episode. Each template lists the names that it may use.

    Braces that stand for themselves are doubled, as `str.format` has it.

    Raises:
        ConfigError: If a template uses another name, or a brace stands alone.
    """

    system: str = _SYSTEM
    """What an agent has to know before the first observation; no names."""
    question: str = "{question}\n{options}{answer_form}\n{sampling}"
    """Observation 0. Names: question, options, answer_form, sampling."""
    crop: str = "{sampling}\nLook closer again, or answer."
    """The observation after a crop. Names: sampling."""
    sampling: str = (
        "{name}: {frames} from {start:.1f} s to {end:.1f} s, {fps:.2f} frames per second."
    )
    """How a clip was sampled. Names: name, frames, start, end, fps."""
    error: str = "That reply could not be carried out. {message}\nTry again, or answer."
    """The observation after a malformed grounding. Names: message."""
    last_turn: str = "\nThis is your last turn: give your final answer now."
    """Appended to the observation of the last turn if an answer is forced; no names."""

    def __post_init__(self) -> None:
        for template, names in _NAMES.items():
            try:
                getattr(self, template).format(**names)
            except (KeyError, IndexError, ValueError) as error:
                raise ConfigError(
                    f"the prompt {template!r} may use {sorted(names)} and must double any other "
                    f"brace: {type(error).__name__}: {error}"
                ) from error

    def system_text(self) -> str:
        """The system prompt."""
        return self.system.format()

    def question_text(self, task: VideoTask, overview: ClipRef) -> str:
        """Observation 0: the question, its options, and how the overview was sampled."""
        return self.question.format(
            question=task.question,
            options="".join(f"{option}\n" for option in task.lettered_options),
            answer_form=_ANSWER_FORMS.get(task.kind, _CHOICE_FORM),
            sampling=self._sampling_text("Overview", overview),
        )

    def crop_text(self, clip: ClipRef) -> str:
        """The observation after a crop."""
        return self.crop.format(sampling=self._sampling_text("Crop", clip))

    def error_text(self, message: str) -> str:
        """The observation after a grounding that can't be carried out."""
        return self.error.format(message=message)

    def last_turn_text(self) -> str:
        """What asks for the final answer."""
        return self.last_turn.format()

    def _sampling_text(self, name: str, clip: ClipRef) -> str:
        return self.sampling.format(
            name=name,
            frames=_count(len(clip.indices), "frame"),
            start=clip.segment.start_seconds,
            end=clip.segment.end_seconds,
            fps=len(clip.indices) / clip.segment.duration_seconds,
        )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


_NAMES: dict[str, dict[str, str | float]] = {
    "system": {},
    "question": {"question": "", "options": "", "answer_form": "", "sampling": ""},
    "crop": {"sampling": ""},
    "sampling": {"name": "", "frames": "", "start": 0.0, "end": 0.0, "fps": 0.0},
    "error": {"message": ""},
    "last_turn": {},
}
"""What each template may use."""

DEFAULT_PROMPTS = Prompts()
