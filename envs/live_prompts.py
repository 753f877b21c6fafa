"""What the agent reads about a video that is still arriving: replaceable templates."""

from __future__ import annotations

from dataclasses import dataclass

from videoseek_env.errors import ConfigError
from videoseek_env.prompts import Prompts
from videoseek_env.video.clip import ClipRef

_SYSTEM = """\
You answer a question about a video that is still arriving: you see what there is up to now.
In every turn, think inside <think>...</think>, and then do exactly one of three things.
To let time pass, wait a number of seconds: <wait>5</wait> You then see small frames of what is new.
To look closer, crop a stretch that has arrived, at a level of detail: coarse, medium or fine:
<grounding>{{"temporal_segment": [start, end], "sampling_strategy": "fine"}}</grounding>
Times are seconds of the whole video, at least one second apart. You then get new frames of it.
To finish, answer: <answer>...</answer> Answer as soon as you know: waiting costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePrompts(Prompts):
    """The texts of an episode of live video; see `Prompts`.

    Raises:
        ConfigError: If a template uses another name, or a brace stands alone.
    """

    system: str = _SYSTEM
    crop: str = "{sampling}\nLook closer again, wait, or answer."
    update: str = "{sampling}\nWait on, look closer at what has arrived, or answer."
    """The observation after a wait. Names: sampling."""
    nothing_new: str = "Nothing new has arrived. Look closer at what has arrived, or answer."
    """The observation after a wait that brought no frame; no names."""
    running: str = "\nIt is {now:.1f} s now."
    """Appended to each observation. Names: now."""
    ended: str = "\nIt is {now:.1f} s now. The video has ended: answer before {deadline:.1f} s."
    """Appended once the video has ended. Names: now, deadline."""

    def __post_init__(self) -> None:
        Prompts.__post_init__(self)
        try:
            self.update.format(sampling=""), self.nothing_new.format()
            self.now_text(0.0, None), self.now_text(0.0, 0.0)
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(
                "update may use {sampling}, running {now}, ended {now} and {deadline}; other "
                f"braces are doubled: {type(error).__name__}: {error}"
            ) from error

    def update_text(self, clip: ClipRef | None) -> str:
        """The observation after a wait; None stands for nothing new."""
        if clip is None:
            return self.nothing_new.format()
        return self.update.format(sampling=self._sampling_text("Update", clip))

    def now_text(self, now_seconds: float, deadline_seconds: float | None) -> str:
        """What time it is, and until when to answer; None while the video runs."""
        if deadline_seconds is None:
            return self.running.format(now=now_seconds)
        return self.ended.format(now=now_seconds, deadline=deadline_seconds)
