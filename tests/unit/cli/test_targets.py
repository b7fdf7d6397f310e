"""`runoff targets`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys


def _targets(*words: str) -> subprocess.CompletedProcess[str]:
    code = f"from runoff.cli.app import run; run(['targets', *{list(words)!r}])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_json_has_targets_and_providers() -> None:
    answer = json.loads(_targets("--json").stdout)
    by_id = {row["id"]: row for row in answer["targets"]}
    assert by_id["onnx"]["proven"] == "runs in the tests"
    assert by_id["qnn"]["proven"] == "never run"
    assert any(row["name"] == "XnnpackExecutionProvider" for row in answer["providers"])


def test_table_names_vendors_and_providers_on_request() -> None:
    plain, more = _targets(), _targets("--providers")
    assert (plain.returncode, more.returncode) == (0, 0)
    assert "Rockchip" in plain.stdout
    assert "execution providers of ONNX Runtime" not in plain.stdout
    assert "execution providers of ONNX Runtime" in more.stdout
