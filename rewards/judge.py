"""Let a model judge free-text answers: with a timeout, retries and a cache."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from videoseek_env.errors import JudgeError, MissingExtraError
from videoseek_env.task import VideoTask

Ask = Callable[[str, str, str], float]
"""Asks a model: (question, expected answer, given answer) -> score in [0, 1]."""


class _Case(NamedTuple):
    question: str
    expected: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judge:
    """A matcher that asks `ask` and remembers; safe from several threads.

    So a judge of an unsteady model is steady within its lifetime: of threads that ask about one
    case at once, all get the verdict that came first. Empty answers are wrong without asking. A
    pickled judge remembers nothing.

    Raises:
        ValueError: If a limit is not above zero.
    """

    ask: Ask
    timeout_seconds: float = 30.0
    """For one attempt. The thread of an attempt that hangs is left behind."""
    attempts: int = 3
    """Tries before giving up; waits grow from `wait_seconds`, doubling, with jitter."""
    wait_seconds: float = 0.5
    _verdicts: dict[_Case, float] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (self.timeout_seconds > 0 and self.attempts >= 1 and self.wait_seconds >= 0):
            raise ValueError(f"expected a timeout above 0, attempts >= 1, wait >= 0, got {self}")

    def __reduce__(self) -> tuple[object, ...]:
        settings = {
            name: getattr(self, name)
            for name in ("ask", "timeout_seconds", "attempts", "wait_seconds")
        }
        return partial(Judge, **settings), ()

    def __call__(self, answer: str, task: VideoTask, /) -> float:
        """Score an answer.

        Raises:
            JudgeError: If every attempt failed, timed out, or gave no number in [0, 1].
            MissingExtraError: If tenacity is not installed.
        """
        case = _Case(task.question, task.answer, answer.strip())
        if not case.answer:
            return 0.0
        with self._lock:
            if case in self._verdicts:
                return self._verdicts[case]
        verdict = self._ask_patiently(case)
        with self._lock:
            return self._verdicts.setdefault(case, verdict)

    def _ask_patiently(self, case: _Case) -> float:
        try:
            import tenacity
        except ModuleNotFoundError as error:
            raise MissingExtraError("tenacity", "judge", "asking a judge again") from error
        retry = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=tenacity.wait_random_exponential(multiplier=self.wait_seconds, max=60),
            reraise=True,
        )
        try:
            return float(retry(self._ask_once, case))
        except Exception as error:
            raise JudgeError(
                f"the judge gave no verdict in {self.attempts} attempts: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _ask_once(self, case: _Case) -> float:
        # A daemon thread: an executor would wait for a hanging attempt when the process ends.
        future: Future[float] = Future()

        def work() -> None:
            try:
                future.set_result(self.ask(*case))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name="judge", daemon=True).start()
        verdict = float(future.result(timeout=self.timeout_seconds))
        if not (math.isfinite(verdict) and 0 <= verdict <= 1):
            raise ValueError(f"expected a verdict in [0, 1], got {verdict}")
        return verdict
