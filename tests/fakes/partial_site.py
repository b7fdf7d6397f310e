"""The installed packages without some of them, as links: what an installation with fewer extras looks like."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src"


def make_partial_site(folder: Path, *without: str) -> Path:
    """Link everything that is installed but the distributions whose files begin with one of these names."""
    folder.mkdir(parents=True)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().startswith(without) and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


def run_python(site: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process that sees that folder in place of what is installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SRC), str(site)])}  # noqa: TID251
    command = [sys.executable, "-S", "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
