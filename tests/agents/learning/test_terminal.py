import io

from rich.console import Console

from agents.learning.collecting import Experience
from agents.learning.learner import Update
from agents.learning.terminal import Terminal, episode_text, line_of
from rewards import Reward
from tests.sample_trajectories import answer_reply, crop_reply, make_trajectory


def experience(*replies: str) -> Experience:
    return Experience(
        group=0,
        trajectory=make_trajectory(list(replies)),
        reward=Reward(1.5),
        seconds=0.1,
        samples=(),
    )


def test_numbers_that_are_not_there_are_left_out() -> None:
    assert line_of({"loss": 0.5, "tokens_per_second": 1234.5}) == "loss 0.500  1234 tokens/s"
    assert line_of({}) == ""


def test_an_episode_is_shown_as_text_whatever_it_holds() -> None:
    text = episode_text(experience(crop_reply(10, 20), "[bold]" + 500 * "x"))
    console = Console(file=io.StringIO(), width=400)
    console.print(text)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]" in printed and "x" * 295 not in printed and "reward 1.50" in printed


def test_lines_come_now_and_then_and_at_the_end() -> None:
    console = Console(file=io.StringIO(), width=200)
    with Terminal(console, 5, every=3) as terminal:
        for step in range(5):
            terminal.show(step, Update({"loss": float(step)}, [experience(answer_reply("B"))]))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert [f"loss {step}.000" in printed for step in range(5)] == [True, False, False, True, True]
