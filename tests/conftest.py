import os
from pathlib import Path

# Before torch is imported: threads that spin for a shared core cost ten times what they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from tests.synthetic_video import write_video

# No deadline: a busy machine is no defect. CI tries the same examples each time; elsewhere each run
# tries new ones.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session")
def minute_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute at 10 frames per second, 128 x 96 pixels, a keyframe every 5 s, barcoded."""
    path = tmp_path_factory.mktemp("videos") / "minute.mp4"
    return write_video(path, 600, fps=10, gop_frames=50)
