"""Core ML packages: what is made is held against the signature, and is not said to run where it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from conformance.builders import NETS, build
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.errors import ExportError, RuntimeLoadError
from runoff.export.step import StepOptions, quiet, with_batch
from runoff.models.folder import Package, describe_tree
from runoff.models.formats import detect_format
from runoff.types import Precision, Signature, TensorSpec

# It loads ExecuTorch where that is installed, and ExecuTorch warns of itself.
with quiet():
    import coremltools

CONVERT = "runoff.export.coreml:from_torch_export"
CHECK = "runoff.export.coreml:check_package"


def _convert(tmp_path: Path, net: str, **how: object) -> Package:
    source = build(tmp_path, NETS[net], "torch-export")
    folder = tmp_path / f"{net}-coreml"
    folder.mkdir()
    options = StepOptions(**how)
    made = table.load(CONVERT)(source, folder, options)
    entry = msgspec.structs.replace(
        source.entry,
        id=folder.name,
        backend="coreml",
        format="mlpackage",
        files=describe_tree(tmp_path, folder, made.main_file),
        batch=options.batch,
        requires=made.requires,
    )
    return Package(tmp_path, entry, source.signature)


def _specification(package: Package) -> coremltools.proto.Model_pb2.Model:
    return coremltools.utils.load_spec(str(package.main_file.parent))


@pytest.mark.parametrize(("net", "batch"), [("mlp", "dynamic"), ("conv", 2), ("pooler", "dynamic")])
def test_specification_has_the_names_and_shapes_of_the_signature(tmp_path: Path, net: str, batch: object) -> None:
    package = _convert(tmp_path, net, batch=batch)
    description = _specification(package).description
    signature = NETS[net].signature
    assert [feature.name for feature in description.input] == [spec.name for spec in signature.inputs]
    assert [feature.name for feature in description.output] == [spec.name for spec in signature.outputs]
    first = description.input[0].type.multiArrayType
    if batch == "dynamic":
        assert first.shapeRange.sizeRanges[0].lowerBound == 1
    else:
        assert first.shape[0] == batch
    assert package.entry.requires == {"platform": "darwin", "specification": 8}
    assert detect_format(package.main_file.parent) == "mlpackage"


def test_fp16_program_has_smaller_weights(tmp_path: Path) -> None:
    full = _convert(tmp_path, "conv")
    (tmp_path / "half").mkdir()
    half = _convert(tmp_path / "half", "conv", precision=Precision.FP16)
    sizes = [next(file.bytes for file in package.entry.files if file.path.endswith(".bin")) for package in (full, half)]
    assert sizes[1] < sizes[0]


def test_fixed_batch_tells_its_signature(tmp_path: Path) -> None:
    package = _convert(tmp_path, "conv", batch=2)
    found = table.backend("coreml").read_signature("mlpackage", package.main_file.parent)
    assert found == with_batch(NETS["conv"].signature, 2)


def test_package_is_held_against_its_signature(tmp_path: Path) -> None:
    package = _convert(tmp_path, "conv")
    table.load(CHECK)(package)
    first = package.signature.inputs[0]
    for changed in (
        TensorSpec("picture", first.dtype, first.shape),
        TensorSpec(first.name, first.dtype, ("batch", 3, 16, 17)),
    ):
        other = Package(package.root, package.entry, Signature((changed,), package.signature.outputs))
        with pytest.raises(ExportError):
            table.load(CHECK)(other)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML predicts here")
def test_opening_elsewhere_says_that_it_needs_macos(tmp_path: Path) -> None:
    with pytest.raises(RuntimeLoadError, match="needs macOS"):
        table.backend("coreml").open(_convert(tmp_path, "mlp"), SessionOptions())


# What it leaves when it fails.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <finalize:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_what_coremltools_cannot_convert_gives_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="coremltools cannot convert"):
        _convert(tmp_path, "bert")
