import os
import pickle

import numpy as np
import pytest

from videoseek_env.video.info import VideoInfo
from videoseek_env.video.request import output_array

pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded")


def make_info() -> VideoInfo:
    return VideoInfo(
        frame_count=10,
        duration_seconds=10.0,
        start_seconds=0.0,
        height=240,
        width=320,
        fps=1.0,
        codec="h264",
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (240, 320), (720, 1280)])
def test_an_array_is_an_ordinary_one_whatever_its_size(height: int, width: int) -> None:
    frames = output_array(3, make_info(), height, width)
    assert frames.shape == (3, height, width, 3) and frames.dtype == np.uint8
    assert frames.flags.writeable and frames.flags.c_contiguous
    frames[:] = 7
    assert np.array_equal(pickle.loads(pickle.dumps(frames)), frames)


def test_no_frames_is_an_empty_array_of_the_videos_size() -> None:
    assert output_array(0, make_info(), None, None).shape == (0, 240, 320, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_writes_to_frames_of_its_own() -> None:
    frames = output_array(2, make_info(), 720, 1280)
    frames[:] = 1
    child = os.fork()
    if child == 0:
        frames[:] = 2
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (frames == 1).all()


def test_one_side_alone_or_none_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="give both height and width"):
        output_array(1, make_info(), 10, None)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        output_array(1, make_info(), 0, 10)
