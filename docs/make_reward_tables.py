"""Write what can be computed into docs/rewards.md, between its markers.

`python docs/make_reward_tables.py` writes the tables of exploits; the path of an episodes.jsonl
as argument writes the example of `videoseek rescore` too, from that file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rewards import RewardFunction, TrajectoryGuidedReward
from rewards.testing import ExploitScore, exploit_table
from videoseek_env.task import TaskKind

PAGE = Path(__file__).parent / "rewards.md"
RULESETS: Mapping[str, RewardFunction] = {
    "published": TrajectoryGuidedReward(),
    "hardened": TrajectoryGuidedReward.hardened(),
}
SHORT_NAMES: Mapping[TaskKind, str] = {
    TaskKind.SINGLE_CLUE_TOOL: "single, tool",
    TaskKind.MULTI_CLUE_TOOL: "multi, tool",
    TaskKind.SINGLE_CLUE_DIRECT: "single, direct",
    TaskKind.MULTI_CLUE_DIRECT: "multi, direct",
    TaskKind.OPEN_ENDED: "open-ended",
    TaskKind.TEMPORAL_GROUNDING: "grounding",
}
CAUSES = (
    (
        "The floor of (g + 1) / 2: any call earns half the bonus, whatever it shows, "
        "and even if the environment refused it.",
        "The bonus is 0 unless the IoU beats that of the whole video.",
        (
            "missed_crop",
            "zero_length_segment",
            "negative_segment",
            "beyond_the_end",
            "infinite_segment",
            "nan_segment",
        ),
    ),
    (
        "IoG: it is 1 as soon as the clue is inside the crops, however much else is.",
        "IoG is not paid. The whole video earns exactly 0.",
        ("whole_video_crop", "sliced_video"),
    ),
    (
        "Crops count as they are written: in a thought, with reversed ends, too short to be shown.",
        "Crops count as they were carried out, and tags in a thought break the form.",
        ("phantom_grounding", "reversed_segment", "sub_second_segment"),
    ),
    (
        "Accuracy reads the beginning of the answer: `B. or A.` is B.",
        "After the letter stands nothing, or that option's own text.",
        ("every_form", "hedged_answer"),
    ),
    (
        "Accuracy reads the last of several answer blocks, and the form lets them stand.",
        "A reply holds four tags and no more.",
        ("several_answers",),
    ),
    (
        "The IoU of a temporal-grounding answer: the whole video overlaps every clue.",
        "The IoU counts from what the whole video would earn.",
        ("whole_video_answer",),
    ),
)
"""Published term, hardened term, and the exploits that the published one pays."""


def exploit_block() -> str:
    """Honest and exploit scores of both sets of rules, for each exploit and kind."""
    return "\n\n".join(
        f"**{rules.capitalize()}**: {_verdict(table)}\n\n{_score_table(table)}"
        for rules, table in _tables().items()
    )


def cause_block() -> str:
    """Which published term pays which exploit, and how much at most.

    Raises:
        ValueError: If an exploit pays that `CAUSES` does not explain.
    """
    gains = _largest_gains(_tables()["published"])
    if unexplained := gains.keys() - {name for *_, names in CAUSES for name in names}:
        raise ValueError(f"CAUSES does not explain {', '.join(sorted(unexplained))}")
    rows = ["| published | pays at most | hardened |", "|---|---|---|"]
    for published, hardened, names in CAUSES:
        paid = ", ".join(f"`{name}` {gains[name]:+.2f}" for name in names if name in gains)
        if paid:
            rows.append(f"| {published} | {paid} | {hardened} |")
    return "\n".join(rows)


def rescore_block(episodes: Path) -> str:
    """The example's command and what it prints for these episodes."""
    arguments = ["--reward", "rewards:TrajectoryGuidedReward.hardened"]
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("videoseek")), "rescore", str(episodes), *arguments],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    command = " ".join(["$ videoseek rescore runs/demo/episodes.jsonl", *arguments])
    lines = [line.rstrip() for line in ran.stdout.splitlines()]
    return "\n".join(["```text", command, *lines, "```"]).replace("\n\n```", "\n```")


def replaced(page: str, name: str, block: str) -> str:
    """The page with another text between the markers of a block.

    Raises:
        ValueError: If the page has not exactly one such block.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"\n<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    page, count = pattern.subn(lambda _: f"{begin}\n{block}\n{end}", page)
    if count != 1:
        raise ValueError(f"expected one block {name!r}, found {count}")
    return page


Table = Mapping[TaskKind, Mapping[str, ExploitScore]]


def _tables() -> dict[str, Table]:
    return {rules: exploit_table(reward) for rules, reward in RULESETS.items()}


def _scores(table: Table) -> Iterator[tuple[str, ExploitScore]]:
    return ((name, score) for scores in table.values() for name, score in scores.items())


def _largest_gains(table: Table) -> dict[str, float]:
    gains: dict[str, float] = {}
    for name, score in _scores(table):
        if score.pays:
            gains[name] = max(gains.get(name, 0.0), score.exploit - score.honest)
    return gains


def _verdict(table: Table) -> str:
    paying, names = _largest_gains(table), dict.fromkeys(name for name, _ in _scores(table))
    return f"{len(paying) or 'none'} of {len(names)} exploits pay."


def _score_table(table: Table) -> str:
    rows = [
        f"| exploit | {' | '.join(SHORT_NAMES[kind] for kind in table)} |",
        f"|---|{'---|' * len(table)}",
    ]
    for name in dict.fromkeys(name for name, _ in _scores(table)):
        cells = " | ".join(_cell(scores.get(name)) for scores in table.values())
        rows.append(f"| `{name}` | {cells} |")
    return "\n".join(rows)


def _cell(score: ExploitScore | None) -> str:
    if score is None:
        return ""
    gained = f"**{score.exploit:.2f}**" if score.pays else f"{score.exploit:.2f}"
    return f"{score.honest:.2f} → {gained}"


def main(episodes: Path | None) -> None:
    """Rewrite the page."""
    page = PAGE.read_text(encoding="utf-8")
    page = replaced(page, "exploits", exploit_block())
    page = replaced(page, "causes", cause_block())
    if episodes is not None:
        page = replaced(page, "rescore", rescore_block(episodes))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
