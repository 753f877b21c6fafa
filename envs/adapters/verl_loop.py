"""An agent loop with which verl plays whole episodes.

Written for verl 0.9.1, which is imported when the loop is made, not before: it asks for an older
transformers than this project. `agent_loop_config_path` names a file such as

    - name: videoseek
      _target_: envs.adapters.verl_loop.VideoSeekAgentLoop
      rules: {budget: qwen3-vl, max_turns: 6}

and the data are `rows(tasks)` of `envs.adapters.verl`. Frames are images, each behind its time:
videos of Qwen3-VL fail in verl with vLLM (verl-project/verl#5024), and its SGLang takes videos in
the prompt alone. An image costs each frame what a video costs each pair of frames. The engine's
limit of images per prompt has to allow all frames of an episode.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import uuid4

from envs.adapters.content import content_blocks
from envs.adapters.verl import GuardedEpisode, shared_cache, task_of
from rewards.trajectory_guided import TrajectoryGuidedReward
from videoseek_env.budget import get_budget
from videoseek_env.env import DEFAULT_CACHE_BYTES, Score
from videoseek_env.errors import MissingExtraError
from videoseek_env.session import Observation, SessionConfig
from videoseek_env.trajectory import EndReason, Trajectory


class _Transcript:
    """What the model read and wrote: messages, images and tokens, only ever appended to."""

    def __init__(self, verl_loop: Any, *, with_logprobs: bool, priority: int) -> None:
        self._loop, self._priority = verl_loop, priority
        self._request_id = uuid4().hex
        self._messages: list[dict[str, Any]] = []
        self._images: list[Any] = []
        self._ids: list[int] = []
        """The prompt, and then the response."""
        self._mask: list[int] = []
        """One per token of the response: 1 if the model wrote it."""
        self._logprobs: list[float] | None = [] if with_logprobs else None
        self._writing_seconds = 0.0
        self._engine_fields: dict[str, Any] = {}

    async def begin(self, observation: Observation) -> bool:
        """Write the prompt; False, and nothing is written, if it is too long."""
        blocks = content_blocks(observation)
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": observation.system},
            {"role": "user", "content": blocks},
        ]
        images = _images(blocks)
        ids = await asyncio.to_thread(
            self._loop.continuous_token_builder.build_initial_tokens,
            messages,
            images=images or None,
        )
        if len(ids) > self._loop.prompt_length:
            return False
        self._messages, self._images, self._ids = messages, images, ids
        return True

    async def begin_without_a_prompt(self) -> None:
        """Stand for an episode that showed nothing: no token is trained on."""
        await self.begin(Observation("There is nothing to see."))
        self._ids, self._mask = [*self._ids, self._loop.tokenizer.eos_token_id], [0]
        self._logprobs = None if self._logprobs is None else [0.0]

    async def write(self, sampling_params: dict[str, Any], max_tokens: int) -> tuple[str, bool]:
        """Let the model write a reply: its text, and whether it was cut."""
        loop, most = self._loop, min(max_tokens, self._loop.response_length - len(self._mask))
        started = time.perf_counter()
        written = await loop.server_manager.generate(
            request_id=self._request_id,
            prompt_ids=self._ids,
            sampling_params=sampling_params | {"max_tokens": most},
            image_data=self._images or None,
            mm_processor_kwargs=dict(loop.mm_processor_kwargs),
            priority=self._priority,
        )
        self._writing_seconds += time.perf_counter() - started
        self._engine_fields = written.extra_fields | self._engine_fields
        if "max_global_steps" in written.extra_fields:
            self._engine_fields["max_global_steps"] = written.extra_fields["max_global_steps"]
        merged, self._mask, self._logprobs = await loop.ct_merge_assistant_token(
            self._ids,
            written.token_ids,
            self._mask,
            self._logprobs,
            assistant_logprobs=None if self._logprobs is None else written.log_probs,
        )
        self._ids = merged.token_ids
        text = loop.tokenizer.decode(written.token_ids, skip_special_tokens=True)
        self._messages = [*self._messages, {"role": "assistant", "content": text}]
        is_cut = len(written.token_ids) >= most and self._ids[-1] != loop.tokenizer.eos_token_id
        return text, is_cut

    async def observe(self, observation: Observation) -> bool:
        """Add an observation whole; False, and nothing is added, if no reply fits after it."""
        blocks = content_blocks(observation)
        messages = [*self._messages, {"role": "user", "content": blocks}]
        merged, mask, logprobs = await self._loop.ct_merge_context_msg(
            self._messages, messages, self._ids, self._mask, self._logprobs
        )
        if len(mask) >= self._loop.response_length:
            return False
        self._messages, self._images = messages, [*self._images, *_images(blocks)]
        self._ids, self._mask, self._logprobs = merged.token_ids, mask, logprobs
        return True

    def fields(self) -> dict[str, Any]:
        """The fields of an `AgentLoopOutput` that tell what was read and written."""
        prompt_tokens = len(self._ids) - len(self._mask)
        return {
            "prompt_ids": self._ids[:prompt_tokens],
            "response_ids": self._ids[prompt_tokens:],
            "response_mask": self._mask,
            "response_logprobs": self._logprobs,
            "multi_modal_data": {"images": self._images} if self._images else {},
            "mm_processor_kwargs": dict(self._loop.mm_processor_kwargs),
            "num_turns": len(self._messages) - 1,
            "metrics": {"generate_sequences": self._writing_seconds},
            "extra_fields": {"turn_scores": [], "tool_rewards": [], **self._engine_fields},
        }


def _images(blocks: Iterable[Mapping[str, Any]]) -> list[Any]:
    return [block["image"] for block in blocks if block["type"] == "image"]


class VideoSeekAgentLoop:
    """An agent loop: verl asks it for one episode as tokens.

    It holds a loop of verl, whose tokenizer, engine and merging of turns it uses. An observation
    after which no reply would fit `rollout.response_length` is taken back whole, and ends the
    episode as `context_exhausted`; a prompt over `rollout.prompt_length` ends it as
    `prompt_too_long`. These and a video that can't be decoded are scored like any other ending.
    """

    def __init__(
        self,
        *,
        rules: Mapping[str, Any] | None = None,
        reward: Callable[[Trajectory], Score] | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        data_config: Any,
        **verl_arguments: Any,
    ) -> None:
        """Prepare without opening a video.

        Args:
            rules: Fields of `SessionConfig`.
            reward: Scores a finished trajectory; by default the trajectory-guided reward.
            cache_bytes: Bound of the decoded clips that all loops of a process share.
            data_config: verl's.
            **verl_arguments: What else verl passes to an agent loop.

        Raises:
            MissingExtraError: If verl is not installed.
        """
        try:
            from omegaconf import OmegaConf
            from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap
            from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
        except ModuleNotFoundError as error:
            raise MissingExtraError("verl", "verl", "the agent loop") from error
        # Frames have the size that the budget gave them; another one would cost other tokens.
        as_they_are = {"mm_processor_kwargs": {"do_resize": False}}
        data = DictConfigWrap(OmegaConf.merge(as_they_are, data_config.config))
        self._verl = SingleTurnAgentLoop(data_config=data, **verl_arguments)
        self._output = AgentLoopOutput
        self._config = SessionConfig(**(rules or {}))
        self._reward = TrajectoryGuidedReward() if reward is None else reward
        self._clips = shared_cache(cache_bytes)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        """Play the episode of a row.

        Args:
            sampling_params: How to sample; `max_tokens` is set to what is left of the response.
            **row: One of `rows`, as verl's dataset returns it.

        Returns:
            An `AgentLoopOutput`; its `extra_fields` hold `end_reason` and `trajectory` (JSON).

        Raises:
            TaskError: If the row has no task.
        """
        task = task_of(row["extra_info"])
        episode = GuardedEpisode(task, self._config, self._clips)
        transcript = _Transcript(
            self._verl,
            with_logprobs=bool(sampling_params.get("logprobs")),
            priority=int(row.get("priority", 0)),
        )
        try:
            await self._play(episode, transcript, sampling_params)
        finally:
            episode.end()
        trajectory, fields = episode.trajectory, transcript.fields()
        scored = await asyncio.to_thread(self._reward, trajectory)
        fields["extra_fields"] |= {
            "reward_extra_info": dict(scored.parts),
            "end_reason": str(trajectory.end_reason),
            "trajectory": json.dumps(trajectory.to_dict()),
        }
        return self._output(reward_score=float(scored.value), **fields)

    async def _play(
        self, episode: GuardedEpisode, transcript: _Transcript, sampling_params: dict[str, Any]
    ) -> None:
        most = get_budget(self._config.budget).max_reply_tokens
        observation = await asyncio.to_thread(episode.start)
        if observation is not None and not await transcript.begin(observation):
            episode.end(EndReason.PROMPT_TOO_LONG)
            observation = None
        if observation is None:
            await transcript.begin_without_a_prompt()
        while observation is not None:
            text, is_cut = await transcript.write(sampling_params, most)
            observation = await asyncio.to_thread(episode.reply, text)
            if is_cut:
                episode.end(EndReason.REPLY_CUT)
                return
            if observation is not None and not await transcript.observe(observation):
                episode.end(EndReason.CONTEXT_EXHAUSTED)
                return
