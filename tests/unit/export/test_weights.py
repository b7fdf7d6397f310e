"""Where weights lie, counted from headers: the formats agree about the same model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

import runoff
from fakes.networks import ConvNet, Mlp
from meta.repository import ROOT
from runoff.export.weights import Weights, count_weights
from runoff.models.folder import Package, describe_tree, read_folder
from runoff.models.manifest import PackageEntry
from runoff.types import Precision, Signature


def test_archive_and_graph_of_the_example_agree() -> None:
    folder = read_folder(ROOT / "examples" / "digits")
    archive, graph = (count_weights(folder.package(name)) for name in ("torch-fp32", "onnx-fp32"))
    assert archive == graph
    assert archive is not None and 0.3 < (archive.linear_share or 0) < 0.5


def test_linear_and_convolutional_modules_are_told_apart(tmp_path: Path) -> None:
    mlp = runoff.package(Mlp(), torch.ones(2, 4), tmp_path / "mlp").reference
    net = runoff.package(ConvNet(), (torch.ones(2, 1, 8, 8), torch.ones(2, 1)), tmp_path / "net").reference
    assert count_weights(mlp) == Weights(4 * 8 + 8 * 3, 0)
    assert count_weights(net) == Weights(4 * 36 * 10, 4 * 9)


def test_safetensors_header_is_enough_and_tables_are_left_out(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "embeddings.weight": {"dtype": "F32", "shape": [1000, 8], "data_offsets": [0, 0]},
        "layer.weight": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 0]},
        "layer.bias": {"dtype": "F32", "shape": [4], "data_offsets": [0, 0]},
    }
    package = _packaged(tmp_path, msgspec.json.encode(header))
    assert count_weights(package) == Weights(32, 0)


def test_broken_header_is_no_fact(tmp_path: Path) -> None:
    assert count_weights(_packaged(tmp_path, b"{", length=2**50)) is None
    assert count_weights(_packaged(tmp_path, b"nonsense")) is None


def _packaged(root: Path, header: bytes, length: int | None = None) -> Package:
    data = (len(header) if length is None else length).to_bytes(8, "little") + header
    (root / "model.safetensors").write_bytes(data)
    files = describe_tree(root, root, "model.safetensors")
    return Package(root, PackageEntry("hf-fp32", "hf", "hf", Precision.FP32, files), Signature((), ()))
