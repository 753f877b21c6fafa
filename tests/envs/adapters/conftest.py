from pathlib import Path

import pytest

from tests.envs.adapters.same_episode import make_task
from tests.envs.adapters.verl_engine import Checkpoint
from videoseek_env.task import VideoTask


@pytest.fixture
def task(minute_video: Path) -> VideoTask:
    """A question about a video of a minute; the answer is B, the clue at 10 to 20 s."""
    return make_task(minute_video)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Made of a tiny model that nobody has trained."""
    from transformers import AutoProcessor

    from agents.llm.tiny import save_tiny, tiny_model
    from agents.llm.tiny_tokenizer import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer=tokenizer)
    folder = tmp_path_factory.mktemp("verl") / "tiny"
    save_tiny(folder, model=model, tokenizer=tokenizer, video_processor=False)
    return Checkpoint(folder, tokenizer, AutoProcessor.from_pretrained(folder), model)
