"""A seeker that crops, and an answerer that sees nothing but the crops: the decoupled baseline.

Video-o3 (arXiv 2601.23224) lets one model seek and answer in one context. Here two take its place,
each with a context of its own, so that what the single context is worth can be measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from videoseek_env.budget import Budget, FrameSize, Quota, clip_size, visual_tokens
from videoseek_env.prompts import Prompts
from videoseek_env.segment import Segment
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import VideoTask
from videoseek_env.trajectory import EndReason, Trajectory
from videoseek_env.video import ClipCache, VideoInfo, VideoReader
from videoseek_env.video.clip import STRATEGIES, ClipRef

SEEKER = "seeker_0"
ANSWERER = "answerer_0"
AGENTS = (SEEKER, ANSWERER)
"""Named as PettingZoo recommends."""

SEEKER_PROMPTS = Prompts(
    system="""\
You look for the moments of a video that answer a question. First you see an overview: a few small \
frames of all of it.
In every turn, think inside <think>...</think>, and then do exactly one of two things.
To find a moment, crop a stretch of the video, at a level of detail that is coarse, medium or fine:
<grounding>{{"temporal_segment": [start, end], "sampling_strategy": "fine"}}</grounding>
Times are seconds of the whole video, at least one second apart. You then get new frames of it.
To finish: <answer>done</answer>. Then someone who sees the frames of your crops, and nothing \
else, answers the question.""",
    question="{question}\n{options}{sampling}",
    crop="{sampling}\nLook for more, or finish.",
    error="That reply could not be carried out. {message}\nTry again, or finish.",
    last_turn="\nThis is your last turn: finish now.",
)
"""What the seeker reads."""

ANSWERER_PROMPTS = Prompts(
    system="""\
You answer a question about a video. You see the frames that someone else cropped from it, in \
order of time, and nothing else; there may be none.
Think inside <think>...</think>, and then answer: <answer>...</answer>
You have one turn.""",
    question="{question}\n{options}{answer_form}",
    crop="{sampling}",
)
"""What the answerer reads: the question, then a line on every crop."""


def plan_found(clips: Sequence[ClipRef], source: VideoInfo, budget: Budget) -> ClipRef | None:
    """One clip of all frames that crops show, each once, in order of time; None without crops.

    The crops' quotas add up and are spread over all frames evenly, but no frame is larger than in
    the crop with the largest ones. What a single crop found is that crop.

    Args:
        clips: Clips of one video, in any order; an overview among them is left out.
        source: The video.
        budget: The quotas.
    """
    strategies = [clip.strategy for clip in clips if clip.strategy != "overview"]
    crops = [clip for clip in clips if clip.strategy != "overview"]
    if not crops:
        return None
    times = {
        index: time
        for crop in crops
        for index, time in zip(crop.indices, crop.timestamps_seconds, strict=True)
    }
    indices = sorted(times)
    quotas = [budget.crops[strategy] for strategy in strategies]
    total = Quota(sum(quota.max_tokens for quota in quotas), sum(q.min_tokens for q in quotas))
    size = min(
        clip_size(source.height, source.width, len(indices), quota=total, grid_px=budget.grid_px),
        max((FrameSize(crop.height, crop.width) for crop in crops), key=math.prod),
        key=math.prod,
    )
    return ClipRef(
        video=crops[0].video,
        indices=tuple(indices),
        timestamps_seconds=tuple(times[index] for index in indices),
        height=size.height,
        width=size.width,
        segment=Segment(
            min(crop.segment.start_seconds for crop in crops),
            max(crop.segment.end_seconds for crop in crops),
        ),
        strategy=max(strategies, key=STRATEGIES.index),
        visual_tokens=visual_tokens(len(indices), size, grid_px=budget.grid_px),
    )


class _AnsweringSession(VideoSession):
    """An episode of one turn, about what another session saw."""

    def __init__(self, seeker: VideoSession, prompts: Prompts) -> None:
        config = replace(seeker.config, max_turns=1, prompts=prompts)
        super().__init__(seeker.task, seeker._reader, config, cache=seeker._cache)

    def start_from(self, clips: Sequence[ClipRef]) -> Observation:
        """The only observation: the question, and the frames of all crops among `clips`.

        Passing the context limit ends the episode here, with a text and no frames.

        Args:
            clips: The overview, then the crops.

        Raises:
            VideoDecodeError: If the frames can't be decoded.
        """
        overview, *crops = clips
        crops.sort(key=lambda crop: crop.segment.start_seconds)
        prompts = self.config.prompts
        lines = [prompts.question_text(self.task, overview), *map(prompts.crop_text, crops)]
        return self._begin("\n".join(lines), plan_found(crops, self._reader.info, self.budget))


class SeekerAnswererSession:
    """One game: a seeker's episode, then one turn of an answerer.

    Whatever reply ends the seeker's episode hands over: an answer, whose text goes nowhere, a reply
    without an action, or one that turns, clips or context don't allow. The answerer then sees the
    question and, as one clip, every frame of the crops that were carried out: not the overview, not
    a word of the seeker's. Its reply ends the game; it has no turn left for a crop. A video that
    fails, or a prompt over the context limit, ends the game at once.

    Two policies play it like this:

        turn = game.start()
        while turn is not None and game.end_reason is None:
            agent, observation = turn
            turn = game.reply(policies[agent].act(observation))
    """

    def __init__(
        self, seeker: VideoSession, *, answerer_prompts: Prompts = ANSWERER_PROMPTS
    ) -> None:
        """Prepare a game without decoding anything.

        Args:
            seeker: The seeker's episode, before its first reply, with prompts such as
                `SEEKER_PROMPTS`. Its video, cache, budget and limits are the answerer's too.
            answerer_prompts: What the answerer reads.
        """
        self.seeker = seeker
        self._answerer = _AnsweringSession(seeker, answerer_prompts)
        self.sessions: dict[str, VideoSession] = {SEEKER: seeker, ANSWERER: self._answerer}
        """What each agent alone has seen, written and spent."""
        self.agent = SEEKER
        """Whose turn it is; at the end, whose it was."""

    @property
    def end_reason(self) -> EndReason | None:
        """Why the game ended; None while it runs."""
        return self.sessions[self.agent].end_reason

    @property
    def trajectory(self) -> Trajectory:
        """The game as the episode of one agent, for rewards to score.

        The seeker's turns, but the answerer's text and reply in place of the seeker's last ones.
        Its clips are those that the seeker saw, each once; what both agents looked at is in
        `sessions`. Its context tokens are those of both. A game that ends at the hand-over has no
        such last turn.
        """
        sought = self.seeker.trajectory
        if self.agent == SEEKER:
            return sought
        *kept, last = sought.turns
        answered = (replace(turn, clip=last.clip) for turn in self._answerer.trajectory.turns)
        return replace(
            sought,
            turns=(*kept, *answered),
            end_reason=self.end_reason,
            context_tokens=sought.context_tokens + self._answerer.context_tokens,
        )

    def start(self) -> tuple[str, Observation]:
        """The seeker, and what it sees first: the question and the overview.

        Raises:
            EpisodeError: If the seeker's episode has started.
            VideoDecodeError: If the video can't be decoded.
        """
        return SEEKER, self.seeker.start()

    def reply(self, text: str) -> tuple[str, Observation] | None:
        """Carry out a reply of the agent whose turn it is.

        Returns:
            Whose turn it is now and what that agent sees, or None if the game ended.

        Raises:
            EpisodeError: If the game has not started, or has ended.
            VideoDecodeError: If the frames can't be decoded; the game then ended as `VIDEO_FAILED`.
        """
        observation = self.sessions[self.agent].reply(text)
        if observation is None and self.agent == SEEKER:
            self.agent = ANSWERER
            observation = self._answerer.start_from(self.seeker.trajectory.clips)
        if observation is None or self.end_reason is not None:
            return None
        return self.agent, observation

    def abandon(self, reason: EndReason = EndReason.ABANDONED) -> None:
        """End a running game from outside; one that has ended keeps its reason."""
        self.sessions[self.agent].abandon(reason)


class DecoupledSession:
    """A game with one player: whoever replies plays the seeker, and then the answerer.

    An observation that has a system prompt begins a new context: what the seeker saw and wrote is
    not the answerer's to know. It has the calls of a `VideoSession` that play needs.
    """

    def __init__(
        self,
        task: VideoTask,
        reader: VideoReader,
        config: SessionConfig,
        *,
        cache: ClipCache,
        answerer_prompts: Prompts = ANSWERER_PROMPTS,
    ) -> None:
        """Prepare a game without decoding anything; arguments as for `VideoSession`.

        Args:
            task: The question.
            reader: The task's video.
            config: The rules, with the seeker's prompts.
            cache: Decoded clips.
            answerer_prompts: What the answerer reads.
        """
        seeker = VideoSession(task, reader, config, cache=cache)
        self.game = SeekerAnswererSession(seeker, answerer_prompts=answerer_prompts)

    @property
    def trajectory(self) -> Trajectory:
        """The game as the episode of one agent."""
        return self.game.trajectory

    @property
    def end_reason(self) -> EndReason | None:
        """Why the game ended; None while it runs."""
        return self.game.end_reason

    def start(self) -> Observation:
        """What the seeker sees first; errors as in `SeekerAnswererSession.start`."""
        return self.game.start()[1]

    def reply(self, text: str, /) -> Observation | None:
        """Carry out a reply; what comes next, or None; errors as in `SeekerAnswererSession`."""
        turn = self.game.reply(text)
        return None if turn is None else turn[1]

    def abandon(self, reason: EndReason = EndReason.ABANDONED, /) -> None:
        """End a running game from outside."""
        self.game.abandon(reason)
