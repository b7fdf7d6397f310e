"""The code blocks of a Markdown page: found, run in order, and their output held against what the page shows.

A block is fenced by three backticks and named `bash`, `python`, `text`, `json`, ... A comment in the line above it
says what is special about it: `<!-- not run: needs a GPU -->` skips it, and `<!-- output -->` above a `text` block
says that it is what the `bash` or `python` block before it prints. Each block is a process of its own; the blocks of
a page share a folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runoff import settings

RUNNABLE = ("bash", "python")
_FENCE = re.compile(r"^```(?P<language>[\w+-]*)\s*$")
_NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
_OUTPUT = "<!-- output -->"
_DECIMAL = re.compile(r"\d+\.\d+(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, its first line's number and the line above its fence."""

    language: str
    text: str
    line: int
    above: str

    @property
    def is_run(self) -> bool:
        """Whether it is code that no comment excuses."""
        return self.language in RUNNABLE and not _NOT_RUN.fullmatch(self.above)

    @property
    def is_output(self) -> bool:
        """Whether it shows what the block before it prints."""
        return self.above == _OUTPUT


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page in order.

    Raises:
        ValueError: a fence is not closed.
    """
    lines = page.splitlines()
    start: int | None = None
    for index, line in enumerate(lines):
        fence = _FENCE.match(line)
        if start is None and fence:
            start = index
        elif start is not None and line.strip() == "```":
            opened = _FENCE.match(lines[start])
            above = lines[start - 1].strip() if start else ""
            yield Block(opened["language"] if opened else "", "\n".join(lines[start + 1 : index]), start + 2, above)
            start = None
    if start is not None:
        raise ValueError(f"the block that starts in line {start + 1} is not closed")


def run_block(block: Block, folder: Path, *, cache: Path, timeout_s: float) -> str:
    """Run a block in a folder and answer what it printed, both streams together.

    Raises:
        AssertionError: it failed; the message holds the block and the end of its output.
    """
    script = folder / f"block_{block.line}"
    script.write_text(block.text)
    command = [sys.executable] if block.language == "python" else ["bash", "-euo", "pipefail"]
    environment = settings.child_environment(RUNOFF_CACHE=str(cache), COLUMNS="140", NO_COLOR="1")
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        [*command, script.name],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        tail = done.stdout[-4000:]
        raise AssertionError(f"line {block.line}: exit code {done.returncode}\n{block.text}\n--- output\n{tail}")
    return done.stdout


def missing_lines(shown: str, printed: str) -> list[str]:
    """The lines of `shown` that `printed` lacks, in order.

    Spaces count as one, a decimal number stands for any other, and `...` stands for anything, also for whole lines.
    """
    rest = [_plain(line) for line in printed.splitlines()]
    missing = []
    for line in shown.splitlines():
        parts = [re.escape(part) for part in _plain(line).split("...")]
        pattern = re.compile(".*".join(parts))
        place = next((index for index, other in enumerate(rest) if pattern.search(other)), None)
        if place is None:
            missing.append(line)
        else:
            rest = rest[place + (1 if _plain(line) not in ("", "...") else 0) :]
    return missing


def _plain(line: str) -> str:
    return _DECIMAL.sub("0.0", " ".join(line.split()))
