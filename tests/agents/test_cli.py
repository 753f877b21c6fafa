import io
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.cli import main
from agents.doctor import check_backends, check_codecs, check_core, check_extras
from agents.episode import read_episodes
from agents.play import as_reply
from videoseek_env.action import Crop, FinalAnswer, parse_reply
from videoseek_env.segment import Segment
from videoseek_env.trajectory import EndReason, read_jsonl, read_trajectories


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, typed: str = "") -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["videoseek", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_the_demo_compares_a_model_before_and_after_it_learned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="models are an extra")
    monkeypatch.setattr("agents.demo.quickest_threads", lambda: 1)  # other tests come and go
    small = ("--steps", "2", "--questions", "1", "--train-videos", "2", "--test-videos", "1")
    assert run(monkeypatch, "demo", *small, "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    for word in ("Before", "GRPO", "After", "accuracy", "report.html"):
        assert word in printed
    episodes = list(read_episodes(tmp_path / "episodes.jsonl"))
    names = ("SFT", "SFT, sampled", "SFT + GRPO", "SFT + GRPO, sampled")
    assert {episode.policy for episode in episodes} == set(names)
    tasks = {episode.trajectory.task.id for episode in episodes}
    assert len(episodes) == 4 * 12 and len(tasks) == 12
    # What is shipped has learned to seek: by chance it would be right in a fourth of the cases.
    shipped = [episode.reward.parts["acc"] for episode in episodes if episode.policy == "SFT"]
    assert sum(shipped) >= 6
    log = [line for _, line in read_jsonl(tmp_path / "grpo" / "log.jsonl")]
    assert [line["step"] for line in log] == [0, 1] and all("reward" in line for line in log)
    page = (tmp_path / "report.html").read_text()
    assert "Learning" in page and "data:image/svg+xml;base64," in page


@pytest.mark.parametrize(("cost_of_a_thread", "quickest"), [(-1, 2), (1, 1)])
def test_the_demo_takes_as_many_threads_as_help(
    monkeypatch: pytest.MonkeyPatch, cost_of_a_thread: int, quickest: int
) -> None:
    torch = pytest.importorskip("torch", reason="models are an extra")
    from agents.demo import quickest_threads

    clock = itertools.accumulate(
        iter(lambda: 10 + cost_of_a_thread * torch.get_num_threads(), None)
    )
    before = torch.get_num_threads()
    monkeypatch.setattr("agents.demo.time.perf_counter", lambda: next(clock))
    assert quickest_threads() == quickest
    assert torch.get_num_threads() == before


def test_the_demo_goes_on_with_the_same_settings_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="models are an extra")
    monkeypatch.setattr("agents.demo.quickest_threads", lambda: 1)  # other tests come and go
    small = ("--steps", "1", "--questions", "1", "--train-videos", "2", "--test-videos", "1")
    go_on = ("--out", str(tmp_path), "--resume")
    with monkeypatch.context() as without_plots:
        without_plots.setitem(sys.modules, "matplotlib.figure", None)
        assert run(without_plots, "demo", *small, "--out", str(tmp_path)) == 0
    page = tmp_path / "report.html"
    assert "The report has no curves" in capsys.readouterr().out
    assert "data:image/svg+xml" not in page.read_text()
    before = (tmp_path / "episodes.jsonl").read_bytes()
    assert run(monkeypatch, "demo", *small, *go_on) == 0
    assert "data:image/svg+xml" in page.read_text()
    assert (tmp_path / "episodes.jsonl").read_bytes() == before  # nothing was left to do
    message = run(monkeypatch, "demo", *small, *go_on, "--seed", "5")
    assert "holds a run of another configuration" in str(message)


def test_the_demo_deletes_no_other_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="models are an extra")
    monkeypatch.setattr("agents.demo.quickest_threads", lambda: 1)
    log = tmp_path / "grpo" / "log.jsonl"
    log.parent.mkdir()
    log.touch()
    small = ("--train-videos", "1", "--test-videos", "1")
    for another in (None, '{"start": "5-guessing"}'):  # `videoseek reproduce` leaves this one
        if another is not None:
            (tmp_path / "settings.json").write_text(another, encoding="utf-8")
        message = run(monkeypatch, "demo", *small, "--out", str(tmp_path))
        assert "holds something else than a demo" in str(message) and log.exists()


def test_a_person_plays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "what?\ncrop 10 20 fine\nanswer A\n"
    assert run(monkeypatch, "play", "--seed", "3", "--out", str(tmp_path), typed=typed) == 0
    printed = capsys.readouterr().out
    assert "crop START END" in printed and "Crop: 20 frames from 10.0 s to 20.0 s" in printed
    (trajectory,) = read_trajectories(tmp_path / "trajectories.jsonl")
    assert trajectory.crops == (Crop(Segment(10.0, 20.0), "fine"),)
    assert trajectory.answer == "A"
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "observation_0.png",
        "observation_1.png",
    }


def test_a_person_who_stops_loses_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, "play", "--out", str(tmp_path), typed="crop 10 20 coarse\n") == 1
    (trajectory,) = read_trajectories(tmp_path / "trajectories.jsonl")
    assert trajectory.end_reason is EndReason.ABANDONED
    assert len(trajectory.turns) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("play", "--task", "nope"), "no task 'nope'"),
        (("play", "--budget", "huge"), "no budget is named 'huge'"),
        (("play", "--annotations", "/no/such/folder"), "/no/such/folder"),
        (("demo", "--test-videos", "0"), "videos must be at least 1"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    code = run(monkeypatch, *arguments)
    assert isinstance(code, str) and message in code and "\n" not in code


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("crop 3 9.5 Medium", Crop(Segment(3.0, 9.5), "medium")),
        ("  answer  (B) blue ", FinalAnswer("(B) blue")),
        ("<answer>C</answer>", FinalAnswer("C")),
    ],
)
def test_what_a_person_may_type(line: str, action: object) -> None:
    reply = as_reply(line)
    assert reply is not None and parse_reply(reply, duration_seconds=60.0) == action


@pytest.mark.parametrize("line", ["", "crop 9 3 fine", "crop a b fine", "crop 1 5 ultra", "B"])
def test_what_a_person_mistypes_costs_no_turn(line: str) -> None:
    assert as_reply(line) is None


def test_the_doctor_finds_the_core_and_names_commands_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "doctor") == 0
    assert "Ready" in capsys.readouterr().out
    checks = [*check_core(), *check_codecs(), *check_backends(), *check_extras()]
    assert {"numpy", "h264 decoder", "backend pyav", "backend decord", "extra trl"} <= {
        check.name for check in checks
    }
    for check in checks:
        assert check.is_ok or not check.is_required
        assert check.is_ok or "pip install" in check.detail


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_help_imports_nothing_heavy() -> None:
    result = in_a_process(
        "import sys; sys.argv = ['videoseek', '--help']\n"
        "from agents.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'gymnasium', 'av', 'decord', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    assert result.returncode == 0, result.stderr
    assert "demo" in result.stdout


@pytest.mark.parametrize("command", ["'demo'", "'reproduce'", "'train', 'grpo'"])
def test_a_command_without_its_extra_names_it(command: str) -> None:
    result = in_a_process(
        f"import sys; sys.argv = ['videoseek', {command}]\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            raise ModuleNotFoundError('No module named torch', name='torch')\n"
        "sys.meta_path.insert(0, Without())\n"
        "from agents.cli import main; main()"
    )
    assert result.returncode == 1 and not result.stdout
    line = "videoseek: this needs torch: pip install 'videoseek-env[agents]'"
    assert result.stderr.strip() == line


def test_a_policy_plays_before_ones_eyes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(monkeypatch, "play", "--policy", "oracle", "--seed", "1", "--out", str(tmp_path)) == 0
    )
    printed = capsys.readouterr().out
    assert "oracle> <think>" in printed and "Reward parts" in printed
    (trajectory,) = read_trajectories(tmp_path / "trajectories.jsonl")
    assert trajectory.end_reason is EndReason.ANSWERED


def test_an_unknown_policy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = run(monkeypatch, "play", "--policy", "nobody", "--out", str(tmp_path))
    assert "no policy is named 'nobody'; expected one of random, single turn" in str(code)


def test_a_missing_model_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    code = run(monkeypatch, "play", "--policy", f"hf:{tmp_path}/none", "--out", str(tmp_path))
    assert "there is no model folder" in str(code)


def evaluate(monkeypatch: pytest.MonkeyPatch, out: Path, *more: str) -> int | str | None:
    options = ["--videos", "1", "--limit", "4", "--out", str(out)]
    return run(monkeypatch, "eval", "--policy", "random", "oracle", *options, *more)


def test_an_evaluation_writes_episodes_and_a_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(monkeypatch, tmp_path, "--reward", "rewards:Accuracy") == 0
    printed = capsys.readouterr().out
    assert "random" in printed and "oracle" in printed
    episodes = list(read_episodes(tmp_path / "episodes.jsonl"))
    assert [episode.policy for episode in episodes] == ["random"] * 4 + ["oracle"] * 4
    assert all(episode.reward.value == 1 for episode in episodes[4:])
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_a_killed_evaluation_goes_on_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "episodes.jsonl"
    evaluate(monkeypatch, tmp_path)
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:100])  # killed while it wrote the sixth
    assert evaluate(monkeypatch, tmp_path, "--resume") == 0
    ids = [(episode.policy, episode.trajectory.task.id) for episode in read_episodes(path)]
    assert len(ids) == len(set(ids)) == 8
    resumed = path.read_text().splitlines()
    assert resumed[:5] == whole.splitlines()[:5]


def test_an_evaluation_does_not_overwrite_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evaluate(monkeypatch, tmp_path)
    assert "--resume to go on with it" in str(evaluate(monkeypatch, tmp_path))


def test_an_evaluation_goes_on_with_its_own_settings_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evaluate(monkeypatch, tmp_path)
    for other in (("--max-turns", "1"), ("--reward", "rewards:Accuracy")):
        message = evaluate(monkeypatch, tmp_path, "--resume", *other)
        assert "holds a run of another configuration" in str(message)
    assert evaluate(monkeypatch, tmp_path, "--resume", "--workers", "1") == 0


def test_a_policy_of_ones_own_plays_and_what_failed_is_played_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_policy.py").write_text(
        """
from pathlib import Path

class Own:
    def reset(self, *, seed=None):
        if Path("down").exists():
            raise ConnectionError("the server is down")

    def act(self, observation):
        return "<think>A guess.</think><answer>A</answer>"
""",
        encoding="utf-8",
    )
    Path("down").touch()
    options = ("--videos", "1", "--limit", "2", "--out", "out")
    command = ("eval", "--policy", "py:own_policy:Own", *options)
    assert run(monkeypatch, *command) == 1
    Path("down").unlink()
    one = ("eval", "--policy", "py:own_policy:Own", *options, "--limit", "1")
    assert run(monkeypatch, *one, "--resume") == 0
    path = Path("out") / "episodes.jsonl"
    assert [episode.trajectory.answer for episode in read_episodes(path)] == [None, "A"]
    assert run(monkeypatch, *command, "--resume") == 0
    assert [episode.trajectory.answer for episode in read_episodes(path)] == ["A", "A"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--policy", "oracle", "nobody"), "no policy is named 'nobody'"),
        (("--policy", "oracle", "py:nothing:Here"), "no module 'nothing'"),
        (("--policy", "oracle", "oracle"), "oracle would play twice"),
        (("--policy",), "expected a policy"),
        (("--limit", "0"), "limit must be at least 1"),
        (("--reward", "tests.agents.test_cli:lose"), "the reward raised ZeroDivisionError"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: tuple[str, ...], message: str
) -> None:
    found = run(monkeypatch, "eval", "--videos", "1", "--out", str(tmp_path), *wrong)
    assert message in str(found)
    assert not (tmp_path / "episodes.jsonl").exists()


def lose(trajectory: object) -> float:
    return 1 / 0


def test_an_evaluation_by_several_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process plays" in str(evaluate(monkeypatch, tmp_path))


@pytest.mark.parametrize("command", ["demo", "reproduce"])
def test_and_so_is_a_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str) -> None:
    pytest.importorskip("torch", reason="models are an extra")
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = run(monkeypatch, command, "--out", str(tmp_path))
    assert f"one process plays: launch videoseek {command} without" in str(message)
    assert not [*tmp_path.iterdir()]
