from pathlib import Path

import pytest

from tests.synthetic_video import remux, write_video


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 s at 10 frames per second, with B-frames, a keyframe every 2 s at least."""
    return write_video(tmp_path_factory.mktemp("live") / "v.mp4", 300, fps=10, gop_frames=20)


@pytest.fixture(scope="session")
def transport_stream(video: Path) -> Path:
    """The same video in a container that can be sent while it is made."""
    return remux(video, video.with_suffix(".ts"))
