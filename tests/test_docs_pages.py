import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SNIPPET = re.compile(r"<!-- snippet: (.+?) -->\n```python\n(.*?)```", re.DOTALL)
OTHER_PAGES = {"live": 2, "stacks": 6}
"""Pages whose snippets say what they print, and how many they have."""
NEEDED = {
    "classic learners": "stable_baselines3",
    "two agents": "pettingzoo",
    "trl": "trl",
    "openenv": "openenv",
    "verl": "PIL",
}
"""The package that a snippet needs beside the core."""


def snippets_of(page: str) -> dict[str, str]:
    return dict(SNIPPET.findall((DOCS / f"{page}.md").read_text(encoding="utf-8")))


@pytest.fixture
def openenv_address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "envs.adapters.openenv_server", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page in OTHER_PAGES for name in snippets_of(page)]
)
def test_every_snippet_of_the_other_pages_prints_what_its_comments_say(
    page: str,
    name: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name in NEEDED:
        pytest.importorskip(NEEDED[name], reason="an extra")
    code = snippets_of(page)[name]
    if name == "openenv":
        code = code.replace("http://localhost:8000", request.getfixturevalue("openenv_address"))
    monkeypatch.chdir(tmp_path)  # one of them records a video
    exec(compile(code, f"{page}.md: {name}", "exec"), {"__name__": "snippet"})
    said = re.findall(r"^ *print\(.*\)  # (.+)$", code, re.MULTILINE)
    assert said and capsys.readouterr().out.splitlines() == said


@pytest.mark.parametrize("page", OTHER_PAGES)
def test_all_python_of_the_other_pages_is_tested_and_links_lead_somewhere(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert len(snippets_of(page)) == text.count("```python") == OTHER_PAGES[page]
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        path, _, heading = link.partition("#")
        assert not path or (DOCS / path).exists(), link
        assert path or heading in headings, link
