"""Races in processes of their own, as a person at a terminal runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MARK = "RUNOFF_TEST_MARK"
"""An environment variable that a started process hands on to whatever it starts."""
RUNOFF = (sys.executable, "-c", "from runoff.cli import main; main()")
_QUICK = (
    "import sys\n"
    "from pathlib import Path\n"
    "from runoff.models.folder import read_folder\n"
    "from runoff.race.explain import explain\n"
    "from runoff.race.options import RaceOptions\n"
    "from runoff.race.run import race_folder\n"
    "options = RaceOptions(\n"
    "    rounds=3, max_rounds=3, turn_s=0.01, min_runs=2, warmup_s=0.1, num_threads=(1,),\n"
    "    backends=tuple(sys.argv[2].split(',')),\n"
    ")\n"
    "def say(event):\n"
    "    print(event.stage, event.detail, flush=True)\n"
    "result = race_folder(read_folder(Path(sys.argv[1])), options, say)\n"
    "print(*result.notes, sep='\\n')\n"
    "print(explain(result.decision))\n"
)


def start_race(root: Path, *backends: str, **variables: str) -> subprocess.Popen[str]:
    """Start a quick race of a folder; it prints its steps, its notes and the explanation."""
    return start([sys.executable, "-c", _QUICK, str(root), ",".join(backends)], **variables)


def start_runoff(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start the command line."""
    return start([*RUNOFF, *arguments], **variables)


def start(command: list[str], **variables: str) -> subprocess.Popen[str]:
    """Start any command with these environment variables."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}  # noqa: TID251
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 120.0) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def descendants(pid: int) -> list[psutil.Process]:
    """Every process that another one started, directly or not."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def marked(mark: str) -> list[psutil.Process]:
    """Every process that has the mark among its environment variables."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and _is_alive(process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_until(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def are_gone(processes: Iterable[psutil.Process], within_s: float) -> bool:
    """Whether these processes end in time; those that are dead and not yet waited for are gone."""
    return wait_until(lambda: not any(_is_alive(process) for process in processes), within_s)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
