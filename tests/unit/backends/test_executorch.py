from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest

from conformance.builders import NETS, STATIC_ROWS, build
from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.errors import FormatMismatch, RuntimeLoadError
from runoff.export.adopt import adopt
from runoff.models.dimensions import with_batch
from runoff.models.folder import Package
from runoff.types import Precision

NET = NETS["pooler"]
BACKEND = table.backend("executorch")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """ids: int64[2, 6] and weights: fp32[2, 6]."""
    return build(tmp_path_factory.mktemp("executorch"), NET, "executorch")


@pytest.fixture
def opened(package: Package) -> Iterator[ExitStack]:
    """Closes what a test opens."""
    with ExitStack() as stack:
        yield stack


def _open(stack: ExitStack, package: Package, num_threads: int | None) -> Session:
    session = BACKEND.open(package, SessionOptions(num_threads=num_threads))
    stack.callback(session.close)
    return session


@pytest.mark.parametrize("num_threads", [1, 2, 1])
def test_threads_are_those_asked_for_when_no_other_session_is_open(
    opened: ExitStack, package: Package, num_threads: int
) -> None:
    session = _open(opened, package, num_threads)
    assert session.facts["threads"] == num_threads
    inputs = NET.inputs(STATIC_ROWS)
    np.testing.assert_array_equal(session.run(inputs)["total"], inputs["ids"].sum(-1))


def test_other_number_of_threads_is_refused_while_a_session_is_open(opened: ExitStack, package: Package) -> None:
    first = _open(opened, package, 2)
    with pytest.raises(RuntimeLoadError, match="with 2 threads, not 1") as caught:
        BACKEND.open(package, SessionOptions(num_threads=1))
    assert "close the other sessions" in (caught.value.hint or "")
    assert _open(opened, package, None).facts["threads"] == 2
    opened.close()
    first.close()
    assert _open(opened, package, 1).facts["threads"] == 1


def test_session_that_did_not_open_holds_no_threads(opened: ExitStack, package: Package) -> None:
    entry = msgspec.structs.replace(package.entry, batch=5)
    for _ in range(2):
        with pytest.raises(RuntimeLoadError, match=r"int64\[2, 6\], .*the signature ids: int64\[5, 6\]"):
            BACKEND.open(Package(package.root, entry, with_batch(NET.signature, 5)), SessionOptions(num_threads=2))
    assert _open(opened, package, 1).facts["threads"] == 1


def test_runs_do_not_mix_when_threads_ignore_that_it_is_exclusive(opened: ExitStack, package: Package) -> None:
    session = _open(opened, package, 1)
    assert session.concurrency == "exclusive"
    batches = [NET.inputs(STATIC_ROWS, seed=seed) for seed in range(64)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(session.run, batches))
    for inputs, outputs in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(outputs["total"], inputs["ids"].sum(-1))


def test_precision_that_the_file_has_not_is_refused(package: Package) -> None:
    with pytest.raises(RuntimeLoadError, match="which is fp32, not bf16"):
        BACKEND.open(package, SessionOptions(precision=Precision.BF16))


def test_file_of_another_version_is_refused_with_the_meaning_of_the_code(package: Package, tmp_path: Path) -> None:
    content = bytearray(package.main_file.read_bytes())
    content[4:8] = b"ET99"
    broken = tmp_path / "model.pte"
    broken.write_bytes(content)
    with pytest.raises(FormatMismatch, match="damaged, or of a version that this runtime does not read"):
        BACKEND.read_signature("executorch", broken)


def test_bare_file_is_adopted_with_its_own_batch(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    folder = adopt(package.main_file)
    entry = folder.reference.entry
    assert (entry.id, entry.format, entry.batch) == ("executorch-fp32", "executorch", STATIC_ROWS)
    assert [str(spec) for spec in folder.manifest.signature.inputs] == ["input_0: int64[2, 6]", "input_1: fp32[2, 6]"]
    assert folder.manifest.golden is not None
