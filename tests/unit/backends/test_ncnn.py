"""The ncnn backend and its exporter: rows, integers, what is refused and why."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from conformance.builders import NETS, build
from fakes.packages import file_package, spec
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.errors import ExportError, FormatMismatch, RuntimeLoadError
from runoff.export.step import StepOptions
from runoff.models.dimensions import signature_of
from runoff.models.folder import Package, describe_tree
from runoff.models.manifest import Batch
from runoff.types import DType, Precision, Signature

CONVERT = "runoff.export.ncnn:from_torch_export"


class Lookup(torch.nn.Module):
    """ids: int64[batch, 6] -> y: fp32[batch, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 12)
        self.head = torch.nn.Linear(12, 5)

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.head(self.embedding(ids).mean(1))}


def _source(folder: Path, module: torch.nn.Module, example: torch.Tensor, signature: Signature) -> Package:
    folder.mkdir(exist_ok=True)
    dynamic = {0: torch.export.Dim.DYNAMIC} if isinstance(signature.inputs[0].shape[0], str) else None
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=(dynamic,))
    torch.export.save(program, folder / "model.pt2")
    return file_package(folder / "model.pt2", signature, backend="torch", format_id="torch-export")


def _convert(source: Package, folder: Path, batch: Batch = "dynamic") -> Package:
    folder.mkdir()
    made = table.load(CONVERT)(source, folder, StepOptions(batch=batch))
    files = describe_tree(folder.parent, folder, made.main_file)
    changes = {"id": "ncnn-fp32", "backend": "ncnn", "format": "ncnn", "files": files, "batch": batch}
    entry = msgspec.structs.replace(source.entry, **changes)
    return Package(folder.parent, entry, signature_of(entry, source.signature))


def test_integers_pass_as_32_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Lookup()
    signature = Signature((spec("ids", "batch", 6, dtype=DType.INT64),), (spec("y", "batch", 5),))
    ids = np.arange(24).reshape(4, 6) % 20
    package = _convert(_source(tmp_path / "source", module, torch.tensor(ids), signature), tmp_path / "ncnn")
    assert sorted(path.name for path in package.main_file.parent.iterdir()) == [
        "model.bin",
        "model.param",
        "signature.json",
    ]
    with table.backend("ncnn").open(package, SessionOptions()) as session:
        expected = module(torch.tensor(ids))["y"].detach().numpy()
        # ncnn stores the table of an embedding in 16 bits of mantissa at best; the rest is fp32.
        np.testing.assert_allclose(session.run({"ids": ids})["y"], expected, rtol=1e-3, atol=1e-3)


def test_package_for_one_batch_opens_with_its_own_signature(tmp_path: Path) -> None:
    signature = Signature((spec("ids", "batch", 6, dtype=DType.INT64),), (spec("y", "batch", 5),))
    ids = np.arange(12).reshape(2, 6)
    package = _convert(_source(tmp_path / "source", Lookup(), torch.tensor(ids), signature), tmp_path / "ncnn", 2)
    with table.backend("ncnn").open(package, SessionOptions()) as session:
        assert session.run({"ids": ids})["y"].shape == (2, 5)


def test_first_layer_that_works_in_place_leaves_the_input_alone(tmp_path: Path) -> None:
    class Positive(torch.nn.Module):
        def forward(self, a: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": torch.relu(a)}

    signature = Signature((spec("a", "batch", 4),), (spec("y", "batch", 4),))
    package = _convert(_source(tmp_path / "source", Positive(), torch.ones(3, 4), signature), tmp_path / "ncnn")
    with table.backend("ncnn").open(package, SessionOptions()) as session:
        rows = np.array([[-1, 2, -3, 4]] * 3, np.float32)
        np.testing.assert_array_equal(session.run({"a": rows})["y"], [[0, 2, 0, 4]] * 3)
        assert rows.min() == -3


def test_other_precision_and_other_signature_are_refused(tmp_path: Path) -> None:
    package = _convert(build(tmp_path, NETS["mlp"], "torch-export"), tmp_path / "ncnn")
    with pytest.raises(RuntimeLoadError, match="computes in fp32, not in bf16"):
        table.backend("ncnn").open(package, SessionOptions(precision=Precision.BF16))
    other = Package(package.root, package.entry, Signature(package.signature.inputs, (spec("y", "batch", 5),)))
    with pytest.raises(RuntimeLoadError, match="another signature"):
        table.backend("ncnn").open(other, SessionOptions())


def test_what_ncnn_cannot_take_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no output of dtype int64, which 'total'"):
        _convert(build(tmp_path, NETS["pooler"], "torch-export"), tmp_path / "pooler")
    fixed = Signature((spec("x", 3, 8),), (spec("y", 3, 4),))
    source = _source(tmp_path / "fixed", NETS["mlp"].module(), torch.ones(3, 8), fixed)
    with pytest.raises(ExportError, match="no row of a batch"):
        _convert(source, tmp_path / "three")
    varying = Signature((spec("x", "batch", "width"),), (spec("y", "batch", 4),))
    with pytest.raises(ExportError, match="varies in width"):
        _convert(Package(source.root, source.entry, varying), tmp_path / "varying")


def test_operator_without_a_layer_is_named(tmp_path: Path) -> None:
    class Inverse(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": torch.cumprod(x, dim=1)}

    signature = Signature((spec("x", "batch", 4),), (spec("y", "batch", 4),))
    with pytest.raises(ExportError, match=r"ncnn has no layer for .*cumprod"):
        _convert(_source(tmp_path / "source", Inverse(), torch.ones(3, 4), signature), tmp_path / "ncnn")


def test_network_without_a_signature_does_not_tell_its_shapes(tmp_path: Path) -> None:
    (tmp_path / "m.param").write_text("7767517\n0 0\n")
    with pytest.raises(FormatMismatch, match="which shapes it takes"):
        table.backend("ncnn").read_signature("ncnn", tmp_path / "m.param")
