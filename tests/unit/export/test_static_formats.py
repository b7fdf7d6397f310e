"""Exports to formats that are made for one size of every dimension: LiteRT and ExecuTorch."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

import runoff
from conformance.builders import NETS
from fakes.networks import ConvNet
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.errors import ExportError, InputError
from runoff.export.packaging import PackagingOptions
from runoff.export.run import ExportOptions, batch_of, export_package
from runoff.models.arrays import Arrays
from runoff.models.folder import ModelFolder, Package
from runoff.models.samples import generate_inputs
from runoff.types import Precision

FP32, INT8 = Precision.FP32, Precision.INT8
FORMATS = ("litert", "executorch")
SEQUENCE = 12


class Sorter(torch.nn.Module):
    """x: fp32[batch, 4] -> y: fp32[batch, 1]: an eigenvalue, for which neither format has an operator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(x[:, :, None] * x[:, None, :])[:, -1:]


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    torch.manual_seed(0)
    example = {"image": torch.randn(2, 1, 8, 8), "scale": torch.ones(2, 1)}
    root = tmp_path_factory.mktemp("models") / "conv"
    return runoff.package(ConvNet(), example, root, options=PackagingOptions(outputs=["logits", "features"]))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A tiny BERT whose batch and sequence are dynamic."""
    net = NETS["bert"]
    options = PackagingOptions(dynamic={spec.name: {1: "sequence"} for spec in net.signature.inputs})
    inputs = {name: torch.tensor(array) for name, array in net.inputs(2).items()}
    return runoff.package(net.module(), inputs, tmp_path_factory.mktemp("models") / "bert", options=options)


def _run(package: Package, inputs: Arrays) -> Arrays:
    with ExitStack() as stack:
        session = table.backend(package.entry.backend).open(package, SessionOptions())
        stack.callback(session.close)
        return session.run(inputs)


@pytest.mark.parametrize("format_id", FORMATS)
def test_batch_is_1_when_nobody_says_and_never_dynamic(conv: ModelFolder, format_id: str) -> None:
    assert batch_of(conv, format_id, None) == 1
    assert batch_of(conv, "onnx", None) == "dynamic"
    with pytest.raises(ExportError, match="one batch size each"):
        export_package(conv, format_id, FP32, ExportOptions(batch="dynamic"))


@pytest.mark.parametrize(("format_id", "precision", "tolerance"), [("litert", INT8, 4e-2), ("executorch", INT8, 4e-2)])
def test_int8_is_close_to_the_reference_and_says_what_made_it(
    conv: ModelFolder, format_id: str, precision: Precision, tolerance: float
) -> None:
    folder = export_package(conv, format_id, precision, ExportOptions(batch=3))
    package = folder.package(f"{format_id}-int8-b3")
    assert (package.entry.batch, package.entry.precision) == (3, INT8)
    inputs = generate_inputs(conv.manifest.signature, rows=3, seed=3)
    expected, found = _run(folder.reference, inputs), _run(package, inputs)
    for name, array in expected.items():
        assert np.abs(found[name] - array).max() <= tolerance * np.abs(array).max()
    made_by = package.entry.made_by
    assert made_by is not None
    if format_id == "litert":
        assert made_by.source == "litert-fp32-b3"
        sizes = [folder.package(f"litert-{kind}-b3").entry.files[0].bytes for kind in ("int8", "fp32")]
        assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize("format_id", FORMATS)
def test_every_dimension_is_fixed_and_said_when_a_model_has_more_than_the_batch(
    text: ModelFolder, format_id: str
) -> None:
    folder = export_package(text, format_id, FP32, ExportOptions(sizes={"sequence": SEQUENCE}))
    package = folder.package(f"{format_id}-fp32-b1")
    assert package.entry.requires == {"sizes": {"sequence": SEQUENCE}}
    assert {spec.shape for spec in package.signature.inputs} == {(1, SEQUENCE)}
    inputs = generate_inputs(package.signature, rows=1, seed=1, limits={"input_ids": 30, "attention_mask": 2})
    expected = _run(folder.reference, inputs)["logits"]
    np.testing.assert_allclose(_run(package, inputs)["logits"], expected, atol=1e-5)
    longer = {name: np.repeat(array, 2, axis=1) for name, array in inputs.items()}
    with pytest.raises(InputError, match=f"axis 1 must be {SEQUENCE}"):
        _run(package, longer)


@pytest.mark.parametrize("format_id", FORMATS)
def test_reason_is_given_when_a_converter_has_no_such_operator(tmp_path: Path, format_id: str) -> None:
    folder = runoff.package(Sorter(), torch.randn(2, 4), tmp_path / "m")
    with pytest.raises(ExportError, match=rf"torch-fp32 to {format_id}-fp32-b1: .*(cannot|has)") as caught:
        export_package(folder, format_id, FP32)
    assert caught.value.hint


def test_converter_is_stopped_when_it_takes_too_long(conv: ModelFolder) -> None:
    with pytest.raises(ExportError, match="the converter hung: no answer to 'export' within 1 s"):
        export_package(conv, "litert", FP32, ExportOptions(batch=7, timeout_s=1.0))


def test_converter_is_stopped_when_it_takes_too_much_memory(conv: ModelFolder) -> None:
    with pytest.raises(ExportError, match=r"used \d+ MiB of memory, more than 250"):
        export_package(conv, "executorch", FP32, ExportOptions(batch=7, max_memory_bytes=250 << 20))


def test_int8_is_refused_when_nothing_can_be_stored_in_it(tmp_path: Path) -> None:
    folder = runoff.package(torch.nn.ReLU(), torch.randn(2, 4), tmp_path / "m")
    with pytest.raises(ExportError, match="no linear layers to store in int8"):
        export_package(folder, "executorch", INT8)
    with pytest.raises(ExportError, match="litert-fp32-b1 to litert-int8-b1: ") as caught:
        export_package(folder, "litert", INT8)
    assert "int8" in caught.value.message
