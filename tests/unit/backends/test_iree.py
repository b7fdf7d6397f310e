"""The IREE backend and its exporter: what it answers, and that machine code is opened only where it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper

pytest.importorskip("iree.compiler", reason="IREE is not installed: pip install 'runoff[iree]'")

from conformance.builders import NETS, build
from fakes.packages import file_package, spec, write_onnx
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.errors import ExportError, FormatMismatch, RunoffError, RuntimeLoadError
from runoff.export.adopt import adopt
from runoff.export.step import StepOptions
from runoff.models.dimensions import signature_of
from runoff.models.folder import Package, describe_tree
from runoff.models.formats import detect_format
from runoff.models.manifest import Batch
from runoff.types import Precision, Signature

BACKEND = table.backend("iree")
CONVERT = "runoff.export.iree:from_onnx"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))


def _convert(source: Package, folder: Path, batch: Batch = "dynamic") -> Package:
    folder.mkdir()
    made = table.load(CONVERT)(source, folder, StepOptions(batch=batch))
    files = describe_tree(folder.parent, folder, made.main_file)
    changes = {"id": "iree-fp32", "backend": "iree", "format": "iree", "files": files, "batch": batch}
    entry = msgspec.structs.replace(source.entry, **changes, requires=made.requires)
    return Package(folder.parent, entry, signature_of(entry, source.signature))


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return _convert(build(tmp_path, NETS["mlp"], "onnx"), tmp_path / "iree")


def _requiring(package: Package, **changes: Any) -> Package:
    entry = msgspec.structs.replace(package.entry, requires={**package.entry.requires, **changes})
    return Package(package.root, entry, package.signature)


def test_module_for_one_batch_answers_like_the_network(tmp_path: Path) -> None:
    net = NETS["conv"]
    package = _convert(build(tmp_path, net, "onnx"), tmp_path / "iree", 3)
    inputs = net.inputs(3)
    with BACKEND.open(package, SessionOptions()) as session:
        found = session.run(inputs)
    assert session.signature.inputs[0].shape[0] == 3
    for name, expected in net.reference(inputs).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def test_what_the_code_needs_of_the_machine_is_recorded(package: Package) -> None:
    requires = package.entry.requires
    assert sorted(requires) == ["iree", "isa", "machine"]
    assert sorted(path.name for path in package.main_file.parent.iterdir()) == ["model.vmfb", "signature.json"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iree": "2.9"}, r"compiled for iree 2\.9, here it is 3"),
        ({"machine": "riscv64"}, "compiled for machine riscv64"),
        ({"isa": ["avx2", "sme"]}, "a processor with .*sme"),
    ],
)
def test_code_for_another_machine_is_refused_before_it_is_loaded(
    package: Package, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(RuntimeLoadError, match=why) as caught:
        BACKEND.open(_requiring(package, **changes), SessionOptions())
    assert "runoff export --to iree" in (caught.value.hint or "")


def test_code_that_was_not_compiled_here_is_refused_unless_trusted(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "of another machine"))
    with pytest.raises(RuntimeLoadError, match="machine code that was not compiled on this machine"):
        BACKEND.open(package, SessionOptions())
    monkeypatch.setenv("RUNOFF_TRUST_COMPILED", "1")
    with BACKEND.open(package, SessionOptions()) as session:
        assert session.run(NETS["mlp"].inputs(2))["y"].shape == (2, 4)


@pytest.mark.parametrize("share", [0.2, 0.7, 0.95])
def test_truncated_module_is_refused(package: Package, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setenv("RUNOFF_TRUST_COMPILED", "1")
    content = package.main_file.read_bytes()
    package.main_file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(RunoffError) as caught:
        BACKEND.open(package, SessionOptions())
    assert caught.value.hint
    with pytest.raises(FormatMismatch, match="is not an IREE module"):
        detect_format(package.main_file)


def test_other_precision_and_other_signature_are_refused(package: Package) -> None:
    with pytest.raises(RuntimeLoadError, match="computes in fp32, not in bf16"):
        BACKEND.open(package, SessionOptions(precision=Precision.BF16))
    other = Package(package.root, package.entry, Signature(package.signature.inputs, (spec("y", "batch", 5),)))
    with pytest.raises(RuntimeLoadError, match="another signature"):
        BACKEND.open(other, SessionOptions())


def test_sessions_with_several_threads_share_one_pool(package: Package) -> None:
    with BACKEND.open(package, SessionOptions(num_threads=2)):
        with pytest.raises(RuntimeLoadError, match="one pool of threads"):
            BACKEND.open(package, SessionOptions(num_threads=3))
        BACKEND.open(package, SessionOptions(num_threads=1)).close()
        BACKEND.open(package, SessionOptions(num_threads=2)).close()
    with BACKEND.open(package, SessionOptions(num_threads=3)) as session:
        assert session.facts["threads"] == 3


def test_bare_module_is_adopted_with_the_signature_beside_it(package: Package) -> None:
    folder = adopt(package.main_file)
    assert (folder.reference.entry.id, folder.manifest.signature) == ("iree-fp32", package.signature)
    (package.main_file.parent / "signature.json").unlink()
    with pytest.raises(FormatMismatch, match="what its inputs are called"):
        adopt(package.main_file)


@pytest.mark.parametrize(
    ("operator", "shape", "why"),
    [
        ("StringConcat", (4,), r"cannot compile under-test: .*onnx\.StringConcat"),
        ("Gradient", (4,), "cannot import under-test: .*No Op registered for Gradient"),
    ],
)
def test_operator_without_a_lowering_is_named(tmp_path: Path, operator: str, shape: tuple[int, ...], why: str) -> None:
    signature = Signature((spec("x", *shape), spec("z", *shape)), (spec("y", *shape),))
    path = write_onnx(tmp_path / "m.onnx", [helper.make_node(operator, ["x", "z"], ["y"])], signature)
    source = file_package(path, signature, backend="onnx", format_id="onnx")
    with pytest.raises(ExportError, match=why):
        _convert(source, tmp_path / "iree")


def test_compiler_that_crashes_is_a_reason(tmp_path: Path) -> None:
    """iree-compile 3.13 ends with a segmentation fault on Unique, whose result has no known size."""
    signature = Signature((spec("x", 4),), (spec("y", "n"),))
    path = write_onnx(tmp_path / "m.onnx", [helper.make_node("Unique", ["x"], ["y"])], signature)
    source = file_package(path, signature, backend="onnx", format_id="onnx")
    with pytest.raises(ExportError, match=r"IREE cannot compile under-test: .*signal 11"):
        _convert(source, tmp_path / "iree")
