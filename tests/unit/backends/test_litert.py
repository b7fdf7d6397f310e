from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from conformance.builders import NETS, STATIC_ROWS, build
from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.errors import FormatMismatch, InputError, RuntimeLoadError
from runoff.export.adopt import adopt
from runoff.models.dimensions import with_batch
from runoff.models.folder import Package
from runoff.types import DType, Precision

NET = NETS["pooler"]
BACKEND = table.backend("litert")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """ids: int64[2, 6], which the file takes as int32, and weights: fp32[2, 6]."""
    return build(tmp_path_factory.mktemp("litert"), NET, "litert")


@pytest.fixture
def session(package: Package) -> Iterator[Session]:
    opened = BACKEND.open(package, SessionOptions(num_threads=1))
    yield opened
    opened.close()


def test_integers_are_refused_when_they_do_not_fit_32_bits(session: Session) -> None:
    inputs = NET.inputs(STATIC_ROWS)
    inputs["ids"][1, 2] = 2**31
    with pytest.raises(InputError, match="'ids' has numbers outside int32"):
        session.run(inputs)


def test_64_bit_outputs_have_the_dtype_of_the_signature(session: Session) -> None:
    inputs = NET.inputs(STATIC_ROWS)
    total = session.run(inputs)["total"]
    assert total.dtype == np.int64
    np.testing.assert_array_equal(total, inputs["ids"].sum(-1))


def test_runs_do_not_mix_when_threads_ignore_that_it_is_exclusive(session: Session) -> None:
    assert session.concurrency == "exclusive"
    batches = [NET.inputs(STATIC_ROWS, seed=seed) for seed in range(64)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(session.run, batches))
    for inputs, outputs in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(outputs["total"], inputs["ids"].sum(-1))


def test_file_for_another_batch_is_refused_when_it_is_opened(package: Package) -> None:
    entry = msgspec.structs.replace(package.entry, batch=5)
    with pytest.raises(RuntimeLoadError, match=r"\[2, 6\], the signature ids: int64\[5, 6\]"):
        BACKEND.open(Package(package.root, entry, with_batch(NET.signature, 5)), SessionOptions())


def test_dtype_that_would_lose_numbers_is_refused_when_it_is_opened(package: Package) -> None:
    inputs = tuple(
        msgspec.structs.replace(spec, dtype=DType.FP64) if spec.name == "weights" else spec
        for spec in package.signature.inputs
    )
    wrong = replace(package, signature=msgspec.structs.replace(package.signature, inputs=inputs))
    with pytest.raises(RuntimeLoadError, match="'weights' as float32, the signature weights: fp64"):
        BACKEND.open(wrong, SessionOptions())


def test_precision_that_the_file_has_not_is_refused(package: Package) -> None:
    with pytest.raises(RuntimeLoadError, match="which is fp32, not bf16"):
        BACKEND.open(package, SessionOptions(precision=Precision.BF16))


def test_delegate_that_cannot_be_loaded_is_refused(package: Package) -> None:
    options = SessionOptions(backend={"delegate": "libedgetpu.so.1", "delegate_options": {"device": "usb"}})
    with pytest.raises(RuntimeLoadError, match=r"cannot load the delegate libedgetpu\.so\.1") as caught:
        BACKEND.open(package, options)
    assert "driver" in (caught.value.hint or "")


def test_bare_file_is_adopted_with_its_own_names_and_batch(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    folder = adopt(package.main_file)
    entry = folder.reference.entry
    assert (entry.id, entry.format, entry.batch) == ("litert-fp32", "litert", STATIC_ROWS)
    assert [str(spec) for spec in folder.manifest.signature.inputs] == ["ids: int32[2, 6]", "weights: fp32[2, 6]"]
    assert folder.manifest.golden is not None


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_file_is_no_model_when_it_is_read(package: Package, tmp_path: Path, share: float) -> None:
    content = package.main_file.read_bytes()
    broken = tmp_path / "model.tflite"
    broken.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FormatMismatch, match="LiteRT cannot read"):
        BACKEND.read_signature("litert", broken)


def test_opening_needs_no_converter_and_no_torch(package: Package) -> None:
    code = (
        "import sys; from ai_edge_litert.interpreter import Interpreter; import runoff.backends.litert\n"
        "sys.exit(str({'torch', 'litert_torch', 'jax'} & set(sys.modules) or '') or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
