import threading

import pytest

from agents.time_limit import ends_within


def test_what_ends_in_time_is_done() -> None:
    done: list[str] = []
    assert ends_within(30.0, lambda: done.append(threading.current_thread().name))
    assert done == ["timed"]


def test_without_a_limit_there_is_no_other_thread() -> None:
    done: list[threading.Thread] = []
    assert ends_within(None, lambda: done.append(threading.current_thread()))
    assert done == [threading.current_thread()]


def test_what_does_not_end_is_left_behind() -> None:
    forever = threading.Event()
    assert not ends_within(0.05, lambda: forever.wait() and None)
    forever.set()


@pytest.mark.parametrize("seconds", [None, 30.0])
@pytest.mark.parametrize("error", [TimeoutError("its own"), KeyError("x"), SystemExit(3)])
def test_what_it_raises_is_raised_here(seconds: float | None, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        ends_within(seconds, fail)
    assert caught.value is error
