import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.episode import Episode
from agents.report import summarise, write_report
from agents.report.images import MissingStrip, Strip, StripMaker, encode_jpeg, side_by_side
from agents.report.reply import leave_out_middle, reply_spans
from agents.report.summary import mean_estimate, share_estimate, wilson_estimate
from agents.report.timeline import draw_timeline
from rewards.reward import Reward
from tests.synthetic_video import barcode, read_barcodes
from videoseek_env.action import parse_reply, write_answer, write_crop
from videoseek_env.errors import MissingExtraError
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason, Trajectory, Turn
from videoseek_env.video.clip import ClipRef, ClipStrategy

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


def make_task(video: Path | str, **changes: object) -> VideoTask:
    fields: dict[str, object] = {
        "id": "t",
        "video": str(video),
        "question": "Which card comes first?",
        "answer": "B",
        "kind": TaskKind.SINGLE_CLUE_TOOL,
        "options": ("red", "blue"),
        "clues": (Segment(30.0, 36.0),),
    }
    return VideoTask(**(fields | changes))  # type: ignore[arg-type]


def make_ref(
    video: Path | str, indices: Sequence[int], strategy: ClipStrategy = "overview"
) -> ClipRef:
    times = tuple(index / 10 for index in indices)
    segment = Segment(times[0], times[-1] + 0.1)
    return ClipRef(str(video), tuple(indices), times, 96, 128, segment, strategy, 12)


def make_turn(reply: str, clip: ClipRef | None = None, observation: str = "Look.") -> Turn:
    return Turn(observation, clip, reply, parse_reply(reply, duration_seconds=60.0))


def make_episode(
    *turns: Turn,
    task: VideoTask,
    policy: str = "oracle",
    value: float = 1.0,
    end_reason: EndReason = EndReason.ANSWERED,
    **changes: object,
) -> Episode:
    trajectory = Trajectory(task, turns, end_reason, 60.0, context_tokens=99, max_turns=6)
    parts = {"acc": value, "format": 0.5}
    episode = Episode(policy, 3, trajectory, Reward(value, parts), seconds=0.25)
    return replace(episode, **changes)  # type: ignore[arg-type]


def make_seeking_episode(video: Path, **changes: object) -> Episode:
    turns = (
        make_turn(
            write_crop("There?", Segment(29.0, 40.0), "fine"), make_ref(video, [0, 300, 599])
        ),
        make_turn(write_answer("Blue.", "B"), make_ref(video, [290, 310, 330, 400], "fine")),
    )
    return make_episode(*turns, **({"task": make_task(video)} | changes))  # type: ignore[arg-type]


def written(tmp_path: Path, *episodes: Episode, **options: object) -> Page:
    return Page(write_report(tmp_path / "report.html", episodes, **options))  # type: ignore[arg-type]


# the page


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


# pictures


def decode_jpeg(data: bytes) -> np.ndarray:
    with av.open(BytesIO(data), format="mjpeg") as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24")


def test_a_strip_holds_the_frames_of_its_timestamps(minute_video: Path) -> None:
    import base64

    with StripMaker(max_frames=3) as strips:
        strip = strips.strip(make_ref(minute_video, [7, 100, 101, 300, 599]))
    assert isinstance(strip, Strip)
    assert strip.timestamps_seconds == (0.7, 10.1, 59.9)
    picture = decode_jpeg(base64.b64decode(strips.images[strip.number]))
    assert picture.shape == (96, 3 * 128, 3)
    assert read_barcodes(picture.reshape(96, 3, 128, 3).transpose(1, 0, 2, 3)) == [7, 101, 599]


def test_a_strip_of_one_frame_is_a_picture(minute_video: Path) -> None:
    with StripMaker() as strips:
        strip = strips.strip(make_ref(minute_video, [5]))
    assert isinstance(strip, Strip)
    assert strip.timestamps_seconds == (0.5,)


def test_large_frames_are_shrunk_to_thumbnails(minute_video: Path) -> None:
    with StripMaker() as strips:
        strip = strips.strip(replace(make_ref(minute_video, [0, 1]), height=480, width=640))
    # 192 x 144 pixels at most, in whole blocks of 16.
    assert isinstance(strip, Strip)
    assert (strip.height, strip.width) == (144, 192)


def test_a_clip_beyond_the_end_of_a_changed_video_gives_the_reason(minute_video: Path) -> None:
    with StripMaker() as strips:
        strip = strips.strip(make_ref(minute_video, [0, 600]))
    assert isinstance(strip, MissingStrip)
    assert "which has 600 of them" in strip.reason


@pytest.mark.parametrize(("height", "width"), [(1, 1), (95, 33), (144, 3072)])
def test_a_jpeg_of_any_size_decodes_to_nearly_the_same(height: int, width: int) -> None:
    picture = np.repeat(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], 3, axis=2)
    picture = np.repeat(picture, height, axis=0)
    difference = decode_jpeg(encode_jpeg(picture)).astype(int) - picture
    assert np.abs(difference).mean() < 4


def test_frames_lie_side_by_side() -> None:
    frames = np.stack([barcode(index, 32, 48) for index in (1, 2)])
    assert np.array_equal(side_by_side(frames)[:, 48:], frames[1])


# replies


@given(st.text())
def test_the_spans_of_a_reply_are_the_reply(reply: str) -> None:
    assert "".join(span.text for span in reply_spans(reply)) == reply


def test_a_reply_is_cut_at_its_tags() -> None:
    spans = reply_spans("a<think>b</think><grounding>c</grounding><answer>d")
    roles = [(span.role, span.text) for span in spans if span.role != "tag"]
    assert roles == [("plain", "a"), ("think", "b"), ("grounding", "c"), ("answer", "d")]


def test_a_reply_of_nothing_but_tags_stays_readable() -> None:
    spans = reply_spans("<think>" * 100_000)
    assert len(spans) <= 201
    assert sum(len(span.text) for span in spans) < 10_000


def test_a_long_text_keeps_both_ends() -> None:
    text = leave_out_middle("a" * 5000 + "b" * 5000, max_characters=10)
    assert text == "aaaaa [... 9990 characters left out ...] bbbbb"


# timeline


def test_the_timeline_has_a_lane_for_each_clip(minute_video: Path) -> None:
    timeline = draw_timeline(make_seeking_episode(minute_video).trajectory)
    assert [lane.label for lane in timeline.lanes] == ["1 overview", "2 fine"]
    # 29.0 s to 40.1 s of 60 s, in thousandths.
    assert (timeline.lanes[1].box.left, timeline.lanes[1].box.width) == (483.3, 185.0)
    # 30 s to 36 s.
    assert (timeline.clues[0].left, timeline.clues[0].width) == (500.0, 100.0)
    assert timeline.lanes[1].ticks.count("M") == 4


def test_the_timeline_shows_a_crop_that_a_limit_refused(minute_video: Path) -> None:
    crop = make_turn(
        write_crop("", Segment(29.0, 40.0), "coarse"), make_ref(minute_video, [0, 599])
    )
    episode = make_episode(crop, task=make_task(minute_video), end_reason=EndReason.TURNS_EXHAUSTED)
    lanes = draw_timeline(episode.trajectory).lanes
    assert [lane.is_refused for lane in lanes] == [False, True]


# summary


def test_policies_are_summarised_in_order_of_appearance(minute_video: Path) -> None:
    right = make_seeking_episode(minute_video)
    wrong = make_episode(
        make_turn("<answer>A</answer>"), task=make_task(minute_video), policy="guess", value=0.0
    )
    oracle, guess = summarise([right, wrong, wrong, right, right])
    assert (oracle.policy, oracle.episodes, guess.policy, guess.episodes) == (
        "oracle",
        3,
        "guess",
        2,
    )
    assert oracle.accuracy.mean == 1
    assert guess.accuracy.mean == 0
    assert oracle.turns.mean == 2
    assert oracle.visual_tokens.mean == 24
    assert oracle.accuracy_by_kind[TaskKind.SINGLE_CLUE_TOOL].count == 3


def test_a_graded_part_gets_the_normal_interval_in_every_row(minute_video: Path) -> None:
    graded = make_seeking_episode(minute_video, reward=Reward(1.0, {"acc": 1.0, "bonus": 0.5}))
    flat = replace(graded, policy="flat", reward=Reward(1.0, {"acc": 1.0, "bonus": 0.0}))
    _, row = summarise([graded, graded, flat, flat])
    assert (row.parts["bonus"].low, row.parts["bonus"].high) == (0.0, 0.0)
    assert row.parts["acc"].low == pytest.approx(2 / (2 + 1.959964**2))


def test_a_part_counts_over_the_episodes_that_have_it(minute_video: Path) -> None:
    one = make_seeking_episode(minute_video, reward=Reward(1.0, {"extra": 0.5}))
    other = make_seeking_episode(minute_video, reward=Reward(1.0))
    (row,) = summarise([one, other])
    assert row.parts["extra"].count == 1


def test_the_normal_interval_is_that_of_the_book() -> None:
    estimate = mean_estimate([1.0, 2.0, 3.0])
    # s = 1, so the half width is 1.959964 / sqrt(3) = 1.131586.
    assert estimate.mean == 2
    assert (estimate.low, estimate.high) == pytest.approx((0.868414, 3.131586), abs=1e-6)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_s_interval_stays_in_range_and_holds_the_share(counts: tuple[int, int]) -> None:
    estimate = wilson_estimate(*counts)
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0 <= estimate.low <= estimate.mean + 1e-12
    assert estimate.mean - 1e-12 <= estimate.high <= 1


def test_fractional_scores_get_the_normal_interval() -> None:
    assert share_estimate([0.5, 1.0]) == mean_estimate([0.5, 1.0])


@pytest.mark.parametrize("estimate", [mean_estimate, share_estimate])
def test_no_values_have_no_mean(estimate: object) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])  # type: ignore[operator]


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="successes <= count"):
        wilson_estimate(3, 2)
