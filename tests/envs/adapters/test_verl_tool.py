import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from envs.adapters.verl import reply_of, task_of
from envs.adapters.verl_tool import CROP_SCHEMA, CROP_SYSTEM, VideoCropTool, tool_rows
from tests.envs.adapters.verl_engine import ignored, needs_verl
from videoseek_env.action import Malformed, parse_reply
from videoseek_env.prompts import DEFAULT_PROMPTS
from videoseek_env.task import VideoTask


def test_tool_rows_hold_the_overview_and_leave_out_what_has_none(
    task: VideoTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("PIL", reason="pillow is an extra")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    tasks = [task, dataclasses.replace(task, id="broken", video=str(broken))]
    [row] = tool_rows(tasks, rules={"budget": "tiny"})
    assert "left out task broken: video_failed" in caplog.text
    system, user = row["prompt"]
    assert system == {"role": "system", "content": CROP_SYSTEM}
    assert user["content"].count("<image>") == len(row["images"]) == 20
    assert user["content"].startswith("0.0 s<image>3.2 s<image>")
    assert all(image["bytes"].startswith(b"\x89PNG") for image in row["images"])
    create = row["extra_info"]["tools_kwargs"]["crop"]["create_kwargs"]
    assert task_of(create) == task


@pytest.mark.parametrize(
    "arguments", [{}, {"start": 5, "end": 4, "detail": "fine"}, {"start": 3, "end": 9}]
)
def test_what_the_tool_says_fits_into_verls_256_characters(arguments: dict[str, Any]) -> None:
    # verl cuts longer texts in the middle by default; ten hours make the longest times.
    action = parse_reply(reply_of(arguments), duration_seconds=36_000.0)
    assert isinstance(action, Malformed)
    assert len(DEFAULT_PROMPTS.error_text(action.message)) <= 256


@needs_verl
@ignored
def test_the_tool_keeps_one_session_per_trajectory(task: VideoTask) -> None:
    class AgentData:
        """What verl passes along a trajectory."""

    async def crop_twice() -> list[Any]:
        tool, trajectory = (
            VideoCropTool({"type": "native", "rules": {"budget": "tiny", "max_turns": 3}}),
            AgentData(),
        )
        responses = []
        for arguments in ({"start": 10, "end": 20, "detail": "fine"}, {"start": "x"}, {}, {}):
            [row] = tool_rows([task], rules={"budget": "tiny"})
            create = row["extra_info"]["tools_kwargs"]["crop"]["create_kwargs"]
            instance, _ = await tool.create(create_kwargs=create)
            response, reward, metrics = await tool.execute(
                instance, arguments, agent_data=trajectory
            )
            await tool.release(instance)
            assert (reward, metrics) == (0.0, {}) and not tool._tasks
            responses.append(response)
        assert len(tool._episodes) == 1
        del trajectory
        assert len(tool._episodes) == 0
        return responses

    crop, error, *over = asyncio.run(crop_twice())
    assert len(crop.image) == 8 and crop.text.startswith("Crop: 8 frames from 10.0 s to 20.0 s")
    assert error.image is None and "list of two finite numbers" in error.text
    assert [response.text for response in over] == ["The episode is over: turns_exhausted."] * 2


@needs_verl
@ignored
def test_the_tool_has_a_schema_that_verl_reads(tmp_path: Path) -> None:
    from verl.tools.tool_registry import load_all_tools

    config = tmp_path / "tools.yaml"
    config.write_text(
        "tools:\n  - class_name: envs.adapters.verl_tool.VideoCropTool\n"
        "    config: {type: native, rules: {budget: tiny}}\n"
    )
    [tool] = load_all_tools(str(config), None)
    assert tool.name == "crop"
    assert tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) == CROP_SCHEMA
