"""While a model is fetched a terminal shows a line, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.model_files import onnx_bytes
from fakes.web import serve
from runoff import settings

pty = pytest.importorskip("pty")


def _describe(url: str, cache: Path, stderr: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from runoff.cli import main; main()", "describe", url, "--json"],
        env=settings.child_environment(RUNOFF_CACHE=str(cache), TERM="xterm"),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=True,
        timeout=120,
    )


def test_line_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    with serve() as site:
        site.files["/weights.onnx"] = onnx_bytes()
        ours, theirs = pty.openpty()
        done = _describe(f"{site.url}/weights.onnx", tmp_path / "a", theirs)
        os.close(theirs)
        shown = os.read(ours, 1 << 16).decode()
        os.close(ours)
        assert "weights.onnx" in shown
        assert '"format": "onnx"' in done.stdout
        assert _describe(f"{site.url}/weights.onnx", tmp_path / "b", subprocess.PIPE).stderr == ""
