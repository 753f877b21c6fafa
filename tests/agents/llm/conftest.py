"""What several files of this folder ask for. Extras are imported only where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from videoseek_env.datasets.needle import plan_tasks
from videoseek_env.task import TaskKind, VideoTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tests.agents.llm.scripted_server import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A scripted chat-completions server, in a process of its own."""
    from tests.agents.llm.scripted_server import scripted_server

    with scripted_server() as server:
        yield server


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """That of the tiny models."""
    from agents.llm.tiny_tokenizer import tiny_tokenizer

    return tiny_tokenizer()


@pytest.fixture(scope="module")
def needle_tasks() -> list[VideoTask]:
    """Questions of all six kinds and all wordings, without their videos."""
    tasks = plan_tasks(videos=40, tasks_per_video=24)
    assert {task.kind for task in tasks} == set(TaskKind)
    return tasks
