"""What `import runoff` costs: time, and which libraries it loads."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest

BUDGET_MS = 150
RUNTIMES = {"torch", "onnxruntime", "openvino", "transformers", "onnx", "tensorrt"}
HEAVY = {"numpy", "rich", "typer", "msgspec", "huggingface_hub", "cv2", "jinja2"}
_PROGRAM = """
import json, sys, time
before = time.perf_counter()
{statement}
elapsed_ms = (time.perf_counter() - before) * 1e3
print(json.dumps([elapsed_ms, sorted(name for name in sys.modules if "." not in name)]))
"""


def _measure(statement: str) -> tuple[float, set[str]]:
    """Milliseconds that the statement takes in a fresh interpreter, and the packages loaded after it."""
    command = [sys.executable, "-c", _PROGRAM.format(statement=statement)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    elapsed_ms, loaded = json.loads(answer)
    return elapsed_ms, set(loaded)


def test_import_is_quick() -> None:
    assert statistics.median(_measure("import runoff")[0] for _ in range(5)) < BUDGET_MS


def test_import_loads_no_library() -> None:
    assert _measure("import runoff")[1] & (RUNTIMES | HEAVY) == set()


@pytest.mark.parametrize("name", ["AutoModel", "package", "race", "Environment", "RunoffError"])
def test_public_name_loads_no_runtime(name: str) -> None:
    assert _measure(f"from runoff import {name}")[1] & RUNTIMES == set()


def test_command_line_loads_no_runtime() -> None:
    assert _measure("import runoff.cli.app")[1] & RUNTIMES == set()
