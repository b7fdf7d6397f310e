"""To `tfjs`: a graph model of TensorFlow.js from an .onnx file, and a page that runs it.

Runs in the export worker. Knows no plan. Operators are translated one by one, see tfjs_ops.py; one that is not in that
table is named. Before that ONNX Runtime computes what is constant and folds what it can into its neighbours.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from runoff.environment.javascript import installed_packages, pinned_version
from runoff.errors import ExportError
from runoff.export.pages import MAIN_FILE, check_page, write_page
from runoff.export.step import Made, StepOptions, quiet, with_batch
from runoff.export.tfjs_graph import MODEL_FILE, Graph
from runoff.export.tfjs_ops import OPERATORS
from runoff.export.tfjs_values import Call, Nhwc, Value, Values
from runoff.models.arrays import Array
from runoff.models.folder import Package
from runoff.types import Signature

_PACKAGES = "tfjs"
_SUBGRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_FIXED_OPERATORS = {"Constant"}
_RUNTIME = {
    "tf-core.js": "tfjs-core/dist/tf-core.min.js",
    "tf-converter.js": "tfjs-converter/dist/tf-converter.min.js",
    "tf-backend-cpu.js": "tfjs-backend-cpu/dist/tf-backend-cpu.min.js",
    "tf-backend-wasm.js": "tfjs-backend-wasm/dist/tf-backend-wasm.min.js",
    "tf-backend-webgl.js": "tfjs-backend-webgl/dist/tf-backend-webgl.min.js",
    "tfjs-backend-wasm.wasm": "tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm",
    "tfjs-backend-wasm-simd.wasm": "tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm",
    "tfjs-backend-wasm-threaded-simd.wasm": "tfjs-backend-wasm/dist/tfjs-backend-wasm-threaded-simd.wasm",
}


def from_onnx(source: Package, destination: Path, options: StepOptions) -> Made:
    """Translate an .onnx model, put its page beside it, and check both in Node.js and in Chromium.

    Raises:
        BackendNotInstalled: Node.js or the pinned packages are missing.
        ExportError: an operator has no translation, or the result does not compute what the reference does.
    """
    folder = installed_packages(_PACKAGES) / "@tensorflow"
    version = pinned_version(_PACKAGES, "@tensorflow/tfjs-core")
    convert(_simplified(source), with_batch(source.signature, options.batch), destination)
    sample = write_page(
        source,
        destination,
        options,
        {name: folder / file for name, file in _RUNTIME.items()},
        runtime=_PACKAGES,
        version=version,
        model=MODEL_FILE,
        external=tuple(sorted(path.name for path in destination.glob("group1-*.bin"))),
        providers=("wasm", "webgl"),
    )
    checked = check_page(destination, source, options, sample)
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "tfjs": version}
    return Made(MAIN_FILE, "runoff", versions, details={"checked": checked})


def convert(model: Any, signature: Signature, destination: Path) -> None:
    """Write the graph model of an ONNX model.

    Args:
        model: an `onnx.ModelProto` with its weights.
        signature: of the model.
        destination: the folder for `model.json` and its weights.

    Raises:
        ExportError: an operator, a form of one, or a dtype has no translation; all such operators are named at once.
    """
    nodes = [node for node in model.graph.node if node.op_type not in _FIXED_OPERATORS]
    unknown = sorted({_operator(node) for node in nodes} - set(OPERATORS))
    if unknown:
        raise ExportError(
            f"there is no translation to TensorFlow.js for {', '.join(unknown)}",
            hint="the web format runs the ONNX model itself: --to web",
        )
    graph = Graph()
    values = Values(graph, _values(model))
    inputs = {spec.name: graph.placeholder(spec) for spec in signature.inputs}
    for name, node in inputs.items():
        values[name].plain = node
    for node in nodes:
        call = Call(node.op_type, tuple(node.input), tuple(node.output), _attributes(node))
        try:
            answer = OPERATORS[node.op_type](values, call)
        except ExportError as error:
            raise ExportError(f"{node.op_type} {node.name!r}: {error.message}", hint=error.hint) from error
        for name, found in zip(call.outputs, answer if isinstance(answer, list) else [answer], strict=False):
            if isinstance(found, Nhwc):
                values[name].nhwc = found.name
            else:
                values[name].plain = found
    outputs = {spec.name: values.plain(spec.name) for spec in signature.outputs}
    graph.save(destination, signature, (inputs, outputs), "runoff")


def _simplified(source: Package) -> Any:
    """The model as ONNX Runtime leaves it after the rewrites that stay within ONNX, with shapes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    try:
        with quiet(), tempfile.TemporaryDirectory() as place:
            path = Path(place) / "model.onnx"
            options.optimized_model_filepath = str(path)
            onnxruntime.InferenceSession(source.main_file, options, providers=["CPUExecutionProvider"])
            return onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    except Exception as error:
        raise ExportError(f"{source.id} cannot be prepared for TensorFlow.js: {error}") from error


def _operator(node: Any) -> str:
    """The name of an operator, with its domain where that is not ONNX's own."""
    if any(attribute.type in _SUBGRAPHS for attribute in node.attribute):
        return f"{node.op_type} (a subgraph)"
    return str(node.op_type) if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _attributes(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return found


def _values(model: Any) -> dict[str, Value]:
    """Every value that the graph says something about: constants, and what shape inference found."""
    graph = model.graph
    values = {info.name: _value(info) for info in (*graph.input, *graph.output, *graph.value_info)}
    constants: dict[str, Array] = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = np.asarray(next(iter(_attributes(node).values())))
    for name, array in constants.items():
        values[name] = Value(name, array.dtype.kind, array.shape, constant=array)
    return values


def _value(info: Any) -> Value:
    tensor = info.type.tensor_type
    kind = None
    if tensor.elem_type:
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).kind
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)
    return Value(info.name, kind, shape)
