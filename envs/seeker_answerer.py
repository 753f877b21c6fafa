"""The decoupled baseline as a PettingZoo game: `env` by turns, `parallel_env` all at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.decoupled import (
    AGENTS,
    ANSWERER_PROMPTS,
    SEEKER,
    SEEKER_PROMPTS,
    SeekerAnswererSession,
)
from envs.registration import make_video_seek
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.action import Malformed
from videoseek_env.budget import MAX_TOKENS_PER_PAIR, get_budget
from videoseek_env.env import ObservationDict, Score, observation_dict
from videoseek_env.errors import EpisodeError, MissingExtraError
from videoseek_env.prompts import Prompts
from videoseek_env.render import Window, render_ansi, render_rgb
from videoseek_env.session import CHARS_PER_TOKEN, Observation
from videoseek_env.spaces import ClipSpace, UnicodeText
from videoseek_env.trajectory import EndReason, Trajectory

try:
    from pettingzoo import AECEnv, ParallelEnv  # type: ignore[import-untyped]
    from pettingzoo.utils.conversions import (  # type: ignore[import-untyped]
        turn_based_aec_to_parallel,
    )
    from pettingzoo.utils.wrappers import OrderEnforcingWrapper  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise MissingExtraError("pettingzoo", "pettingzoo", "envs.seeker_answerer") from error

_logger = logging.getLogger(__name__)


class SeekerAnswererEnv(AECEnv[str, ObservationDict, str | None]):  # type: ignore[misc]
    """Two agents answer a question about a long video: one looks, the other one answers.

    Agents: "seeker_0" and "answerer_0". The seeker acts until it hands over, then the answerer
        once; both live until the end. See `SeekerAnswererSession`.
    Observation: a dictionary of `text` (str), `frames` (uint8 [N, H, W, 3], RGB) and `timestamps`
        (float64 [N], seconds of the whole video). The seeker's are those of `VideoSeekEnv`. The
        answerer's are the question and every frame that the seeker cropped, once, in order of time,
        at one size (`plan_found`). An agent that waits, and both at the end, get a text and N = 0.
    Action: the reply, a string, as in `VideoSeekEnv`. The seeker crops, and hands over with
        `<answer>done</answer>` or any other reply that ends its episode; the answerer writes
        `<think>..</think><answer>..</answer>`. Any string is survivable.
    Reward: 0 until the last step, which pays both agents `reward(trajectory).value`. The trajectory
        is the seeker's, but the answerer's reply stands in place of the one that handed over: form,
        crops and answer count as they do for a single agent.
    Termination: the answerer's reply ended the game: an answer, no action, or a reply too long.
    Truncation: the answerer wrote a crop, a prompt passed the context limit, or the host stopped
        the game. Both agents terminate, or are truncated, together.
    Info: for each agent `task_id`, `kind`, `system_prompt`, `active_agent` (until the end), and of
        what it alone has done `turns` (its replies: calls of its model), `malformed_replies`,
        `context_tokens`, `visual_tokens`. From the last step `end_reason`, `reward_parts`,
        `trajectory`, the scored one, and `own_trajectory`, what this agent alone saw and wrote. A
        prompt over the context limit has its `end_reason` at reset already.
    Reset: `seed` draws the task, the same as in `VideoSeekEnv`; `options={"task_id": ...}` pins it.
        Other options are logged and ignored, as PettingZoo's tests demand.

    Source: the decoupled systems that arXiv 2601.23224 compares itself with.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as PettingZoo declares it
        "name": "seeker_answerer_v0",
        "render_modes": ["human", "rgb_array", "ansi"],
        "render_fps": 1,
        # The agents do not go round in a cycle; `parallel_env` uses the conversion for that.
        "is_parallelizable": False,
    }

    def __init__(
        self,
        *,
        reward: Callable[[Trajectory], Score] | None = None,
        answerer_prompts: Prompts = ANSWERER_PROMPTS,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        """Prepare an environment without opening a video.

        Args:
            reward: Scores a finished trajectory; by default the trajectory-guided reward.
            answerer_prompts: What the answerer reads.
            render_mode: None, "human", "rgb_array" or "ansi".
            **arguments: What `gymnasium.make("VideoSeek-v0")` takes too: `tasks`, `config` or its
                fields, `backend`, `cache`. They hold for the seeker's episode. `prompts` is
                `SEEKER_PROMPTS` unless it is given, or `config` is.

        Raises:
            TaskError: If there are no tasks, or two share an id.
            TypeError: If an argument is unknown, or a field is given beside `config`.
            ValueError: If the render mode is unknown.
        """
        super().__init__()
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode must be None or one of {self.metadata['render_modes']}, "
                f"got {render_mode!r}"
            )
        if arguments.get("config") is None:
            arguments = {"prompts": SEEKER_PROMPTS, **arguments}
        self._single = make_video_seek(**arguments)
        self._reward = TrajectoryGuidedReward() if reward is None else reward
        self._answerer_prompts = answerer_prompts
        self.render_mode = render_mode
        self._window: Window | None = None
        self._game: SeekerAnswererSession | None = None
        self._observations: dict[str, Observation] = {}
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []
        budget = get_budget(self._single.config.budget)
        self._max_text_chars = 4 * CHARS_PER_TOKEN * budget.context_tokens
        self.observation_spaces = {agent: self._make_observation_space() for agent in AGENTS}
        self.action_spaces = {
            agent: UnicodeText(CHARS_PER_TOKEN * budget.max_reply_tokens) for agent in AGENTS
        }

    def observation_space(self, agent: str) -> spaces.Dict:
        """The space of an agent's observations, always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> UnicodeText:
        """The space of an agent's replies, always the same object."""
        return self.action_spaces[agent]

    @property
    def session(self) -> SeekerAnswererSession:
        """The game behind this environment.

        Raises:
            EpisodeError: Before the first reset.
        """
        if self._game is None:
            raise EpisodeError("no episode yet; call reset() first")
        return self._game

    @property
    def observation(self) -> Observation:
        """The observation of the agent whose turn it is, with its clip as the session gave it."""
        return self._observations[self.session.agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Start a game.

        Args:
            seed: Seeds the draw of tasks, of this reset and of later ones.
            options: `{"task_id": ...}` pins the task.

        Raises:
            TaskError: If there is no such task.
            VideoDecodeError: If the video can't be decoded.
        """
        known = {key: value for key, value in (options or {}).items() if key == "task_id"}
        if unknown := sorted((options or {}).keys() - known.keys()):
            _logger.warning("ignored the reset options %s; expected only 'task_id'", unknown)
        self._game, self.agents = None, []
        self._single.reset(seed=seed, options=known)
        self._game = SeekerAnswererSession(
            self._single.session, answerer_prompts=self._answerer_prompts
        )
        self.agents = list(AGENTS)
        self.rewards = dict.fromkeys(AGENTS, 0.0)
        self._cumulative_rewards = dict.fromkeys(AGENTS, 0.0)
        self.terminations = dict.fromkeys(AGENTS, False)
        self.truncations = dict.fromkeys(AGENTS, False)
        self._pass_turn(SEEKER, self._single.observation)
        if self._game.end_reason is not None:
            for info in self.infos.values():
                info["end_reason"] = self._game.end_reason.value

    def step(self, action: str | None) -> None:
        """Carry out the reply of the agent whose turn it is; None for one whose game is over.

        Raises:
            EpisodeError: If the episode is over for all, or none was started.
            TypeError: If the action is not a string.
            VideoDecodeError: If the frames can't be decoded; the next step then ends the episode.
        """
        if not self.agents:
            raise EpisodeError("no episode is running; call reset() first")
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        if not isinstance(action, str):
            raise TypeError(f"an action is a string, got {type(action).__name__}")
        # The game has ended already where a prompt was too long or the video failed.
        turn = None if self.session.end_reason else self.session.reply(action)
        self._cumulative_rewards[agent] = 0.0
        if turn is None:
            self._finish(self.session)
        else:
            self._pass_turn(*turn)

    def observe(self, agent: str) -> ObservationDict:
        """What an agent sees now; the arrays are the caller's own."""
        return observation_dict(self._observations[agent], max_text_chars=self._max_text_chars)

    def render(self) -> npt.NDArray[np.uint8] | str | None:
        """The game so far: text, an RGB array [H, W, 3], or None with "human"."""
        if self.render_mode == "ansi":
            trajectory, observation = self.session.trajectory, self.observation
            return render_ansi(trajectory, observation.clip, observation_text=observation.text)
        if self.render_mode == "rgb_array":
            return self._render_rgb()
        self._show()
        return None

    def close(self) -> None:
        """Free the decoder and the window. An episode on the way is abandoned."""
        self.agents = []
        if self._game is not None:
            self._game.abandon()
        self._single.close()
        if self._window is not None:
            self._window.close()
            self._window = None

    def _make_observation_space(self) -> spaces.Dict:
        config = self._single.config
        budget = get_budget(config.budget)
        # The overview is a clip too, and a crop in the last turn is not carried out.
        crops = min(config.max_turns, config.max_clips) - 1
        frames = max(budget.max_clip_frames, crops * budget.max_crop_frames)
        side = budget.grid_px * MAX_TOKENS_PER_PAIR
        return spaces.Dict(
            {
                "text": UnicodeText(self._max_text_chars),
                "frames": ClipSpace((frames, side, side, 3), np.uint8),
                "timestamps": ClipSpace((frames,), np.float64),
            }
        )

    def _pass_turn(self, agent: str, observation: Observation) -> None:
        waiting = Observation(f"Wait: it is the turn of {agent}.")
        self._observations = dict.fromkeys(AGENTS, waiting) | {agent: observation}
        self.agent_selection = agent
        self.infos = {each: self._info(each) | {"active_agent": agent} for each in AGENTS}
        self._show()

    def _finish(self, game: SeekerAnswererSession) -> None:
        trajectory, reason = game.trajectory, game.end_reason
        score = self._reward(trajectory)
        by_reply = reason is not None and (reason is EndReason.ANSWERED or reason.is_void)
        self.rewards = dict.fromkeys(AGENTS, float(score.value))
        self._accumulate_rewards()
        self.terminations = dict.fromkeys(AGENTS, by_reply)
        self.truncations = dict.fromkeys(AGENTS, not by_reply)
        self.infos = {
            agent: self._info(agent)
            | {
                "end_reason": str(reason),
                "reward_parts": dict(score.parts),
                "trajectory": trajectory,
                "own_trajectory": session.trajectory,
            }
            for agent, session in game.sessions.items()
        }
        self._observations = dict.fromkeys(AGENTS, Observation(f"The episode is over: {reason}."))
        self._show()
        self._deads_step_first()

    def _info(self, agent: str) -> dict[str, Any]:
        session = self.session.sessions[agent]
        turns = session.trajectory.turns
        return {
            "task_id": session.task.id,
            "kind": session.task.kind.value,
            "system_prompt": session.config.prompts.system_text(),
            "turns": len(turns),
            "malformed_replies": sum(isinstance(turn.action, Malformed) for turn in turns),
            "context_tokens": session.context_tokens,
            "visual_tokens": session.visual_tokens,
        }

    def _render_rgb(self) -> npt.NDArray[np.uint8]:
        trajectory, observation = self.session.trajectory, self.observation
        return render_rgb(trajectory, observation.clip, observation_text=observation.text)

    def _show(self) -> None:
        if self.render_mode != "human":
            return
        if self._window is None:
            self._window = Window("Seeker and answerer")
        self._window.show(self._render_rgb())


raw_env = SeekerAnswererEnv
"""The environment without wrappers, by PettingZoo's name for it."""


def env(**arguments: Any) -> AECEnv[str, ObservationDict, str | None]:
    """The environment whose agents act one at a time, as `SeekerAnswererEnv` describes it.

    Wrapped so that calls out of order are told. PettingZoo's other recommended wrappers do not fit:
    they mask discrete actions, clip boxes, or refuse replies that are too long, which here end an
    episode and are data.

    Args:
        **arguments: Those of `SeekerAnswererEnv`.
    """
    return OrderEnforcingWrapper(SeekerAnswererEnv(**arguments))


def parallel_env(**arguments: Any) -> ParallelEnv[str, ObservationDict, str | None]:
    """The same for learners that step all agents at once, by PettingZoo's own conversion.

    Both agents are observed after each step. Only the action of `infos[agent]["active_agent"]` is
    read; the other one's is ignored and may be left out.

    Args:
        **arguments: Those of `SeekerAnswererEnv`.
    """
    return turn_based_aec_to_parallel(env(**arguments))
