import threading
import time

import pytest

from videoseek_env.video.parallel import run_all

PARTS = [range(start, start + 5) for start in range(0, 50, 5)]


@pytest.mark.parametrize("threads", [1, 2, 3, 20])
def test_every_part_is_done_once_on_no_more_threads_than_asked(threads: int) -> None:
    done: list[int] = []
    names: set[str] = set()

    def work(part: range) -> None:
        names.add(threading.current_thread().name)
        done.extend(part)

    run_all(work, PARTS, threads)
    assert sorted(done) == list(range(50))
    assert len(names) <= threads


def test_no_parts_are_no_work() -> None:
    run_all(lambda part: pytest.fail(f"got {part}"), [], 4)


def test_a_free_thread_takes_the_next_part() -> None:
    others_done = threading.Event()
    done: list[range] = []

    def work(part: range) -> None:
        if part == PARTS[0]:
            assert others_done.wait(30)  # held up until all others are done
        done.append(part)
        if len(done) == len(PARTS) - 1:
            others_done.set()

    run_all(work, PARTS, 2)
    assert done[-1] == PARTS[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_is_raised_and_stops_the_rest(threads: int) -> None:
    done: list[range] = []

    def work(part: range) -> None:
        if part.start >= 10:
            raise ValueError(f"part {part.start}")
        done.append(part)

    with pytest.raises(ValueError, match="part 1"):
        run_all(work, PARTS, threads)
    assert len(done) == 2


def test_a_helper_s_error_stops_the_rest_too() -> None:
    main, failed, done = threading.current_thread(), threading.Event(), list[range]()

    def work(part: range) -> None:
        if threading.current_thread() is not main:
            failed.set()
            raise ValueError(f"part {part.start}")
        assert failed.wait(30)
        time.sleep(0.1)  # until the helper has let go
        done.append(part)

    with pytest.raises(ValueError, match="part"):
        run_all(work, PARTS, 2)
    assert len(done) <= 1  # none, if the helper was first
