"""To `onnx` at int8 and int4 with ONNX Runtime's quantisers: static QDQ, dynamic, and 4-bit weights.

Runs in the export worker. Knows no plan, no contract and no manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
    quant_pre_process,
    quantize_dynamic,
)
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from runoff.errors import ExportError
from runoff.export.layers import (
    check_linear_share,
    group_layers,
    kept_nodes,
    kept_of,
    on_one_line,
    read_feeds,
    reported,
)
from runoff.export.step import Made, Quantization, StepOptions, quiet
from runoff.models.arrays import Arrays
from runoff.models.folder import Package

MAIN_FILE = "model.onnx"
_TOOL = "onnxruntime.quantization"
_LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_AROUND_CONVOLUTIONS = (
    *("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul", "Pad", "Relu"),
    *("Reshape", "Resize", "Sigmoid", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
"""What a convolutional net has between its layers: quantised too, so that it stays in int8 from end to end."""
_FLOAT_OUTPUT = ("Gemm", "MatMul")
"""Their sums leave the kernel in fp32: rounding them once more would cost accuracy, most of all at the output."""
_WEIGHT_OPS = ("MatMul", "Gather")
"""What dynamic quantisation takes. Never Conv: as ConvInteger, ResNet-50 ran 6 and MobileNetV2 13 times slower."""
_MIN_OPSET = 13
"""The first one in which weights can have a scale for each channel."""
_BLOCK_SIZE = 32
_INT8_COMPUTE = 4
"""MatMulNBits' accuracy level that multiplies in int8."""
_CHUNK_ROWS = 8
"""Rows of calibration at a time: the histogram methods hold every inner tensor of a chunk in memory."""
_PROTOBUF_LIMIT_BYTES = 2**31 - 2**24
_CALIBRATIONS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


def int8_static(source: Package, destination: Path, options: StepOptions) -> Made:
    """Weights for each channel and activations in 8 bits, with ranges read from calibration rows.

    Raises:
        ExportError: there is nothing to quantise, or ONNX Runtime cannot do it.
    """
    wanted = _wanted(options)
    prepared = _prepare(source, destination.parent)
    with _reported(source):
        model = load_model_with_shape_infer(prepared)
    layers = _layers(model.graph)
    if not layers:
        raise _nothing(source, model.graph, "int8-static quantises Conv, ConvTranspose, Gemm and MatMul")
    op_types = _static_ops(model.graph)
    kept = kept_nodes(layers, wanted.kept)
    rows_at_once = options.batch if isinstance(options.batch, int) else 1
    with _reported(source), quiet():
        ranges = _ranges(str(prepared), msgspec.structs.replace(wanted, kept=()), rows_at_once, op_types)
        quantizer = QDQQuantizer(
            model=model,
            per_channel=True,
            reduce_range=wanted.reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if wanted.symmetric else QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(kept),
            op_types_to_quantize=list(op_types),
            extra_options={
                "WeightSymmetric": True,
                "ActivationSymmetric": wanted.symmetric,
                "QuantizeBias": not wanted.symmetric,
                "OpTypesToExcludeOutputQuantization": list(_FLOAT_OUTPUT),
            },
        )
        quantizer.quantize_model()
        _read_unrounded(quantizer.model.model.graph, kept)
    details = {"method": "int8-static", "calibration": wanted.calibration, "reduce_range": wanted.reduce_range}
    details |= {"symmetric": True} if wanted.symmetric else {}
    return _save(quantizer.model.model, destination, layers, wanted, details)


def int8_dynamic(source: Package, destination: Path, options: StepOptions) -> Made:
    """Weights of linear layers and embeddings in 8 bits; activations are quantised while running.

    Raises:
        ExportError: linear layers hold too few of the weights, or ONNX Runtime cannot do it.
    """
    wanted = _wanted(options)
    model, layers = _linear(source, "int8-dynamic", _WEIGHT_OPS)
    path = destination / MAIN_FILE
    with _reported(source), quiet():
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=list(_WEIGHT_OPS),
            per_channel=True,
            reduce_range=wanted.reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(wanted.kept),
            use_external_data_format=_is_large(model),
        )
    details = {"method": "int8-dynamic", "reduce_range": wanted.reduce_range}
    return _made(_opset(model), layers, wanted, details)


def int4(source: Package, destination: Path, options: StepOptions) -> Made:
    """Weights of linear layers in 4 bits, in blocks of 32 with a scale each; activations stay as they are.

    Raises:
        ExportError: linear layers hold too few of the weights, or ONNX Runtime cannot do it.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    wanted = _wanted(options)
    model, layers = _linear(source, "int4", ("MatMul",))
    with _reported(source), quiet():
        quantizer = MatMulNBitsQuantizer(
            model,
            block_size=_BLOCK_SIZE,
            is_symmetric=True,
            accuracy_level=_INT8_COMPUTE,
            nodes_to_exclude=list(wanted.kept),
        )
        quantizer.process()
    details = {"method": "int4", "block_size": _BLOCK_SIZE}
    return _save(quantizer.model.model, destination, layers, wanted, details)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Calibration rows as ONNX Runtime asks for them: one feed after the other, then None."""

    def __init__(self, feeds: Sequence[Arrays]) -> None:
        self._feeds: Iterator[Arrays] = iter(feeds)

    def get_next(self) -> Arrays | None:
        """The next feed."""
        return next(self._feeds, None)


def _reported(source: Package) -> AbstractContextManager[None]:
    return reported("ONNX Runtime", source.id, on_one_line)


def _wanted(options: StepOptions) -> Quantization:
    return options.quantization or Quantization()


def _prepare(source: Package, work: Path) -> Path:
    """The graph that is calibrated and quantised: optimised, with inferred shapes and a name for every node.

    Lies beside the drafts, so that the next draft of a search finds it.
    """
    path = work / "prepared.onnx"
    if path.exists():
        return path
    with _reported(source), quiet():
        model = onnx.load(source.main_file)
        large = _is_large(model)
        del model.graph.value_info[:]
        if _opset(model) < _MIN_OPSET:
            model = onnx.version_converter.convert_version(model, _MIN_OPSET)
        raw = work / "raw.onnx"
        _write(model, raw, large=large)
        # Symbolic shape inference is skipped: it wants sympy, and ONNX's own suffices to quantise.
        quant_pre_process(
            raw, path, skip_symbolic_shape=True, save_as_external_data=large, all_tensors_to_one_file=True
        )
        prepared = onnx.load(path)
        _name_nodes(prepared.graph)
        _write(prepared, path, large=large)
    return path


@lru_cache(maxsize=1)
def _ranges(prepared: str, wanted: Quantization, size: int, ops: tuple[str, ...]) -> Any:
    """The range of every tensor around the operators; kept, because a search quantises many times with the same."""
    feeds = read_feeds(wanted, size)
    calibrator = create_calibrator(
        Path(prepared),
        list(ops),
        augmented_model_path=str(Path(prepared).with_name("augmented.onnx")),
        calibrate_method=_CALIBRATIONS[wanted.calibration],
        use_external_data_format=_is_large(onnx.load(prepared, load_external_data=False)),
    )
    chunk = max(1, _CHUNK_ROWS // size)
    for start in range(0, len(feeds), chunk):
        calibrator.collect_data(_Reader(feeds[start : start + chunk]))
    return calibrator.compute_data()


def _read_unrounded(graph: Any, kept: set[str]) -> None:
    """Let the nodes that are kept read their inputs as they were, not what was rounded for quantised neighbours."""
    maker = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.name not in kept:
            continue
        for place, name in enumerate(node.input):
            wide = maker.get(name)
            narrow = maker.get(wide.input[0]) if wide is not None and wide.op_type == "DequantizeLinear" else None
            if narrow is not None and narrow.op_type == "QuantizeLinear":
                node.input[place] = narrow.input[0]


def _layers(graph: Any) -> dict[str, tuple[str, ...]]:
    return group_layers((node.name, node.op_type in _LAYER_OPS) for node in graph.node)


def _static_ops(graph: Any) -> tuple[str, ...]:
    """The operators to quantise: all that a convolutional net consists of, else only the layers themselves.

    Between the matrix products of a transformer lie softmax, normalisation and sums, whose ranges 8 bits serve badly.
    """
    convolutions, linear = _weights(graph)
    return (*_LAYER_OPS, *_AROUND_CONVOLUTIONS) if convolutions > linear else _LAYER_OPS


def _linear(source: Package, method: str, ops: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """The model with Gemm as MatMul and Add, and its layers with constant weights.

    Raises:
        ExportError: linear layers hold too few of the weights.
    """
    with _reported(source):
        whole = ONNXModel(onnx.load(source.main_file))
        whole.replace_gemm_with_matmul()
    model = whole.model
    # onnxruntime refuses the shapes that the dynamo exporter has written, where its own inference differs.
    del model.graph.value_info[:]
    _name_nodes(model.graph)
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) >= 2 and _is_float(tensor)}
    place = {"MatMul": 1, "Gather": 0}
    layers = tuple(n.name for n in model.graph.node if n.op_type in ops and n.input[place[n.op_type]] in weights)
    if not layers:
        raise _nothing(source, model.graph, f"{method} quantises linear layers with constant weights")
    check_linear_share(source.id, method, *_weights(model.graph))
    return model, layers


def _weights(graph: Any) -> tuple[int, int]:
    """How many weights lie in convolutions and in linear layers; tables that rows are taken from cost no time."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer if _is_float(tensor)}
    counts = dict.fromkeys(_LAYER_OPS, 0)
    for node in graph.node:
        if node.op_type in counts:
            counts[node.op_type] += max((sizes.get(name, 0) for name in node.input), default=0)
    return counts["Conv"] + counts["ConvTranspose"], counts["Gemm"] + counts["MatMul"]


def _is_float(tensor: Any) -> bool:
    return int(tensor.data_type) == int(onnx.TensorProto.FLOAT)


def _name_nodes(graph: Any) -> None:
    """A name of its own for every node: nodes are kept by name."""
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)


def _nothing(source: Package, graph: Any, takes: str) -> ExportError:
    own = ", ".join(sorted({node.op_type for node in graph.node})) or "no operator"
    return ExportError(f"nothing in {source.id} can be quantised: {takes}, it has {own}")


def _is_large(model: Any) -> bool:
    """Whether the weights pass what protobuf can hold in one file."""
    num_bytes: int = sum(4 * math.prod(tensor.dims) for tensor in model.graph.initializer)
    return num_bytes > _PROTOBUF_LIMIT_BYTES


def _opset(model: Any) -> int:
    return next((int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 0)


def _write(model: Any, path: Path, *, large: bool) -> None:
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)


def _save(
    model: Any, destination: Path, layers: Sequence[str] | dict[str, Any], wanted: Quantization, details: dict[str, Any]
) -> Made:
    # The quantisers' scratch notes, such as the local path that shapes were inferred in, are nobody's business.
    del model.metadata_props[:]
    del model.graph.value_info[:]
    _write(model, destination / MAIN_FILE, large=model.ByteSize() > _PROTOBUF_LIMIT_BYTES)
    return _made(_opset(model), tuple(layers), wanted, details)


def _made(opset: int, layers: tuple[str, ...], wanted: Quantization, details: dict[str, Any]) -> Made:
    kept = kept_of(layers, wanted)
    versions = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}
    return Made(MAIN_FILE, _TOOL, versions, {"opset": opset}, layers, kept, details)
