import json
import re
from pathlib import Path

import pytest

from tests.synthetic_video import write_video

README = Path(__file__).parents[1] / "README.md"
SNIPPET = re.compile(r"<!-- snippet: (.+?) -->\n```python\n(.*?)```", re.DOTALL)
SNIPPETS = dict(SNIPPET.findall(README.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", SNIPPETS)
def test_every_snippet_of_the_readme_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my_videos"
    folder.mkdir()
    write_video(folder / "match.mp4", 760, fps=1, height=32, width=32)
    annotation = re.search(r'^\{"id".*\}$', README.read_text(encoding="utf-8"), re.MULTILINE)
    assert annotation is not None
    (folder / "annotations.jsonl").write_text(json.dumps(json.loads(annotation[0])) + "\n")
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[name], f"README: {name}", "exec"), {"__name__": "snippet"})


def test_all_python_of_the_readme_is_a_tested_snippet() -> None:
    assert len(SNIPPETS) == README.read_text(encoding="utf-8").count("```python") == 4


def test_the_first_snippet_fits_twenty_lines_of_code() -> None:
    lines = SNIPPETS["first episode"].splitlines()
    assert len([line for line in lines if line.strip()]) <= 20


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (README.parent / link).exists(), link
