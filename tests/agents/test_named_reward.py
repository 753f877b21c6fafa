import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.named_reward import NamedRewardError, load_reward, one_line
from rewards import Accuracy, TrajectoryGuidedReward

MODULE = """
from rewards import Accuracy

class Namespace:
    reward = Accuracy()

def factory(scale=2.0): return Namespace.reward
def reward(trajectory): ...
def reward_with_options(trajectory, scale=2.0): ...
def needs_two(first, second): ...
def broken_factory(): raise RuntimeError("no weights")
def makes_nothing(): return None
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current directory; its name."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield name
    sys.modules.pop(name, None)


def test_classes_and_class_methods_are_factories() -> None:
    name = "rewards:TrajectoryGuidedReward"
    assert load_reward(name) == TrajectoryGuidedReward()
    assert load_reward(f"{name}.hardened") == TrajectoryGuidedReward.hardened()
    assert load_reward("rewards.accuracy:Accuracy") == Accuracy()


def test_what_needs_no_argument_is_called_and_what_needs_one_is_the_reward(own: str) -> None:
    assert load_reward(f"{own}:factory") == Accuracy()
    assert load_reward(f"{own}:Namespace.reward") == Accuracy()
    module = sys.modules[own]
    for name in ("reward", "reward_with_options"):
        assert load_reward(f"{own}:{name}") is getattr(module, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", 'expected a name as "module:name"'),
        (":reward", 'expected a name as "module:name"'),
        ("OWN:", 'expected a name as "module:name"'),
        ("no_such.module:reward", "no module 'no_such'"),
        ("OWN.inner:reward", "can't import|no module"),
        ("OWN:nothing", r"\.py\) has no 'nothing'"),
        ("rewards:TrajectoryGuidedReward.soft", r"has no 'TrajectoryGuidedReward\.soft'"),
        ("rewards:Judge", "can't be called with one trajectory"),
        ("OWN:number", "is 3; expected a reward function"),
        ("OWN:needs_two", "can't be called with one trajectory"),
        ("OWN:broken_factory", r"failed: RuntimeError: no weights \(at .*\.py:11\)"),
        ("OWN:makes_nothing", "leads to None"),
    ],
)
def test_a_name_that_leads_to_no_reward_says_why(name: str, message: str, own: str) -> None:
    with pytest.raises(NamedRewardError, match=message) as caught:
        load_reward(name.replace("OWN", own))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_package", r"No module named 'no_such_package' \(at .*:1\)"),
        ("\n\n1 / 0", r"ZeroDivisionError: division by zero \(at .*:3\)"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_module_that_fails_to_import_says_where(
    source: str, message: str, own: str, tmp_path: Path
) -> None:
    (tmp_path / f"{own}_broken.py").write_text(source)
    with pytest.raises(NamedRewardError, match=message):
        load_reward(f"{own}_broken:reward")


def test_long_errors_are_cut() -> None:
    assert len(one_line(ValueError("long " * 1000))) == 400
