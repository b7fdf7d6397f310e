"""The operators of ONNX that TensorFlow.js gets: one function each, and the table of them.

A function puts nodes into the graph and answers the one of each output. Those for images are in tfjs_images.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from runoff.errors import ExportError
from runoff.export import tfjs_images as images
from runoff.export import tfjs_moves as moves
from runoff.export.tfjs_graph import dtype, flag, number
from runoff.export.tfjs_values import Answer, Call, Nhwc, Values

Operator: TypeAlias = Callable[[Values, Call], Answer]

_TENSOR_TYPES = {1: "DT_FLOAT", 6: "DT_INT32", 7: "DT_INT32", 9: "DT_BOOL"}
"""Of ONNX's `TensorProto.DataType`; 64-bit integers are narrowed."""


def _placed(node: str, in_nhwc: bool) -> Answer:
    return Nhwc(node) if in_nhwc else node


def _elementwise(op: str, values: Values, call: Call) -> Answer:
    """One node, whatever the layout; more than two operands are combined one after the other."""
    nodes, in_nhwc = values.elementwise(call.inputs)
    found = nodes[0] if len(nodes) > 1 else values.graph.node(op, nodes)
    for other in nodes[1:]:
        found = values.graph.node(op, (found, other))
    return _placed(found, in_nhwc)


def _divide(values: Values, call: Call) -> Answer:
    kind = values[call.inputs[0]].kind
    if kind is None:
        raise ExportError("Div of a dtype that the graph does not tell is not supported")
    # Integers are cut towards zero in ONNX; where they are sizes, and so positive, that is the floor.
    return _elementwise("RealDiv" if kind == "f" else "FloorDiv", values, call)


def _where(values: Values, call: Call) -> Answer:
    nodes, in_nhwc = values.elementwise(call.inputs[:3])
    return _placed(values.graph.node("SelectV2", nodes), in_nhwc)


def _clip(values: Values, call: Call) -> Answer:
    low = float(values.constant(call, 1)) if call.has(1) else call.attributes.get("min", -3.4028234e38)
    high = float(values.constant(call, 2)) if call.has(2) else call.attributes.get("max", 3.4028234e38)
    nodes, in_nhwc = values.elementwise(call.inputs[:1])
    if values[call.inputs[0]].kind not in (None, "f"):
        raise ExportError("Clip of integers is not supported")
    bounds = (values.scalar(low), values.scalar(high))
    return _placed(values.graph.node("ClipByValue", (*nodes, *bounds)), in_nhwc)


def _leaky_relu(values: Values, call: Call) -> Answer:
    nodes, in_nhwc = values.elementwise(call.inputs)
    found = values.graph.node("LeakyRelu", nodes, {"alpha": number(call.attributes.get("alpha", 0.01))})
    return _placed(found, in_nhwc)


def _hard_sigmoid(values: Values, call: Call) -> Answer:
    nodes, in_nhwc = values.elementwise(call.inputs)
    slope = values.scalar(call.attributes.get("alpha", 0.2))
    return _placed(_ramp(values, nodes[0], slope, values.scalar(call.attributes.get("beta", 0.5))), in_nhwc)


def _hard_swish(values: Values, call: Call) -> Answer:
    nodes, in_nhwc = values.elementwise(call.inputs)
    ramp = _ramp(values, nodes[0], values.scalar(1 / 6), values.scalar(0.5))
    return _placed(values.graph.node("Mul", (nodes[0], ramp)), in_nhwc)


def _ramp(values: Values, x: str, slope: str, offset: str) -> str:
    line = values.graph.node("AddV2", (values.graph.node("Mul", (x, slope)), offset))
    return values.graph.node("ClipByValue", (line, values.scalar(0.0), values.scalar(1.0)))


def _gelu(values: Values, call: Call) -> Answer:
    (x,), in_nhwc = values.elementwise(call.inputs)
    graph = values.graph
    if call.attributes.get("approximate", "none") == "tanh":
        cube = graph.node("Mul", (graph.node("Square", (x,)), x))
        inner = graph.node("AddV2", (x, graph.node("Mul", (cube, values.scalar(0.044715)))))
        bent = graph.node("Tanh", (graph.node("Mul", (inner, values.scalar(float(np.sqrt(2 / np.pi))))),))
    else:
        bent = graph.node("Erf", (graph.node("Mul", (x, values.scalar(float(np.sqrt(0.5))))),))
    half = graph.node("Mul", (x, values.scalar(0.5)))
    return _placed(graph.node("Mul", (half, graph.node("AddV2", (bent, values.scalar(1.0))))), in_nhwc)


def _cast(values: Values, call: Call) -> Answer:
    wanted = call.attributes["to"]
    if wanted not in _TENSOR_TYPES:
        raise ExportError("Cast to another dtype than fp32, int32, int64 and bool is not supported")
    nodes, in_nhwc = values.elementwise(call.inputs)
    return _placed(values.graph.node("Cast", nodes, {"DstT": dtype(_TENSOR_TYPES[wanted])}), in_nhwc)


def _identity(values: Values, call: Call) -> Answer:
    return _elementwise("Identity", values, Call("Identity", call.inputs[:1], call.outputs, {}))


def _gemm(values: Values, call: Call) -> Answer:
    turned = {
        "transpose_a": flag(value=bool(call.attributes.get("transA", 0))),
        "transpose_b": flag(value=bool(call.attributes.get("transB", 0))),
    }
    found = values.graph.node("MatMul", (values.plain(call.inputs[0]), values.plain(call.inputs[1])), turned)
    alpha, beta = call.attributes.get("alpha", 1.0), call.attributes.get("beta", 1.0)
    if alpha != 1:
        found = values.graph.node("Mul", (found, values.scalar(alpha)))
    if not call.has(2):
        return found
    bias = values.plain(call.inputs[2])
    bias = bias if beta == 1 else values.graph.node("Mul", (bias, values.scalar(beta)))
    return values.graph.node("AddV2", (found, bias))


def _matmul(values: Values, call: Call) -> Answer:
    ranks = [values.rank(name) for name in call.inputs]
    if min(ranks) < 2:
        raise ExportError("MatMul of vectors is not supported")
    op = "MatMul" if ranks == [2, 2] else "BatchMatMulV2"
    return values.graph.node(op, [values.plain(name) for name in call.inputs])


def _softmax(op: str, values: Values, call: Call) -> Answer:
    rank = values.rank(call.inputs[0])
    axis = call.attributes.get("axis", -1) % rank
    x = values.plain(call.inputs[0])
    if axis == rank - 1:
        return values.graph.node(op, (x,))
    order = [*range(rank)]
    order[axis], order[-1] = order[-1], order[axis]
    return values.transpose(values.graph.node(op, (values.transpose(x, order),)), order)


def _layer_norm(values: Values, call: Call) -> Answer:
    rank = values.rank(call.inputs[0])
    axes = values.integers(range(call.attributes.get("axis", -1) % rank, rank))
    graph, x, keep = values.graph, values.plain(call.inputs[0]), {"keep_dims": flag(value=True)}
    if len([name for name in call.outputs if name]) > 1:
        raise ExportError("LayerNormalization that answers its mean is not supported")
    centred = graph.node("Sub", (x, graph.node("Mean", (x, axes), keep)))
    variance = graph.node("Mean", (graph.node("Square", (centred,)), axes), keep)
    epsilon = values.scalar(call.attributes.get("epsilon", 1e-5))
    found = graph.node("Mul", (centred, graph.node("Rsqrt", (graph.node("AddV2", (variance, epsilon)),))))
    found = graph.node("Mul", (found, values.plain(call.inputs[1])))
    return graph.node("AddV2", (found, values.plain(call.inputs[2]))) if call.has(2) else found


def _batch_norm(values: Values, call: Call) -> Answer:
    scale, bias, mean, variance = (values.constant(call, index).astype(np.float64) for index in range(1, 5))
    factor = scale / np.sqrt(variance + call.attributes.get("epsilon", 1e-5))
    rank = values.rank(call.inputs[0])
    image = rank == 4
    x = values.nhwc(call.inputs[0]) if image else values.plain(call.inputs[0])
    shape = (-1,) if image else (1, -1, *[1] * (rank - 2))
    constants = [
        values.graph.constant(array.astype(np.float32).reshape(shape)) for array in (factor, bias - mean * factor)
    ]
    found = values.graph.node("AddV2", (values.graph.node("Mul", (x, constants[0])), constants[1]))
    return _placed(found, image)


def _reduce(op: str, values: Values, call: Call) -> Answer:
    rank = values.rank(call.inputs[0])
    axes = values.axes(call, 1)
    if axes is None:
        if call.attributes.get("noop_with_empty_axes", 0):
            return values.plain(call.inputs[0])
        axes = tuple(range(rank))
    axes = tuple(axis % rank for axis in axes)
    keep = bool(call.attributes.get("keepdims", 1))
    if values.is_image(call.inputs[0]) and set(axes) == {2, 3}:
        inputs = (values.nhwc(call.inputs[0]), values.integers([1, 2]))
        found = values.graph.node(op, inputs, {"keep_dims": flag(value=keep)})
        return _placed(found, keep)
    inputs = (values.plain(call.inputs[0]), values.integers(axes))
    return values.graph.node(op, inputs, {"keep_dims": flag(value=keep)})


def _reduce_l2(values: Values, call: Call) -> Answer:
    squared = f"{call.outputs[0]} squared"
    values[squared].shape = values.shape(call.inputs[0])
    values[squared].plain = values.graph.node("Square", (values.plain(call.inputs[0]),))
    total = _reduce("Sum", values, Call(call.op, (squared, *call.inputs[1:]), call.outputs, call.attributes))
    assert isinstance(total, str)  # noqa: S101 - the square is in no other layout
    return values.graph.node("Sqrt", (total,))


def _arg_max(values: Values, call: Call) -> Answer:
    axis = call.attributes.get("axis", 0) % values.rank(call.inputs[0])
    found = values.graph.node("ArgMax", (values.plain(call.inputs[0]), values.integer(axis)))
    if call.attributes.get("keepdims", 1):
        found = values.graph.node("ExpandDims", (found, values.integer(axis)))
    return found


def _cumsum(values: Values, call: Call) -> Answer:
    axis = int(values.constant(call, 1)) % values.rank(call.inputs[0])
    attributes = {name: flag(value=bool(call.attributes.get(name, 0))) for name in ("exclusive", "reverse")}
    return values.graph.node("Cumsum", (values.plain(call.inputs[0]), values.integer(axis)), attributes)


_SAME = {
    **{op: op for op in ("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "Log", "Neg", "Reciprocal", "Relu")},
    **{op: op for op in ("Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Tanh", "Mul", "Sub", "Pow", "Equal", "Less")},
    "Add": "AddV2",
    "And": "LogicalAnd",
    "Greater": "Greater",
    "GreaterOrEqual": "GreaterEqual",
    "IsNaN": "IsNan",
    "LessOrEqual": "LessEqual",
    "Max": "Maximum",
    "Min": "Minimum",
    "Not": "LogicalNot",
    "Or": "LogicalOr",
    "PRelu": "Prelu",
    "Sum": "AddV2",
}
"""Operators that are one of TensorFlow's, element by element."""

OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        **{name: partial(_elementwise, op) for name, op in _SAME.items()},
        **{f"Reduce{op}": partial(_reduce, op) for op in ("Mean", "Sum", "Max", "Min", "Prod")},
        "ReduceL2": _reduce_l2,
        "ArgMax": _arg_max,
        "AveragePool": images.average_pool,
        "BatchNormalization": _batch_norm,
        "Cast": _cast,
        "Clip": _clip,
        "Concat": moves.concat,
        "ConstantOfShape": moves.constant_of_shape,
        "Conv": images.conv,
        "CumSum": _cumsum,
        "Div": _divide,
        "Dropout": _identity,
        "Expand": moves.expand,
        "Flatten": moves.flatten,
        "Gather": moves.gather,
        "GatherND": moves.gather_nd,
        "Gelu": _gelu,
        "Gemm": _gemm,
        "GlobalAveragePool": images.global_average_pool,
        "GlobalMaxPool": images.global_max_pool,
        "HardSigmoid": _hard_sigmoid,
        "HardSwish": _hard_swish,
        "Identity": _identity,
        "LayerNormalization": _layer_norm,
        "LeakyRelu": _leaky_relu,
        "LogSoftmax": partial(_softmax, "LogSoftmax"),
        "MatMul": _matmul,
        "MaxPool": images.max_pool,
        "Pad": moves.pad,
        "Range": moves.range_,
        "Reshape": moves.reshape,
        "Resize": images.resize,
        "Shape": moves.shape,
        "Slice": moves.slice_,
        "Softmax": partial(_softmax, "Softmax"),
        "Split": moves.split,
        "Squeeze": moves.squeeze,
        "Tile": moves.tile,
        "Transpose": moves.transpose,
        "Unsqueeze": moves.unsqueeze,
        "Where": _where,
    }
)
