"""Operators of ONNX that move numbers and compute none, as nodes of TensorFlow.js.

Called through the table of tfjs_ops.py.
"""

from __future__ import annotations

import numpy as np

from runoff.errors import ExportError
from runoff.export.tfjs_graph import dtype, whole, wholes
from runoff.export.tfjs_values import Answer, Call, Nhwc, Values
from runoff.models.arrays import Array

_LARGE = 2**31 - 1


def reshape(values: Values, call: Call) -> Answer:
    """The same numbers in another shape, which may be computed."""
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


def flatten(values: Values, call: Call) -> Answer:
    """The dimensions before an axis as one, and the others as one."""
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


def transpose(values: Values, call: Call) -> Answer:
    """The dimensions in another order."""
    order = call.attributes.get("perm") or [*range(values.rank(call.inputs[0]))][::-1]
    return values.transpose(values.plain(call.inputs[0]), order)


def unsqueeze(values: Values, call: Call) -> Answer:
    """New dimensions of size 1."""
    axes = values.axes(call, 1) or ()
    rank = values.rank(call.inputs[0]) + len(axes)
    found = values.plain(call.inputs[0])
    for axis in sorted(axis % rank for axis in axes):
        found = values.graph.node("ExpandDims", (found, values.integer(axis)))
    return found


def squeeze(values: Values, call: Call) -> Answer:
    """Without dimensions of size 1."""
    shape = values.shape(call.inputs[0])
    axes = values.axes(call, 1)
    if axes is None:
        axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    axes = tuple(axis % len(shape) for axis in axes)
    return values.graph.node("Squeeze", (values.plain(call.inputs[0]),), {"squeeze_dims": wholes(axes)})


def concat(values: Values, call: Call) -> Answer:
    """One behind the other along an axis."""
    axis = call.attributes["axis"] % values.rank(call.inputs[0])
    count = {"N": whole(len(call.inputs))}
    if any(values.is_image(name) for name in call.inputs):
        nodes = [values.nhwc(name) for name in call.inputs]
        return Nhwc(values.graph.node("ConcatV2", (*nodes, values.integer((0, 3, 1, 2)[axis])), count))
    nodes = [values.plain(name) for name in call.inputs]
    return values.graph.node("ConcatV2", (*nodes, values.integer(axis)), count)


def split(values: Values, call: Call) -> Answer:
    """Pieces along an axis."""
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


def slice_(values: Values, call: Call) -> Answer:
    """A part of each dimension, with steps; where it starts and ends may be computed."""
    rank = values.rank(call.inputs[0])
    axes = [int(axis) % rank for axis in values.constant(call, 3)] if call.has(3) else [*range(rank)]
    steps = [int(step) for step in values.constant(call, 4)] if call.has(4) else [1] * len(axes)
    begin, begin_mask = _bounds(values, call.inputs[1], axes, rank)
    end, end_mask = _bounds(values, call.inputs[2], axes, rank)
    known = values[call.inputs[2]].constant
    for axis, step, bound in zip(axes, steps, known if known is not None else (), strict=False):
        # Past every size, in the direction of the step: up to the end.
        if int(bound) >= _LARGE if step > 0 else int(bound) <= -_LARGE:
            end_mask |= 1 << axis
    stride = dict(zip(axes, steps, strict=True))
    strides = values.integers([stride.get(axis, 1) for axis in range(rank)])
    attributes = {"begin_mask": whole(begin_mask), "end_mask": whole(end_mask)}
    return values.graph.node("StridedSlice", (values.plain(call.inputs[0]), begin, end, strides), attributes)


def _bounds(values: Values, name: str, axes: list[int], rank: int) -> tuple[str, int]:
    """A place in every dimension, and the mask of those dimensions that are taken whole."""
    mask = sum(1 << axis for axis in range(rank) if axis not in axes)
    known = values[name].constant
    if known is not None:
        place = {axis: int(np.clip(int(bound), -_LARGE, _LARGE)) for axis, bound in zip(axes, known, strict=True)}
        return values.integers([place.get(axis, 0) for axis in range(rank)]), mask
    if axes == [*range(rank)]:
        return values.plain(name), mask
    if len(axes) > 1:
        raise ExportError("computed places in some of the dimensions are not supported")
    parts = [values.plain(name) if axis in axes else values.integers([0]) for axis in range(rank)]
    return values.graph.node("ConcatV2", (*parts, values.integer(0)), {"N": whole(rank)}), mask


def gather(values: Values, call: Call) -> Answer:
    """Slices along an axis by their places."""
    shape = values.shape(call.inputs[0])
    axis = call.attributes.get("axis", 0) % len(shape)
    size, fixed = shape[axis], values[call.inputs[1]].constant
    indices = values.plain(call.inputs[1]) if fixed is None else ""
    if fixed is not None:
        places = fixed.astype(np.int64)
        if places.min(initial=0) < 0 and isinstance(size, str):
            raise ExportError("Gather counted from the end of a dimension that varies is not supported")
        indices = values.graph.constant(np.where(places < 0, places + _size(size), places))
    return values.graph.node("GatherV2", (values.plain(call.inputs[0]), indices, values.integer(axis)))


def gather_nd(values: Values, call: Call) -> Answer:
    """Slices by places over several axes."""
    if call.attributes.get("batch_dims", 0):
        raise ExportError("GatherND over batches is not supported")
    return values.graph.node("GatherNd", [values.plain(name) for name in call.inputs])


def expand(values: Values, call: Call) -> Answer:
    """Repeated to a shape, by the rules of broadcasting."""
    # ONNX lets a size of 1 stand for "as it is", which TensorFlow's BroadcastTo does not: so combined with ones.
    kind = values[call.inputs[0]].kind
    if kind is None:
        raise ExportError("Expand of a dtype that the graph does not tell is not supported")
    ones = _fill(
        values, values.plain(call.inputs[1]), np.array(1, {"f": np.float32, "b": np.bool_}.get(kind, np.int32))
    )
    return values.graph.node("LogicalAnd" if kind == "b" else "Mul", (values.plain(call.inputs[0]), ones))


def constant_of_shape(values: Values, call: Call) -> Answer:
    """One value in a computed shape."""
    value = call.attributes.get("value", np.zeros(1, np.float32))
    return _fill(values, values.plain(call.inputs[0]), value.reshape(()))


def _fill(values: Values, shape: str, value: Array) -> str:
    kind = {"f": "DT_FLOAT", "b": "DT_BOOL"}.get(value.dtype.kind, "DT_INT32")
    return values.graph.node("Fill", (shape, values.graph.constant(value)), {"T": dtype(kind)})


def range_(values: Values, call: Call) -> Answer:
    """Numbers from a start to a stop."""
    kind = "DT_FLOAT" if values[call.outputs[0]].kind == "f" else "DT_INT32"
    return values.graph.node("Range", [values.plain(name) for name in call.inputs], {"Tidx": dtype(kind)})


def shape(values: Values, call: Call) -> Answer:
    """The sizes of the dimensions."""
    # Sizes in the order of ONNX: an image that is only there as NHWC is turned first.
    found = values.graph.node("Shape", (values.plain(call.inputs[0]),))
    start, end = call.attributes.get("start", 0), call.attributes.get("end")
    if start == 0 and end is None:
        return found
    rank = values.rank(call.inputs[0])
    stop = rank if end is None else end if end >= 0 else rank + end
    inputs = (found, values.integers([start % rank]), values.integers([stop]), values.integers([1]))
    return values.graph.node("StridedSlice", inputs)


def pad(values: Values, call: Call) -> Answer:
    """A constant around the numbers."""
    if call.attributes.get("mode", "constant") != "constant" or call.has(3):
        raise ExportError("Pad other than by a constant, over all axes, is not supported")
    widths = values.constant(call, 1).reshape(2, -1).T
    if widths.astype(np.int64).min(initial=0) < 0:
        raise ExportError("Pad by less than nothing is not supported")
    filler = values.scalar(float(values.constant(call, 2)) if call.has(2) else 0.0)
    image = values.is_image(call.inputs[0])
    x = values.nhwc(call.inputs[0]) if image else values.plain(call.inputs[0])
    ordered = widths[[0, 2, 3, 1]] if image else widths
    padded = values.graph.node("PadV2", (x, values.graph.constant(ordered), filler))
    return Nhwc(padded) if image else padded


def tile(values: Values, call: Call) -> Answer:
    """Repeated along each axis."""
    return values.graph.node("Tile", [values.plain(name) for name in call.inputs])
