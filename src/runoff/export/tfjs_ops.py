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
from runoff.export.tfjs_graph import dtype, flag, number, whole, wholes
from runoff.export.tfjs_values import Call, Nhwc, Values
from runoff.models.arrays import Array

Answer: TypeAlias = str | Nhwc | list[str]
Operator: TypeAlias = Callable[[Values, Call], Answer]

_TENSOR_TYPES = {1: "DT_FLOAT", 6: "DT_INT32", 7: "DT_INT32", 9: "DT_BOOL"}
"""Of ONNX's `TensorProto.DataType`; 64-bit integers are narrowed."""
_LARGE = 2**31 - 1


def _placed(node: str, in_nhwc: bool) -> Answer:  # noqa: FBT001 - where `elementwise` says it is
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
        "transpose_a": flag(bool(call.attributes.get("transA", 0))),
        "transpose_b": flag(bool(call.attributes.get("transB", 0))),
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
    graph, x, keep = values.graph, values.plain(call.inputs[0]), {"keep_dims": flag(True)}
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
        found = values.graph.node(op, inputs, {"keep_dims": flag(keep)})
        return _placed(found, keep)
    inputs = (values.plain(call.inputs[0]), values.integers(axes))
    return values.graph.node(op, inputs, {"keep_dims": flag(keep)})


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


def _reshape(values: Values, call: Call) -> Answer:
    x = values.plain(call.inputs[0])
    fixed = values[call.inputs[1]].constant
    if fixed is None:
        # A computed shape is made of sizes; none of them is the 0 that stands for "as before".
        return values.graph.node("Reshape", (x, values.plain(call.inputs[1])))
    wanted = [int(size) for size in fixed]
    if 0 in wanted and not call.attributes.get("allowzero", 0):
        own = values.shape(call.inputs[0])
        wanted = [_size(own[axis]) if size == 0 else size for axis, size in enumerate(wanted)]
        if wanted.count(-1) > 1:
            return values.graph.node("Reshape", (x, _sizes(values, x, [int(size) for size in fixed])))
    return values.graph.node("Reshape", (x, values.integers(wanted)))


def _size(dim: int | str) -> int:
    return dim if isinstance(dim, int) else -1


def _sizes(values: Values, x: str, wanted: list[int]) -> str:
    """A shape in which a 0 stands for the size that the input has there."""
    own = values.graph.node("Shape", (x,))
    one = values.integers([1])
    parts = [
        values.graph.node("StridedSlice", (own, values.integers([axis]), values.integers([axis + 1]), one))
        if size == 0
        else values.integers([size])
        for axis, size in enumerate(wanted)
    ]
    return values.graph.node("ConcatV2", (*parts, values.integer(0)), {"N": whole(len(parts))})


def _flatten(values: Values, call: Call) -> Answer:
    rank = values.rank(call.inputs[0])
    axis = call.attributes.get("axis", 1)
    axis = axis if axis == rank else axis % rank
    shape = values.shape(call.inputs[0])
    before = [_size(dim) for dim in shape[:axis]]
    after = [_size(dim) for dim in shape[axis:]]
    pair = [-1 if -1 in part else int(np.prod(part, dtype=np.int64)) for part in (before, after)]
    if pair.count(-1) > 1:
        raise ExportError("Flatten of a shape that varies on both sides is not supported")
    return values.graph.node("Reshape", (values.plain(call.inputs[0]), values.integers(pair)))


def _transpose(values: Values, call: Call) -> Answer:
    order = call.attributes.get("perm") or [*range(values.rank(call.inputs[0]))][::-1]
    return values.transpose(values.plain(call.inputs[0]), order)


def _unsqueeze(values: Values, call: Call) -> Answer:
    axes = values.axes(call, 1) or ()
    rank = values.rank(call.inputs[0]) + len(axes)
    found = values.plain(call.inputs[0])
    for axis in sorted(axis % rank for axis in axes):
        found = values.graph.node("ExpandDims", (found, values.integer(axis)))
    return found


def _squeeze(values: Values, call: Call) -> Answer:
    shape = values.shape(call.inputs[0])
    axes = values.axes(call, 1)
    if axes is None:
        axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    axes = tuple(axis % len(shape) for axis in axes)
    return values.graph.node("Squeeze", (values.plain(call.inputs[0]),), {"squeeze_dims": wholes(axes)})


def _concat(values: Values, call: Call) -> Answer:
    axis = call.attributes["axis"] % values.rank(call.inputs[0])
    count = {"N": whole(len(call.inputs))}
    if any(values.is_image(name) for name in call.inputs):
        nodes = [values.nhwc(name) for name in call.inputs]
        return Nhwc(values.graph.node("ConcatV2", (*nodes, values.integer((0, 3, 1, 2)[axis])), count))
    nodes = [values.plain(name) for name in call.inputs]
    return values.graph.node("ConcatV2", (*nodes, values.integer(axis)), count)


def _split(values: Values, call: Call) -> Answer:
    shape = values.shape(call.inputs[0])
    axis = call.attributes.get("axis", 0) % len(shape)
    count = len(call.outputs)
    if call.has(1):
        sizes = [int(size) for size in values.constant(call, 1)]
    elif "split" in call.attributes:
        sizes = list(call.attributes["split"])
    else:
        total = shape[axis]
        if isinstance(total, str):
            raise ExportError("Split of a dimension that varies is not supported")
        each = -(-total // count)
        sizes = [each] * (count - 1) + [total - each * (count - 1)]
    inputs = (values.plain(call.inputs[0]), values.integers(sizes), values.integer(axis))
    found = values.graph.node("SplitV", inputs, {"num_split": whole(count)})
    return [found, *(f"{found}:{index}" for index in range(1, count))]


def _slice(values: Values, call: Call) -> Answer:
    rank = values.rank(call.inputs[0])
    fixed_axes = [int(axis) % rank for axis in values.constant(call, 3)] if call.has(3) else [*range(rank)]
    steps = [int(step) for step in values.constant(call, 4)] if call.has(4) else [1] * len(fixed_axes)
    stride = [1] * rank
    for axis, step in zip(fixed_axes, steps, strict=True):
        stride[axis] = step
    bounds, masks = [], []
    for index, open_at in ((1, lambda bound, step: False), (2, _is_open)):
        known = values[call.inputs[index]].constant
        if known is None and fixed_axes != [*range(rank)] and len(fixed_axes) > 1:
            raise ExportError("Slice from or to computed places over some of the dimensions is not supported")
        free = set(range(rank)) - set(fixed_axes)
        if known is None:
            parts = [values.integers([0])] * rank
            for axis in fixed_axes if rank > 1 else ():
                parts[axis] = values.plain(call.inputs[index])
            one = values.plain(call.inputs[index])
            whole_rank = rank == 1 or len(fixed_axes) > 1
            vector = one if whole_rank else values.graph.node("ConcatV2", (*parts, values.integer(0)), {"N": whole(rank)})
            bounds.append(vector)
        else:
            full = [0] * rank
            for axis, bound, step in zip(fixed_axes, known, steps, strict=True):
                full[axis] = int(np.clip(bound, -_LARGE, _LARGE))
                if open_at(int(bound), step):
                    free.add(axis)
            bounds.append(values.integers(full))
        masks.append(sum(1 << axis for axis in free))
    attributes = {"begin_mask": whole(masks[0]), "end_mask": whole(masks[1])}
    inputs = (values.plain(call.inputs[0]), *bounds, values.integers(stride))
    return values.graph.node("StridedSlice", inputs, attributes)


def _is_open(bound: int, step: int) -> bool:
    """Whether an end stands for "up to the end": past every size, in the direction of the step."""
    return bound >= _LARGE if step > 0 else bound <= -_LARGE


def _gather(values: Values, call: Call) -> Answer:
    shape = values.shape(call.inputs[0])
    axis = call.attributes.get("axis", 0) % len(shape)
    size, fixed = shape[axis], values[call.inputs[1]].constant
    indices = values.plain(call.inputs[1]) if fixed is None else ""
    if fixed is not None:
        if (fixed < 0).any() and isinstance(size, str):
            raise ExportError("Gather counted from the end of a dimension that varies is not supported")
        indices = values.graph.constant(np.where(fixed < 0, fixed + _size(size), fixed).astype(np.int32))
    return values.graph.node("GatherV2", (values.plain(call.inputs[0]), indices, values.integer(axis)))


def _gather_nd(values: Values, call: Call) -> Answer:
    if call.attributes.get("batch_dims", 0):
        raise ExportError("GatherND over batches is not supported")
    return values.graph.node("GatherNd", [values.plain(name) for name in call.inputs])


def _expand(values: Values, call: Call) -> Answer:
    # ONNX lets a size of 1 stand for "as it is", which TensorFlow's BroadcastTo does not: so combined with ones.
    kind = values[call.inputs[0]].kind
    if kind is None:
        raise ExportError("Expand of a dtype that the graph does not tell is not supported")
    ones = _fill(values, values.plain(call.inputs[1]), np.array(1, {"f": np.float32, "b": np.bool_}.get(kind, np.int32)))
    return values.graph.node("LogicalAnd" if kind == "b" else "Mul", (values.plain(call.inputs[0]), ones))


def _constant_of_shape(values: Values, call: Call) -> Answer:
    value = call.attributes.get("value", np.zeros(1, np.float32))
    return _fill(values, values.plain(call.inputs[0]), value.reshape(()))


def _fill(values: Values, shape: str, value: Array) -> str:
    kind = {"f": "DT_FLOAT", "b": "DT_BOOL"}.get(value.dtype.kind, "DT_INT32")
    return values.graph.node("Fill", (shape, values.graph.constant(value)), {"T": dtype(kind)})


def _range(values: Values, call: Call) -> Answer:
    kind = "DT_FLOAT" if values[call.outputs[0]].kind == "f" else "DT_INT32"
    return values.graph.node("Range", [values.plain(name) for name in call.inputs], {"Tidx": dtype(kind)})


def _shape(values: Values, call: Call) -> Answer:
    # Sizes in the order of ONNX: an image that is only there as NHWC is turned first.
    found = values.graph.node("Shape", (values.plain(call.inputs[0]),))
    start, end = call.attributes.get("start", 0), call.attributes.get("end")
    if start == 0 and end is None:
        return found
    rank = values.rank(call.inputs[0])
    stop = rank if end is None else end if end >= 0 else rank + end
    inputs = (found, values.integers([start % rank]), values.integers([stop]), values.integers([1]))
    return values.graph.node("StridedSlice", inputs)


def _pad(values: Values, call: Call) -> Answer:
    if call.attributes.get("mode", "constant") != "constant" or call.has(3):
        raise ExportError("Pad other than by a constant, over all axes, is not supported")
    widths = values.constant(call, 1).reshape(2, -1).T
    if (widths < 0).any():
        raise ExportError("Pad by less than nothing is not supported")
    filler = values.scalar(float(values.constant(call, 2)) if call.has(2) else 0.0)
    image = values.is_image(call.inputs[0])
    x = values.nhwc(call.inputs[0]) if image else values.plain(call.inputs[0])
    ordered = widths[[0, 2, 3, 1]] if image else widths
    return _placed(values.graph.node("PadV2", (x, values.graph.constant(ordered), filler)), image)


def _tile(values: Values, call: Call) -> Answer:
    return values.graph.node("Tile", [values.plain(name) for name in call.inputs])


def _cumsum(values: Values, call: Call) -> Answer:
    axis = int(values.constant(call, 1)) % values.rank(call.inputs[0])
    attributes = {name: flag(bool(call.attributes.get(name, 0))) for name in ("exclusive", "reverse")}
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
        "Concat": _concat,
        "ConstantOfShape": _constant_of_shape,
        "Conv": images.conv,
        "CumSum": _cumsum,
        "Div": _divide,
        "Dropout": _identity,
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "GatherND": _gather_nd,
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
        "Pad": _pad,
        "Range": _range,
        "Reshape": _reshape,
        "Resize": images.resize,
        "Shape": _shape,
        "Slice": _slice,
        "Softmax": partial(_softmax, "Softmax"),
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
        "Where": _where,
    }
)
