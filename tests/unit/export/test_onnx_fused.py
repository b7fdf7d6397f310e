"""Fusing a Transformers model for ONNX Runtime: what is fused, and the reason where nothing is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers

from conformance.builders import NETS, build
from fakes.packages import spec
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.errors import ExportError
from runoff.export.step import StepOptions
from runoff.models.folder import Package, describe_tree
from runoff.models.manifest import PackageEntry
from runoff.types import Precision, Signature

FUSE = "runoff.export.onnx_fused:from_hf"


def _fuse(source: Package, folder: Path, **how: object) -> Package:
    folder.mkdir()
    made = table.load(FUSE)(source, folder, StepOptions(**how))
    assert [path.name for path in folder.iterdir()] == [made.main_file]
    files = describe_tree(folder.parent, folder)
    entry = PackageEntry(folder.name, "onnx", "onnx-fused", Precision.FP32, files, made_by=None, requires=made.details)
    return Package(folder.parent, entry, source.signature)


def test_attention_is_fused_and_counted(tmp_path: Path) -> None:
    package = _fuse(build(tmp_path, NETS["bert"], "hf"), tmp_path / "fused")
    assert package.entry.requires["fused"]["Attention"] == 2
    assert all(package.entry.requires["fused"].values())


def test_mask_with_padding_in_front_and_holes_is_kept(tmp_path: Path) -> None:
    net = NETS["bert"]
    package = _fuse(build(tmp_path, net, "hf"), tmp_path / "fused")
    inputs = net.inputs(3)
    inputs["attention_mask"][:] = [[0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 0, 0]]
    with table.backend("onnx").open(package, SessionOptions()) as session:
        np.testing.assert_allclose(session.run(inputs)["logits"], net.reference(inputs)["logits"], rtol=1e-4, atol=1e-7)


def test_model_without_known_patterns_gives_the_reason(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=2)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    files = describe_tree(tmp_path, tmp_path / "resnet", "config.json")
    signature = Signature((spec("pixel_values", "batch", 3, 32, 32),), (spec("logits", "batch", 2),))
    source = Package(tmp_path, PackageEntry("hf-fp32", "hf", "hf", Precision.FP32, files), signature)
    with pytest.raises(ExportError, match="nothing in hf-fp32 can be fused"):
        _fuse(source, tmp_path / "fused")
