"""The fake plug-in does what its file says, so that tests of races may rest on it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fakes.packages import file_package, spec
from fakes.plugin_backend import Behaviour
from fakes.plugin_site import MODULE, plugged_in
from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.errors import InputError, RunoffError, RuntimeLoadError
from runoff.types import Signature

SIGNATURE = Signature((spec("x", "batch", 3),), (spec("y", "batch", 3), spec("z", "batch", 3)))
X = np.ones((2, 3), np.float32)


@pytest.fixture(autouse=True)
def site(tmp_path: Path):
    with plugged_in(tmp_path / "site") as folder:
        yield folder


def _open(tmp_path: Path, behaviour: Behaviour, **options: object) -> Session:
    path = tmp_path / "model.fake"
    path.write_bytes(msgspec.json.encode(behaviour))
    package = file_package(path, SIGNATURE, backend="fake", format_id="fake")
    return table.backend("fake").open(package, SessionOptions(backend=options))


def test_outputs_are_the_inputs_times_the_factor(tmp_path: Path) -> None:
    outputs = _open(tmp_path, Behaviour(factor=2.0), gain=3).run({"x": X})
    assert list(outputs) == ["y", "z"]
    np.testing.assert_array_equal(outputs["z"], np.full((2, 3), 6, np.float32))


def test_wrong_answers_differ_on_the_run_asked_for(tmp_path: Path) -> None:
    session = _open(tmp_path, Behaviour(on_first_run="wrong"))
    np.testing.assert_array_equal(session.run({"x": X})["y"], X + 1)
    np.testing.assert_array_equal(session.run({"x": X})["y"], X)


def test_inputs_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        _open(tmp_path, Behaviour(on_run="segfault")).run({"x": X[0]})


def test_raise_and_memory_are_errors_of_python(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="told to raise"):
        _open(tmp_path, Behaviour(on_run="raise")).run({"x": X})
    with pytest.raises(MemoryError):
        _open(tmp_path, Behaviour(on_open="oom", oom_bytes=1))


def test_file_that_is_no_behaviour_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.fake"
    path.write_text('{"facter": 1}')
    package = file_package(path, SIGNATURE, backend="fake", format_id="fake")
    with pytest.raises(RuntimeLoadError, match="facter"):
        table.backend("fake").open(package, SessionOptions())
    with pytest.raises(RunoffError):
        table.backend("fake").read_signature("fake", path)


def test_segfault_ends_the_process(site: Path) -> None:
    code = f"from {MODULE} import _commit, Behaviour; _commit('segfault', Behaviour())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=site, check=False, stderr=subprocess.DEVNULL)
    assert ended.returncode == -signal.SIGSEGV
