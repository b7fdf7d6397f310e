"""Engines of the conformance networks, built by Runoff's own step on the GPU of this machine."""

from __future__ import annotations

from pathlib import Path

from conformance.builders import Net, build
from runoff.backends import table
from runoff.backends.engine import read_note
from runoff.export.step import StepOptions
from runoff.models.dimensions import signature_of
from runoff.models.folder import Package, describe_tree
from runoff.models.manifest import Batch, PackageEntry
from runoff.types import Precision


def build_engine(root: Path, net: Net, precision: Precision = Precision.FP32, *, batch: Batch = "dynamic") -> Package:
    """An engine of the network's ONNX form, built once for each precision and batch."""
    folder = root / f"{net.name}-trt-{precision}-{batch}"
    if not folder.exists():
        source = build(root, net, "onnx")
        folder.mkdir(parents=True)
        table.load("runoff.export.trt:from_onnx")(source, folder, StepOptions(precision, batch))
    note = read_note(folder / "model.engine")
    files = describe_tree(root, folder, "model.engine")
    entry = PackageEntry(folder.name, "trt", "trt", precision, files, batch, note.requires if note else {})
    return Package(root, entry, signature_of(entry, net.signature))
