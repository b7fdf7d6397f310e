"""A model folder that ONNX Runtime and OpenVINO open from one small file, written without exporting anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import helper

from fakes.packages import write_onnx
from runoff.models.folder import ModelFolder, create_folder, describe_file
from runoff.models.manifest import Manifest, PackageEntry
from runoff.types import DType, Precision, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", DType.FP32, ("batch", 4)),),
    (TensorSpec("y", DType.FP32, ("batch", 3)),),
)
WEIGHTS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
BACKENDS = ("onnx", "openvino")


def make_tiny_onnx(root: Path, name: str = "tiny", backends: Sequence[str] = BACKENDS) -> ModelFolder:
    """x: fp32[batch, 4] -> y = x @ WEIGHTS: fp32[batch, 3], with the packages `onnx-fp32` and `openvino-fp32`."""

    def fill(aside: Path) -> Manifest:
        entries = []
        for backend in backends:
            place = aside / "packages" / f"{backend}-fp32"
            place.mkdir(parents=True)
            write_tiny_onnx(place / "model.onnx", doc=backend)
            file = describe_file(aside, f"packages/{backend}-fp32/model.onnx")
            entries.append(PackageEntry(f"{backend}-fp32", backend, "onnx", Precision.FP32, (file,)))
        return Manifest(1, name, "onnx-fp32", SIGNATURE, tuple(entries))

    return create_folder(root, fill)


def write_tiny_onnx(path: Path, doc: str = "") -> Path:
    """The file alone; `doc` makes it another file that computes the same."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], doc_string=doc)
    return write_onnx(path, [node], SIGNATURE, {"w": WEIGHTS})


def expected(x: np.ndarray) -> np.ndarray:
    return x @ WEIGHTS
