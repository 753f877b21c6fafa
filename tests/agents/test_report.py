import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.episode import Episode
from agents.report import summarise, write_report
from rewards.reward import Reward
from tests.agents.report_samples import (
    make_episode,
    make_ref,
    make_seeking_episode,
    make_task,
    make_turn,
)
from videoseek_env.action import write_answer
from videoseek_env.errors import MissingExtraError
from videoseek_env.trajectory import EndReason

HOSTILE = (
    "</pre></style></script><script>alert(1)</script><img src=x onerror=alert(1)>"
    "\"'><b onclick='x'>\x00\x1b[31m\x9b\ud800\udfff\u202e{{ 7 * 7 }}{% raw %}<!-- ]]> &lt;"
)


class Page(HTMLParser):
    """A page's elements, texts and attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_bytes().decode("utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def values(self, name: str) -> list[str | None]:
        return [value for key, value in self.attributes if key == name]

    @property
    def images(self) -> int:
        return self.html.count("data:image/jpeg;base64,")


def written(tmp_path: Path, *episodes: Episode, **options: object) -> Page:
    return Page(write_report(tmp_path / "report.html", episodes, **options))  # type: ignore[arg-type]


def test_the_page_tells_what_was_asked_seen_written_and_scored(
    tmp_path: Path, minute_video: Path
) -> None:
    page = written(tmp_path, make_seeking_episode(minute_video), title="My report")
    for part in (
        "My report",
        "Which card comes first?",
        "single clue tool",
        "crop 29.0 s to 40.0 s, fine",
        "fine, 29.0 s to 40.1 s: 4 frames of 128 x 96 px, 12 visual tokens",
        "0:33.0",
        "<think>Blue.</think><answer>B</answer>",
        "24 visual tokens",
        "99 in context",
        "seed 3",
        "answered",
        "0.25 s",
    ):
        assert part in page.text


def test_the_page_marks_the_right_option_and_who_chose_which(
    tmp_path: Path, minute_video: Path
) -> None:
    task = make_task(minute_video)
    page = written(
        tmp_path,
        make_seeking_episode(minute_video),
        make_episode(make_turn(write_answer("", "A")), task=task, policy="guess", value=0.0),
    )
    options = re.search(r'<ol class="options">(.*?)</ol>', page.html, re.DOTALL)
    assert options is not None
    red, blue = options.group(1).split("</li>")[:2]
    assert "guess" in red
    assert "right" not in red
    assert "oracle" in blue
    assert 'class="right"' in blue


def test_a_frame_inside_a_clue_is_marked(tmp_path: Path, minute_video: Path) -> None:
    page = written(tmp_path, make_seeking_episode(minute_video))
    # Overview: 0:30.0 of 0, 30, 59.9 s. Crop: 31.0 and 33.0 s of 29, 31, 33, 40 s.
    assert page.html.count('class="frame clue"') == 3


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path, minute_video: Path) -> None:
    page = written(tmp_path, make_seeking_episode(minute_video))
    assert not {"link", "img", "iframe", "base"} & set(page.tags)
    assert not page.values("src") + page.values("href")
    assert not re.findall(r"(?:https?|wss?):|@import", page.html)
    assert all(url.startswith("data:image/jpeg") for url in re.findall(r"url\((.{15})", page.html))


def test_the_frames_are_described_for_those_who_cannot_see(
    tmp_path: Path, minute_video: Path
) -> None:
    page = written(tmp_path, make_seeking_episode(minute_video))
    labels = page.values("aria-label")
    assert "Frame at 0:33.0, inside a clue" in labels
    assert any(label and label.startswith("Timeline. Clues: 30.0 s to 36.0 s") for label in labels)


def test_hostile_text_is_shown_and_never_acts(tmp_path: Path, minute_video: Path) -> None:
    task = make_task(minute_video, id=HOSTILE, question=HOSTILE, options=(HOSTILE, "b"), clues=())
    crop = make_ref(minute_video, [0, 1])
    episode = make_episode(
        make_turn(HOSTILE, crop, observation=HOSTILE),
        make_turn(f"<answer>{HOSTILE}</answer>", observation=HOSTILE),
        task=task,
        policy=HOSTILE,
        error=HOSTILE,
        reward=Reward(0.5, {HOSTILE: 0.5}),
    )
    page = written(tmp_path, episode, title=HOSTILE)
    plain = written(tmp_path, make_seeking_episode(minute_video))
    assert page.tags.count("script") == 1
    assert set(page.tags) <= set(plain.tags) | {"p"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "{{ 7 * 7 }}{% raw %}" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page.html)


def test_only_the_page_s_own_script_may_run(tmp_path: Path, minute_video: Path) -> None:
    page = written(tmp_path, make_seeking_episode(minute_video))
    policy = next(value for value in page.values("content") if value and "default-src" in value)
    assert "default-src 'none'" in policy
    # SHA-256 is 32 bytes, 44 characters in base64.
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", policy)


def test_trajectories_of_a_task_stand_together(tmp_path: Path, minute_video: Path) -> None:
    tasks = [make_task(minute_video, id=name) for name in ("one", "two")]
    episodes = [
        make_seeking_episode(minute_video, task=task, policy=policy)
        for policy in ("oracle", "random")
        for task in tasks
    ]
    page = written(tmp_path, *episodes)
    assert page.values("data-policy") == ["oracle", "random"] * 2
    assert page.tags.count("article") == 4


def test_equal_clips_share_one_picture(tmp_path: Path, minute_video: Path) -> None:
    episodes = [make_seeking_episode(minute_video, policy=f"p{i}") for i in range(10)]
    assert written(tmp_path, *episodes).images == 2


def test_a_missing_video_leaves_a_note(tmp_path: Path, minute_video: Path) -> None:
    gone = make_task(tmp_path / "gone.mp4", id="gone")
    lost = make_episode(
        make_turn("<answer>B</answer>", make_ref(gone.video, [0, 1])), task=gone, policy="lost"
    )
    page = written(tmp_path, lost, make_seeking_episode(minute_video))
    assert "The frames can't be shown:" in page.text
    assert "gone.mp4" in page.text
    assert page.images == 2


def test_an_error_observation_is_marked(tmp_path: Path, minute_video: Path) -> None:
    turns = (
        make_turn("<grounding>?</grounding>", make_ref(minute_video, [0, 1])),
        make_turn("<answer>B</answer>", observation="Expected one JSON object."),
    )
    page = written(tmp_path, make_episode(*turns, task=make_task(minute_video)))
    assert "Error observation" in page.text
    assert "bad json" in page.text


def test_an_episode_without_turns_tells_its_error(tmp_path: Path, minute_video: Path) -> None:
    episode = make_episode(
        task=make_task(minute_video, options=(), clues=()),
        end_reason=EndReason.POLICY_FAILED,
        error="ValueError: boom",
        value=0.0,
    )
    page = written(tmp_path, episode)
    for part in ("policy failed", "ValueError: boom", "no answer", "Expected: B", "1 failed"):
        assert part in page.text


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    page = written(tmp_path)
    assert "There are no episodes." in page.text
    assert "article" not in page.tags


def test_the_summary_counts_trajectories_that_are_not_shown(
    tmp_path: Path, minute_video: Path
) -> None:
    tasks = [make_task(minute_video, id=str(number)) for number in range(4)]
    episodes = [make_seeking_episode(minute_video, task=task) for task in tasks]
    page = written(tmp_path, *episodes, max_trajectories=3)
    assert page.tags.count("article") == 3
    assert "The first 3 of 4 trajectories" in page.text
    assert "4 episodes" in page.text


def test_summary_rows_may_come_from_outside(tmp_path: Path, minute_video: Path) -> None:
    episode = make_seeking_episode(minute_video)
    rows = summarise([replace(episode, policy="elsewhere")] * 5)
    page = written(tmp_path, episode, summary_rows=rows)
    assert "elsewhere" in page.text
    assert "5 episodes" in page.text


@settings(max_examples=20)
@given(reply=st.text(st.characters(categories=None), max_size=50))
def test_any_reply_gives_a_page(tmp_path_factory: pytest.TempPathFactory, reply: str) -> None:
    episode = make_episode(make_turn(reply), task=make_task("v.mp4"))
    page = written(tmp_path_factory.getbasetemp(), episode)
    assert page.tags.count("script") == 1


def test_a_failed_write_leaves_the_old_report(
    tmp_path: Path, minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, [make_seeking_episode(minute_video)])
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_missing_jinja_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"'jinja2'.*videoseek-env\[cli\]"):
        write_report(tmp_path / "report.html", [])
