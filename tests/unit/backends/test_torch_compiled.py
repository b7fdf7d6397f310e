"""The ahead-of-time forms of PyTorch: what they refuse, and that machine code from elsewhere is not run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from conformance.builders import NETS, build
from fakes.packages import file_package, spec
from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.errors import ExportError, FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.export.step import StepOptions
from runoff.models.folder import Package, describe_tree, read_folder
from runoff.types import Device, Precision, Signature

DIGITS = Path(__file__).parents[3] / "examples" / "digits"
MLP = NETS["mlp"]
X = {"x": np.ones((3, 8), np.float32)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(cache))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def compiled(models: Path, own_cache: None) -> Package:
    """The MLP compiled for three rows."""
    source = build(models, MLP, "torch-export")
    folder = models / "aoti-b3"
    if not folder.exists():
        folder.mkdir()
        table.load("runoff.export.aoti:from_torch_export")(source, folder, StepOptions(batch=3))
    entry = msgspec.structs.replace(
        source.entry, id="torch-aoti-fp32-b3", format="aoti", files=describe_tree(models, folder), batch=3
    )
    return Package(models, entry, MLP.signature)


def _open(package: Package, **options: object) -> Session:
    return table.backend("torch").open(package, SessionOptions(**options))


def _requiring(package: Package, **requires: str) -> Package:
    return Package(package.root, msgspec.structs.replace(package.entry, requires=requires), package.signature)


def test_compiled_batch_is_the_only_one_that_runs(compiled: Package) -> None:
    with _open(compiled) as session:
        np.testing.assert_allclose(session.run(X)["y"], MLP.reference(X)["y"], rtol=1e-5, atol=1e-6)
        with pytest.raises(RuntimeRunError, match=r"has 2 where .* takes 3 for 'batch'"):
            session.run({"x": X["x"][:2]})


def test_inputs_may_be_strided_and_read_only(compiled: Package) -> None:
    array = np.asfortranarray(np.random.default_rng(0).standard_normal((3, 8), np.float32))
    array.setflags(write=False)
    with _open(compiled) as session:
        np.testing.assert_allclose(
            session.run({"x": array})["y"], MLP.reference({"x": array})["y"], rtol=1e-4, atol=1e-6
        )


def test_machine_code_from_elsewhere_is_refused_until_it_is_trusted(
    compiled: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "of another machine"))
    with pytest.raises(RuntimeLoadError, match="not compiled on this machine") as caught:
        _open(compiled)
    assert "RUNOFF_TRUST_COMPILED=1" in str(caught.value.hint)
    monkeypatch.setenv("RUNOFF_TRUST_COMPILED", "1")
    _open(compiled).close()


def test_machine_code_that_was_changed_is_refused(compiled: Package, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(compiled.main_file.read_bytes() + b"\0")
    with pytest.raises(RuntimeLoadError, match="not compiled on this machine"):
        _open(file_package(path, MLP.signature, backend="torch", format_id="aoti"))


@pytest.mark.parametrize(("name", "value"), [("torch", "1.0"), ("machine", "riscv64"), ("cpu_capability", "AVX9000")])
def test_package_for_another_machine_is_refused_with_what_differs(compiled: Package, name: str, value: str) -> None:
    with pytest.raises(RuntimeLoadError, match=f"compiled for {name} {value}, here it is"):
        _open(_requiring(compiled, **{name: value}))


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="this processor has no AVX-512 to be without"
)
def test_lesser_vector_units_are_no_hindrance(compiled: Package) -> None:
    _open(_requiring(compiled, cpu_capability="AVX2")).close()


def test_precision_and_options_of_a_compiled_package_are_fixed(compiled: Package) -> None:
    for options in ({"precision": Precision.BF16}, {"backend": {"compile": True}}):
        with pytest.raises(RuntimeLoadError, match="runs as it was made"):
            _open(compiled, **options)
    with pytest.raises(RuntimeLoadError):
        _open(compiled, device=Device("cuda", 7))


def test_forms_made_elsewhere_do_not_tell_their_signature(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2).eval(), torch.ones(1, 2)), tmp_path / "m.pt")
    with pytest.raises(FormatMismatch, match="does not say which shapes"):
        table.backend("torch").read_signature("torchscript", tmp_path / "m.pt")
    (tmp_path / "m.pt2").write_bytes(b"no archive")
    with pytest.raises(FormatMismatch, match="no AOTInductor package"):
        table.backend("torch").read_signature("aoti", tmp_path / "m.pt2")


def test_torchscript_from_elsewhere_runs_with_the_signature_of_its_manifest(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 3).eval()
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.script(module), tmp_path / "m.pt")
    signature = Signature((spec("x", "batch", 2),), (spec("y", "batch", 3),))
    package = file_package(tmp_path / "m.pt", signature, backend="torch", format_id="torchscript")
    rows = np.ones((4, 2), np.float32)
    with _open(package) as session:
        assert session.concurrency == "exclusive"
        np.testing.assert_allclose(session.run({"x": rows})["y"], module(torch.tensor(rows)).detach(), rtol=1e-6)


def test_damaged_torchscript_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"PK\x03\x04 and no more")
    package = file_package(tmp_path / "m.pt", MLP.signature, backend="torch", format_id="torchscript")
    with pytest.raises(RuntimeLoadError, match="cannot load package"):
        _open(package)


def test_compiling_without_a_compiler_gives_the_reason(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = build(models, MLP, "torch-export")
    compile_package = table.load("runoff.export.aoti:from_torch_export")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(ExportError, match=r"needs a C\+\+ compiler") as caught:
        compile_package(source, tmp_path, StepOptions())
    assert "g++" in str(caught.value.hint)


def test_tracing_sizes_of_a_dynamic_batch_gives_the_reason(tmp_path: Path) -> None:
    source = read_folder(DIGITS).reference
    trace = table.load("runoff.export.torchscript:from_torch_export")
    with pytest.raises(ExportError, match="cannot capture") as caught:
        trace(source, tmp_path, StepOptions())
    assert "batch=N" in str(caught.value.hint)
    assert trace(source, tmp_path, StepOptions(batch=2)).main_file == "model.pt"
