"""Packages around single files, and ONNX graphs written node by node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from runoff.models.folder import Package, describe_file
from runoff.models.manifest import PackageEntry
from runoff.types import Dim, DType, Precision, Signature, TensorSpec

_ELEMENT_TYPES = {
    DType.FP64: TensorProto.DOUBLE,
    DType.FP32: TensorProto.FLOAT,
    DType.FP16: TensorProto.FLOAT16,
    DType.BF16: TensorProto.BFLOAT16,
    DType.INT64: TensorProto.INT64,
    DType.BOOL: TensorProto.BOOL,
    DType.STRING: TensorProto.STRING,
}
_OPSET = 20
_IR_VERSION = 10


def spec(name: str, *shape: Dim, dtype: DType = DType.FP32) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def file_package(
    path: Path,
    signature: Signature,
    *,
    backend: str,
    format_id: str,
    precision: Precision = Precision.FP32,
    requires: dict[str, Any] | None = None,
) -> Package:
    """A package whose one file is `path`."""
    root = path.parent
    files = (describe_file(root, path.name),)
    entry = PackageEntry("under-test", backend, format_id, precision, files, requires=requires or {})
    return Package(root, entry, signature)


def write_onnx(
    path: Path, nodes: Sequence[onnx.NodeProto], signature: Signature, constants: dict[str, Any] | None = None
) -> Path:
    """Write a graph with the inputs and outputs of a signature; constants are arrays or ready TensorProtos."""
    initializers = [
        value if isinstance(value, TensorProto) else onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in (constants or {}).items()
    ]
    sides = [
        [helper.make_tensor_value_info(part.name, _ELEMENT_TYPES[part.dtype], list(part.shape)) for part in specs]
        for specs in (signature.inputs, signature.outputs)
    ]
    graph = helper.make_graph(list(nodes), "graph", sides[0], sides[1], initializers)
    opsets = [helper.make_opsetid("", _OPSET)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString())
    return path
