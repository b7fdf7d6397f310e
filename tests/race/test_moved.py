"""A model folder that moves to an environment with another ONNX Runtime: a real one, laid over this one."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from fakes.onnx_models import onnx_folder
from fakes.packages import spec
from runoff.models.folder import ModelFolder
from runoff.race.options import RaceOptions
from runoff.race.run import race_folder
from runoff.types import Signature

_RUN = "from runoff.cli.app import run; import sys; run(sys.argv[1:])"


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an older ONNX Runtime, to go before the installed one on the path of a process."""
    place = tmp_path_factory.mktemp("older")
    version = importlib.metadata.version("onnxruntime")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries=1", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--target", str(place), f"onnxruntime<{version}"],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"pip has no older onnxruntime here: {done.stderr.strip().splitlines()[-1:]}")
    return place


def _runoff(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-c", _RUN, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def raced(tmp_path: Path) -> ModelFolder:
    weights = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    signature = Signature((spec("x", "batch", 16),), (spec("y", "batch", 16),))
    folder = onnx_folder(tmp_path / "net", [helper.make_node("MatMul", ["x", "w"], ["y"])], signature, {"w": weights})
    options = RaceOptions(backends=("onnx",), num_threads=(1,), rounds=1, max_rounds=1, turn_s=0.01, warmup_s=0.01)
    return race_folder(folder, options).folder


@pytest.mark.slow
def test_moved_folder_is_decided_again_and_says_what_changed(
    raced: ModelFolder, older: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(raced.root, moved)
    new = importlib.metadata.version("onnxruntime")
    old = next(older.glob("onnxruntime-*.dist-info")).name.removeprefix("onnxruntime-").removesuffix(".dist-info")

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(older), *(entry for entry in sys.path if entry)]))
    before = _runoff("explain", str(moved))
    assert before["basis"] == "guessed"
    notes = " ".join(before["notes"])
    assert "does not hold here" in notes and f"onnxruntime: {new} -> {old}" in notes
    assert "there onnx-fp32@1 was best by latency" in notes

    quick = ("--backend", "onnx", "--threads", "1", "--rounds", "1")
    _runoff("race", str(moved), *quick)
    after = _runoff("explain", str(moved))
    assert after["basis"] == "measured"
    assert not any("does not hold" in note for note in after["notes"])
    assert len(list((moved / "records").glob("*.json"))) == 2
