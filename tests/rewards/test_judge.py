import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewards import Accuracy, Judge
from rewards.judge import Ask
from tests.sample_trajectories import answer_reply, make_task, make_trajectory
from videoseek_env.errors import JudgeError, MissingExtraError
from videoseek_env.task import TaskKind

pytest.importorskip("tenacity")

TASK = make_task(TaskKind.OPEN_ENDED, answer="two red cards")


class Model:
    """Answers with the next of its verdicts; the last one for ever."""

    def __init__(self, *verdicts: float | Exception) -> None:
        self.verdicts = list(verdicts)
        self.cases: list[tuple[str, str, str]] = []

    def __call__(self, question: str, expected: str, answer: str) -> float:
        self.cases.append((question, expected, answer))
        verdict = self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]
        if isinstance(verdict, Exception):
            raise verdict
        return verdict


def patient(ask: Ask, **limits: float) -> Judge:
    """A judge that does not wait half a minute for a thread that never started."""
    return Judge(ask=ask, **{"timeout_seconds": 2.0, "wait_seconds": 0, **limits})  # type: ignore[arg-type]


def test_the_model_is_asked_once_for_each_case() -> None:
    model = Model(0.75, 0.25)
    judge = patient(model)
    assert [judge(answer, TASK) for answer in ("two", " two\n", "three", "two")] == [
        0.75, 0.75, 0.25, 0.75,
    ]  # fmt: skip
    question = "Which digit does the red card show?"
    assert model.cases == [(question, "two red cards", "two"), (question, "two red cards", "three")]


def test_a_case_is_its_question_and_expected_answer_too() -> None:
    model = Model(1.0, 0.0)
    judge = patient(model)
    assert judge("two", TASK) == 1.0
    assert judge("two", make_task(TaskKind.OPEN_ENDED, answer="three")) == 0.0


def test_an_empty_answer_is_wrong_without_asking() -> None:
    model = Model(1.0)
    assert patient(model)(" \n", TASK) == 0.0
    assert model.cases == []


@pytest.mark.parametrize("verdict", [0.0, 1.0, 1, True])
def test_both_ends_of_the_range_are_verdicts(verdict: float) -> None:
    assert patient(Model(verdict))("two", TASK) == float(verdict)


def test_a_failing_model_is_asked_again() -> None:
    model = Model(ConnectionError("down"), float("nan"), 0.5)
    assert patient(model, attempts=3, wait_seconds=0)("two", TASK) == 0.5
    assert len(model.cases) == 3


@pytest.mark.parametrize(
    ("verdict", "cause"),
    [
        (ConnectionError("down"), "ConnectionError: down"),
        (1.5, r"ValueError: expected a verdict in \[0, 1\], got 1.5"),
        (-0.5, r"expected a verdict in \[0, 1\], got -0.5"),
        (float("nan"), "got nan"),
        (float("inf"), "got inf"),
    ],
)
def test_giving_up_names_attempts_and_cause(verdict: float | Exception, cause: str) -> None:
    model = Model(verdict)
    judge = patient(model, attempts=2, wait_seconds=0)
    with pytest.raises(JudgeError, match=f"no verdict in 2 attempts: .*{cause}") as caught:
        judge("two", TASK)
    assert len(model.cases) == 2
    assert caught.value.__cause__ is not None


def test_a_verdict_that_is_no_number_is_refused() -> None:
    with pytest.raises(JudgeError, match="no verdict in 1 attempts: ValueError"):
        patient(Model("yes"), attempts=1)("two", TASK)  # type: ignore[arg-type]


def test_a_failure_is_not_remembered() -> None:
    judge = patient(Model(ConnectionError("down"), 1.0), attempts=1)
    with pytest.raises(JudgeError):
        judge("two", TASK)
    assert judge("two", TASK) == 1.0


def test_a_model_that_hangs_times_out() -> None:
    release = threading.Event()

    def hang(question: str, expected: str, answer: str) -> float:
        release.wait(10)
        return 1.0

    started = time.monotonic()
    with pytest.raises(JudgeError, match="no verdict in 1 attempts: TimeoutError"):
        patient(hang, attempts=1, timeout_seconds=0.05)("two", TASK)
    assert time.monotonic() - started < 5
    waiting = [thread for thread in threading.enumerate() if thread.name == "judge"]
    assert waiting and all(thread.daemon for thread in waiting)
    release.set()
    for thread in waiting:
        thread.join(5)


def test_waits_grow_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    import tenacity

    asked: list[dict[str, float]] = []
    original = tenacity.wait_random_exponential

    def spy(**arguments: float) -> object:
        asked.append(arguments)
        return original(multiplier=0)

    monkeypatch.setattr(tenacity, "wait_random_exponential", spy)
    patient(Model(ConnectionError(), 1.0), wait_seconds=2.0)("two", TASK)
    assert asked == [{"multiplier": 2.0, "max": 60}]


def test_threads_share_the_verdicts() -> None:
    model = Model(*(number / 100 for number in range(100)))
    judge = patient(model)
    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(lambda _: judge("two", TASK), range(64)))
    assert len(set(scores)) == 1  # whoever asked twice got the first verdict kept


@pytest.mark.parametrize(
    "limits",
    [{"timeout_seconds": 0}, {"attempts": 0}, {"wait_seconds": -1}, {"timeout_seconds": -1}],
)
def test_limits_are_above_zero(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a timeout above 0, attempts >= 1, wait >= 0"):
        Judge(ask=Model(1.0), **limits)  # type: ignore[arg-type]
    Judge(ask=Model(1.0), timeout_seconds=0.5, attempts=1, wait_seconds=0)


def test_the_defaults_are_patient() -> None:
    judge = Judge(ask=Model(1.0))
    assert (judge.timeout_seconds, judge.attempts, judge.wait_seconds) == (30.0, 3, 0.5)


def test_a_missing_tenacity_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenacity", None)
    told = r"asking a judge again needs the package 'tenacity'.*videoseek-env\[judge\]"
    with pytest.raises(MissingExtraError, match=told):
        patient(Model(1.0))("two", TASK)


def test_a_judge_is_a_matcher() -> None:
    reward = Accuracy(open_ended=patient(Model(0.25)))
    assert reward(make_trajectory([answer_reply("two")], TASK)).value == 0.25


def test_a_pickled_judge_keeps_its_settings_and_remembers_nothing() -> None:
    judge = Judge(ask=ask_nobody, timeout_seconds=2.0, attempts=1, wait_seconds=0.0)
    copy = pickle.loads(pickle.dumps(judge))
    assert (copy.ask, copy.timeout_seconds, copy.attempts, copy.wait_seconds) == (
        ask_nobody,
        2.0,
        1,
        0.0,
    )
    assert copy("red", TASK) == 0.5


def ask_nobody(question: str, expected: str, answer: str) -> float:
    return 0.5
