from __future__ import annotations

import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics, TransformReward

from tests.envs.vector.batches import MODES, REPLIES, Make, assert_same, make_sync, play
from tests.sample_trajectories import answer_reply, crop_reply
from videoseek_env.task import VideoTask
from videoseek_env.video import ClipCache


@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_wrappers_record_the_same_statistics(
    make: Make, tasks: list[VideoTask], cache: ClipCache, mode: AutoresetMode
) -> None:
    steps = [tuple(REPLIES[(number + 2 * index) % 6] for index in range(3)) for number in range(6)]
    seen = []
    for vector in (make(autoreset_mode=mode), make_sync(tasks, cache, autoreset_mode=mode)):
        recorder = RecordEpisodeStatistics(vector)
        for step in play(recorder, steps, 3):
            step[-1].get("episode", {}).pop("t", None)
            seen.append(step[-1])
        seen.append([list(recorder.return_queue), list(recorder.length_queue)])
    half = len(seen) // 2
    if mode is AutoresetMode.DISABLED:
        # `SyncVectorEnv` takes the mask out of the options, so that the recorder never sees it and
        # its lengths are wrong; ours leaves them alone. Returns agree.
        (returns, lengths), (expected, _) = seen[half - 1], seen[-1]
        assert_same(returns, expected)
        assert len(lengths) == len(returns) > 0 and set(lengths) <= {1, 2, 3}
    else:
        assert_same(seen[:half], seen[half:])


def test_other_wrappers_of_gymnasium_run(make: Make) -> None:
    vector = DictInfoToList(TransformReward(make(), lambda rewards: rewards * 10))
    vector.reset(seed=0)
    _, rewards, *_, infos = vector.step([answer_reply("B"), answer_reply("A"), crop_reply(1, 5)])
    # accuracy and format; format alone; not over
    assert rewards.tolist() == [20.0, 10.0, 0.0]
    assert [info["turns"] for info in infos] == [1, 1, 1]
    assert ["end_reason" in info for info in infos] == [True, True, False]
