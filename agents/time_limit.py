"""A call that may hang, on a thread that can be left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait


def ends_within(seconds: float | None, call: Callable[[], None]) -> bool:
    """Whether a call ended in time; what it raises in time is raised here.

    Python can't stop a thread. One that is late is left behind: it goes on, holds what it holds,
    and does not keep the interpreter from ending. A call that hangs without releasing the
    interpreter's lock can't be left.

    >>> ends_within(10.0, lambda: None)
    True

    Args:
        seconds: Above 0; None waits for ever, on this thread.
        call: What may hang; nobody may rely on what it does after its time.
    """
    if seconds is None:
        call()
        return True
    future: Future[None] = Future()
    threading.Thread(target=_run, args=(call, future), name="timed", daemon=True).start()
    if future in wait([future], seconds).not_done:
        return False
    future.result()
    return True


def _run(call: Callable[[], None], future: Future[None]) -> None:
    try:
        call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(None)
