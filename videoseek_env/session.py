"""The one episode loop. Every environment, adapter and evaluation drives this object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter

from videoseek_env.action import Action, Crop, Fault, FinalAnswer, Malformed, parse_reply
from videoseek_env.budget import Budget, approximate_text_tokens, get_budget
from videoseek_env.errors import ConfigError, EpisodeError, VideoDecodeError
from videoseek_env.prompts import DEFAULT_PROMPTS, Prompts
from videoseek_env.sampling import OverviewMode, plan_crop, plan_overview
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory, Turn
from videoseek_env.video import ClipCache, VideoReader
from videoseek_env.video.clip import Clip, ClipRef

CHARS_PER_TOKEN = 4
"""What is kept of a reply has at most so many characters for each token that it may have."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the agent gets to read and see."""

    text: str
    clip: Clip | None = None
    """New frames; None after a malformed reply."""
    error: Fault | None = None
    """Why the last reply could not be carried out."""
    system: str = ""
    """The system prompt: how to reply. Only with the first observation."""
    clip_ref: ClipRef | None = None
    """How to get the frames again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """The rules of an episode.

    Raises:
        BudgetError: If no preset has the budget's name.
        ConfigError: If a limit is below one, or the overview mode is unknown.
    """

    budget: str | Budget = "laptop"
    """A preset's name, or limits of one's own."""
    max_turns: int = 6
    """Replies per episode, the answer included."""
    max_clips: int = 12
    """Clips per episode, the overview included."""
    force_answer: bool = False
    """Whether the last turn's observation asks for the final answer."""
    overview: OverviewMode = "exact"
    """Evenly spaced frames, or the keyframe nearest to each."""
    prompts: Prompts = DEFAULT_PROMPTS
    count_text_tokens: Callable[[str], int] = approximate_text_tokens
    """Counts the tokens of a text; pass the model's tokenizer for exact context limits."""
    count_clip_tokens: Callable[[ClipRef], int] = attrgetter("visual_tokens")
    """Counts what a clip takes of the context; more than its visual tokens where a model reads a
    timestamp with every pair of frames."""

    def __post_init__(self) -> None:
        get_budget(self.budget)
        if self.max_turns < 1 or self.max_clips < 1:
            raise ConfigError(
                "an episode needs at least one turn and one clip, got "
                f"max_turns={self.max_turns}, max_clips={self.max_clips}"
            )
        if self.overview not in ("exact", "keyframe"):
            raise ConfigError(f'overview must be "exact" or "keyframe", got {self.overview!r}')


class VideoSession:
    """One episode: `start` gives the overview, `reply` the next observation or None at the end.

    What the agent does wrong becomes an error observation or a named ending; exceptions are for the
    host. An observation joins the context as a whole or not at all.
    """

    def __init__(
        self,
        task: VideoTask,
        reader: VideoReader,
        config: SessionConfig | None = None,
        *,
        cache: ClipCache,
    ) -> None:
        """Prepare an episode without decoding anything.

        Args:
            task: The question.
            reader: Its video.
            config: The rules.
            cache: Where decoded clips are looked up and kept.
        """
        self.task = task
        self.config = config or SessionConfig()
        self.budget = get_budget(self.config.budget)
        self._reader = reader
        self._cache = cache
        self._turns: list[Turn] = []
        self._context_tokens = 0
        self._visual_tokens = 0
        self._clips = 0
        self._text = ""
        self._ref: ClipRef | None = None
        self._started = False
        self.end_reason: EndReason | None = None

    @property
    def start_seconds(self) -> float:
        """Start of the video's timeline: zero but for videos whose first frame comes late."""
        return self._reader.info.start_seconds

    @property
    def duration_seconds(self) -> float:
        """End of the video's timeline, in seconds."""
        return self._reader.info.end_seconds

    @property
    def max_reply_chars(self) -> int:
        """What is kept of a reply."""
        return CHARS_PER_TOKEN * self.budget.max_reply_tokens

    @property
    def context_tokens(self) -> int:
        """Tokens in the context so far."""
        return self._context_tokens

    @property
    def visual_tokens(self) -> int:
        """Visual tokens in the context so far, the observation on view included."""
        return self._visual_tokens

    @property
    def trajectory(self) -> Trajectory:
        """What has happened so far."""
        return Trajectory(
            task=self.task,
            turns=tuple(self._turns),
            end_reason=self.end_reason,
            duration_seconds=self.duration_seconds,
            context_tokens=self._context_tokens,
            max_turns=self.config.max_turns,
            start_seconds=self.start_seconds,
        )

    def start(self) -> Observation:
        """The first observation: the question and the overview.

        A prompt that passes the context limit ends the episode here, with a text and no frames.

        Raises:
            EpisodeError: If the episode has started.
            VideoDecodeError: If the video can't be decoded.
        """
        if self._started:
            raise EpisodeError("the episode has started; make a new session for another one")
        self._started = True
        with self._video_failures():
            overview = plan_overview(self._reader, self.budget, self.config.overview)
        return self._begin(self.config.prompts.question_text(self.task, overview), overview)

    def reply(self, text: str) -> Observation | None:
        """Carry out a reply.

        Returns:
            The next observation, or None if the episode ended: see `end_reason`.

        Raises:
            EpisodeError: If the episode has not started, or has ended.
            VideoDecodeError: If the frames can't be decoded; the episode then ended as
                `VIDEO_FAILED`, and its trajectory is kept.
        """
        self._require_running()
        reply = text[: self.max_reply_chars]
        tokens = self.config.count_text_tokens(reply)
        room = min(self.budget.max_reply_tokens, self.budget.context_tokens - self._context_tokens)
        action = self._parse(reply)
        self._turns.append(Turn(self._text, self._ref, reply, action))
        self._context_tokens += tokens
        is_cut = len(reply) < len(text) or tokens > room
        self.end_reason = EndReason.REPLY_CUT if is_cut else self._ending(action)
        return None if self.end_reason is not None else self._carry_out(action)

    def _parse(self, reply: str) -> Action:
        return parse_reply(
            reply, duration_seconds=self.duration_seconds, start_seconds=self.start_seconds
        )

    def _carry_out(self, action: Action) -> Observation | None:
        match action:
            case Crop(segment, strategy):
                with self._video_failures():
                    crop = plan_crop(self._reader, segment, strategy, self.budget)
                return self._observe(self.config.prompts.crop_text(crop), crop)
            case Malformed(fault, message):
                return self._observe(self.config.prompts.error_text(message), None, error=fault)
            case FinalAnswer():
                return None

    def abandon(self, reason: EndReason = EndReason.ABANDONED) -> None:
        """End a running episode from outside; one that has ended keeps its reason."""
        if self.end_reason is None:
            self.end_reason = reason

    def _begin(self, text: str, clip: ClipRef | None) -> Observation:
        """Make the first observation, of whatever it consists."""
        self._started = True
        system = self.config.prompts.system_text()
        self._context_tokens = self.config.count_text_tokens(system)
        observation = self._observe(text, clip, overflow=EndReason.PROMPT_TOO_LONG)
        if observation is None:
            return Observation("The question and its first frames pass the context limit.")
        return replace(observation, system=system)

    def _require_running(self) -> None:
        if not self._started:
            raise EpisodeError("the episode has not started; call start() first")
        if self.end_reason is not None:
            raise EpisodeError(f"the episode has ended ({self.end_reason}); make a new session")

    def _ending(self, action: Action) -> EndReason | None:
        """How an action ends the episode before anything is decoded, if it does."""
        if isinstance(action, FinalAnswer):
            return EndReason.ANSWERED
        if isinstance(action, Malformed) and action.fault is Fault.NO_ACTION:
            return EndReason.NO_ACTION
        if len(self._turns) >= self.config.max_turns:
            return EndReason.TURNS_EXHAUSTED
        if isinstance(action, Crop) and self._clips >= self.config.max_clips:
            return EndReason.CLIPS_EXHAUSTED
        return None

    def _observe(
        self,
        text: str,
        ref: ClipRef | None,
        *,
        error: Fault | None = None,
        overflow: EndReason = EndReason.CONTEXT_EXHAUSTED,
    ) -> Observation | None:
        """Add an observation to the context, or end the episode and add nothing."""
        if self.config.force_answer and len(self._turns) == self.config.max_turns - 1:
            text += self.config.prompts.last_turn_text()
        tokens = self.config.count_text_tokens(text)
        if ref is not None:
            tokens += self.config.count_clip_tokens(ref)
        limit = self.budget.context_tokens - self.budget.reserve_tokens
        if self._context_tokens + tokens > limit:
            self.end_reason = overflow
            return None
        with self._video_failures():
            clip = self._cache.load(ref, self._reader) if ref else None
        self._context_tokens += tokens
        self._visual_tokens += ref.visual_tokens if ref else 0
        self._clips += ref is not None
        self._text, self._ref = text, ref
        return Observation(text, clip, error, clip_ref=ref)

    @contextmanager
    def _video_failures(self) -> Iterator[None]:
        """Name the ending when the decoder gives up, and let the error pass."""
        try:
            yield
        except VideoDecodeError:
            self.end_reason = EndReason.VIDEO_FAILED
            raise
