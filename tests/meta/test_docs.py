"""README and docs: their code runs, prints what they say, and their links lead somewhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from meta.code_blocks import Block, blocks, missing_lines, run_block
from meta.repository import ROOT, pages, relative

MAX_PAGE_LINES = 400
BLOCK_TIMEOUT_S = 900
LANGUAGES = {"bash", "python", "text", "json", "toml", "yaml", ""}
PAGES = pages()
RUN_PAGES = [page for page in PAGES if any(block.is_run for block in blocks(page.read_text()))]
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_REGISTRY = re.compile(r"https?://\S*(?:pypi|pythonhosted|whl|simple)\b", re.IGNORECASE)
_MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|Users|tmp|work|root|opt)/")


@pytest.mark.timeout(BLOCK_TIMEOUT_S * 2)
@pytest.mark.parametrize("page", RUN_PAGES, ids=relative)
def test_code_blocks_run(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    printed = ""
    for block in blocks(page.read_text()):
        if block.is_run:
            printed = run_block(block, folder, cache=tmp_path / "cache", timeout_s=BLOCK_TIMEOUT_S)
        elif block.is_output:
            assert missing_lines(block.text, printed) == [], f"line {block.line} does not show:\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_blocks_are_of_a_kind_that_is_checked(page: Path) -> None:
    kinds = {block.language for block in blocks(page.read_text())}
    assert kinds <= LANGUAGES, "shell is `bash`, so that no command escapes being run"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in _LINK.findall(_prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_page_is_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= MAX_PAGE_LINES


@pytest.mark.parametrize("page", [*PAGES, ROOT / "pyproject.toml", ROOT / "constraints.txt"], ids=relative)
def test_page_names_no_registry_and_no_machine(page: Path) -> None:
    text = page.read_text()
    assert _REGISTRY.findall(text) == []
    assert _MACHINE_PATH.findall(text) == []


def test_block_is_run_when_no_comment_excuses_it() -> None:
    page = "a\n```bash\ntrue\n```\n<!-- not run: needs a GPU -->\n```bash\nfalse\n```\n<!-- output -->\n```text\nx\n```"
    assert [(block.line, block.is_run, block.is_output) for block in blocks(page)] == [
        (3, True, False),
        (7, False, False),
        (11, False, True),
    ]


def test_block_fails_when_a_command_in_it_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 1"):
        run_block(Block("bash", "false\ntrue", 1, ""), tmp_path, cache=tmp_path, timeout_s=10)


def test_output_is_missing_when_a_line_differs() -> None:
    printed = "label  score\n7   0.998\ntook 3 s\n"
    assert missing_lines("7  0.5\ntook ... s", printed) == []
    assert missing_lines("...\ntook 3 s", printed) == []
    assert missing_lines("8  0.5", printed) == ["8  0.5"]
    assert missing_lines("took 3 s\n7 0.9", printed) == ["7 0.9"]


def _prose(page: Path) -> str:
    """The page without its fenced blocks, where brackets are code."""
    text = page.read_text()
    for block in blocks(text):
        text = text.replace(block.text, "")
    return text


def _anchors(page: Path) -> set[str]:
    """The anchors that a Markdown viewer gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
