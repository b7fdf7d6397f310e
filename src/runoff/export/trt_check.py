"""An ONNX file held against what TensorRT documents that it takes, before its builder sees the file.

Runs in the export worker, by polygraphy and without TensorRT or a GPU. Knows no engine. The table is that of the
documentation of TensorRT's ONNX parser, version 10.1; what a later version adds it may refuse all the same, and what it
lets pass the builder can still refuse.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from polygraphy.backend.onnx import infer_shapes, onnx_from_path
from polygraphy.logger import G_LOGGER

from runoff.errors import ExportError
from runoff.export.step import quiet
from runoff.types import Precision

_UNSUPPORTED = {
    *("AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
    *("BlackmanWindow", "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "DFT"),
    *("Det", "DynamicQuantizeLinear", "HammingWindow", "HannWindow", "ImageDecoder", "MatMulInteger"),
    *("MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss", "Optional"),
    *("OptionalGetElement", "OptionalHasElement", "QLinearConv", "QLinearMatMul", "RegexFullMatch", "STFT"),
    *("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength"),
    *("SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat", "StringNormalizer"),
    *("StringSplit", "TfIdfVectorizer", "Unique"),
}
_DOMAINS = {"", "ai.onnx"}
_OLDEST_OPSET = 9
_PORTS = {
    *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.BOOL),
    *(TensorProto.INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8),
}
"""Element types of inputs and outputs that an engine has too."""
_NARROWED: dict[int, str] = {TensorProto.DOUBLE: "fp64 to fp32"}
_NARROWED_BY_8: dict[int, str] = {**_NARROWED, TensorProto.INT64: "int64 to int32"}
_SHOWN = 8


def check_onnx(path: Path, precision: Precision, *, tensorrt_major: int = 10) -> dict[str, Any]:
    """Load a file, infer its shapes, and refuse what TensorRT cannot take.

    Args:
        path: the .onnx file.
        precision: of the engine; an int8 engine reads its ranges from QuantizeLinear nodes.
        tensorrt_major: 8 narrows 64-bit integers too.

    Returns:
        What the manifest should say of it: `opset`, and `narrowed`, the element types that TensorRT computes in
        fewer bits.

    Raises:
        ExportError: it cannot be read, or something in it is not supported; all of it is named.
    """
    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    try:
        with quiet():
            model = infer_shapes(onnx_from_path(str(path)), error_ok=False, allow_onnxruntime=False)
    except Exception as error:
        why = " ".join(str(error).split())[:300]
        raise ExportError(f"{path.name} is not valid ONNX: {type(error).__name__}: {why}") from error
    _refuse("TensorRT does not take", _operators(model), "keep the model on another backend, such as onnx")
    _refuse("an engine has no such inputs and outputs:", _ports(model.graph), "cast them in the model")
    _check_quantisation(model, precision)
    narrowed = _NARROWED if tensorrt_major >= 10 else _NARROWED_BY_8
    return {
        "opset": _opset(model),
        "narrowed": sorted({narrowed[kind] for kind in _element_types(model.graph) if kind in narrowed}),
    }


def _refuse(what: str, found: list[str], hint: str) -> None:
    if found:
        rest = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ExportError(f"{what} {', '.join(found[:_SHOWN])}{rest}", hint=hint)


def _operators(model: Any) -> list[str]:
    """What is not supported, each kind once."""
    own = {(function.domain, function.name) for function in model.functions}
    found: dict[str, None] = {}
    for node in _nodes(model.graph):
        if (node.domain, node.op_type) in own:
            continue
        if node.domain not in _DOMAINS:
            found[f"{node.domain}.{node.op_type}"] = None
        elif node.op_type in _UNSUPPORTED:
            found[node.op_type] = None
        elif node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
            found["the indices of MaxPool"] = None
        elif node.op_type == "LayerNormalization" and any(node.output[1:]):
            found["the mean and deviation of LayerNormalization"] = None
    if _opset(model) < _OLDEST_OPSET:
        found[f"opset {_opset(model)}, older than {_OLDEST_OPSET}"] = None
    return list(found)


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node, those of branches and loop bodies included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _ports(graph: Any) -> list[str]:
    found = []
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type.elem_type
        if not value.type.HasField("tensor_type"):
            found.append(f"{value.name!r}, which is no tensor")
        elif kind not in _PORTS:
            found.append(f"{value.name!r} of {_type_name(kind)}")
    return found


def _element_types(graph: Any) -> set[int]:
    values = (*graph.input, *graph.output, *graph.value_info)
    return {value.type.tensor_type.elem_type for value in values} | {tensor.data_type for tensor in graph.initializer}


def _check_quantisation(model: Any, precision: Precision) -> None:
    """An int8 engine needs QuantizeLinear nodes of signed integers around zero; any other engine none at all."""
    nodes = [node for node in _nodes(model.graph) if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    if precision is not Precision.INT8:
        if nodes:
            raise ExportError(
                f"the file is quantised, and an engine at {precision} is built from one that is not",
                hint="start from the fp32 package, or ask for --precision int8",
            )
        return
    hint = "make one for TensorRT: runoff quantize MODEL --precision int8-static --backend onnx --symmetric --force"
    if not any(node.op_type == "QuantizeLinear" for node in nodes):
        raise ExportError("the file has no QuantizeLinear nodes, from which an int8 engine takes its ranges", hint=hint)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in _nodes(model.graph)
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    _refuse("TensorRT quantises to signed integers around zero only:", _lopsided(nodes, constants), hint)


def _lopsided(nodes: list[Any], constants: dict[str, Any]) -> list[str]:
    """The nodes whose zero point is not an int8 zero."""
    found = []
    for node in nodes:
        name = node.name or node.output[0]
        zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is None and node.op_type == "QuantizeLinear":
            # ONNX's default is an unsigned zero.
            found.append(f"{name} is uint8")
        elif zero is not None and zero.data_type != TensorProto.INT8:
            found.append(f"{name} is {_type_name(zero.data_type)}")
        elif zero is not None and np.any(numpy_helper.to_array(zero)):
            found.append(f"{name} has a zero point other than 0")
    return found


def _opset(model: Any) -> int:
    return next((int(opset.version) for opset in model.opset_import if opset.domain in _DOMAINS), 0)


def _type_name(kind: int) -> str:
    return str(helper.tensor_dtype_to_string(kind)).removeprefix("TensorProto.").lower()
