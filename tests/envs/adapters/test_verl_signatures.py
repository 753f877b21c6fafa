import importlib.util
import inspect
from typing import Any

import pytest

from envs.adapters.verl_loop import VideoSeekAgentLoop
from envs.adapters.verl_tool import VideoCropTool
from tests.envs.adapters.verl_engine import HAS_VERL, ignored, needs_verl
from videoseek_env.errors import MissingExtraError

PUBLISHED = {
    "verl.experimental.agent_loop.agent_loop.AgentLoopBase.__init__": (
        "trainer_config", "server_manager", "tokenizer", "processor", "dataset_cls",
        "data_config", "hf_model_type", "kwargs",
    ),
    "verl.experimental.agent_loop.agent_loop.AgentLoopBase.run": ("sampling_params", "kwargs"),
    "verl.workers.rollout.llm_server.LLMServerClient.generate": (
        "request_id", "prompt_ids", "sampling_params", "image_data", "video_data", "audio_data",
        "mm_processor_kwargs", "kwargs",
    ),
    "verl.tools.base_tool.BaseTool.__init__": ("config", "tool_schema"),
    "verl.tools.base_tool.BaseTool.create": ("instance_id", "kwargs"),
    "verl.tools.base_tool.BaseTool.execute": ("instance_id", "parameters", "kwargs"),
    "verl.tools.base_tool.BaseTool.calc_reward": ("instance_id", "kwargs"),
    "verl.tools.base_tool.BaseTool.release": ("instance_id", "kwargs"),
}  # fmt: skip
"""Parameters of verl 0.9.1, without `self`."""

OUTPUT_FIELDS = (
    "prompt_ids", "response_ids", "response_mask", "response_logprobs", "routed_experts",
    "multi_modal_data", "reward_score", "num_turns", "metrics", "extra_fields",
    "mm_processor_kwargs", "mm_processor_output",
)  # fmt: skip
"""Fields of `AgentLoopOutput` of verl 0.9.1."""


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("verl.experimental.agent_loop.agent_loop.AgentLoopBase.run", VideoSeekAgentLoop.run),
        *((f"verl.tools.base_tool.BaseTool.{name}", getattr(VideoCropTool, name))
          for name in ("__init__", "create", "execute", "calc_reward", "release")),
    ],
)  # fmt: skip
def test_methods_take_what_verl_passes(name: str, ours: Any) -> None:
    parameters = [each for each in inspect.signature(ours).parameters if each != "self"]
    # verl passes the row, or keyword arguments of the tool, by name.
    assert [{"row": "kwargs"}.get(each, each) for each in parameters] == list(PUBLISHED[name])


def test_the_loop_takes_what_verl_passes() -> None:
    names = PUBLISHED["verl.experimental.agent_loop.agent_loop.AgentLoopBase.__init__"]
    arguments = dict.fromkeys([*names[:-1], "tools"])
    inspect.signature(VideoSeekAgentLoop).bind(rules={"budget": "tiny"}, **arguments)


@pytest.mark.skipif(HAS_VERL, reason="verl is installed")
def test_without_verl_an_error_says_what_is_missing() -> None:
    with pytest.raises(MissingExtraError, match="the agent loop needs the package 'verl'"):
        VideoSeekAgentLoop(data_config=None)
    with pytest.raises(MissingExtraError, match="the crop tool needs the package 'verl'"):
        VideoCropTool({"type": "native"})


@needs_verl
@ignored
def test_the_published_signatures_are_verls() -> None:
    for path, names in PUBLISHED.items():
        module, owner, method = path.rsplit(".", 2)
        function = getattr(getattr(importlib.import_module(module), owner), method)
        found = [name for name in inspect.signature(function).parameters if name != "self"]
        assert tuple(found) == names, path
    from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

    assert tuple(AgentLoopOutput.model_fields) == OUTPUT_FIELDS
