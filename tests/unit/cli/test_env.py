"""`runoff env`, run as a program."""

from __future__ import annotations

import json
import subprocess
import sys

from runoff.environment.describe import describe_environment

_RUN = "import typer; from runoff.cli.env import env; typer.run(env)"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True, check=False)


def test_env_prints_tables() -> None:
    done = _run()
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("CPU features", "execution providers", "PyTorch", "fingerprint"):
        assert word in done.stdout


def test_env_prints_data_when_json_is_asked_for() -> None:
    done = _run("--json")
    data = json.loads(done.stdout)
    assert data["fingerprint"] == describe_environment().fingerprint
    assert {"os", "python", "cpu", "memory", "gpus", "libraries", "extras", "execution_providers"} <= data.keys()
