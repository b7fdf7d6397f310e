"""Operators of ONNX on batches of images, as nodes of TensorFlow.js: convolutions, pooling, resizing.

Each takes its input as NHWC and answers NHWC. Called through the table of tfjs_ops.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runoff.errors import ExportError
from runoff.export.tfjs_graph import flag, text, texts, whole, wholes
from runoff.export.tfjs_values import Call, Nhwc, Values
from runoff.models.arrays import Array

_LOWEST = float(np.finfo(np.float32).min)


def conv(values: Values, call: Call) -> Nhwc:
    """A convolution of images, in groups or not; depthwise where every channel is a group of its own."""
    weights = values.constant(call, 1)
    if weights.ndim != 4:
        raise ExportError(f"Conv over {weights.ndim - 2} dimensions is not supported, only over images")
    groups = int(call.attributes.get("group", 1))
    x = values.nhwc(call.inputs[0])
    shape = values.shape(call.inputs[0])
    attributes = _window(call, weights.shape[2:], shape)
    bias = values.constant(call, 2) if call.has(2) else None
    if groups == 1:
        return Nhwc(_convolve(values, "_FusedConv2D", x, weights.transpose(2, 3, 1, 0), bias, attributes))
    if weights.shape[1] == 1 and shape[1] == groups:
        # (groups * times, 1, h, w) -> (h, w, groups, times)
        by_group = weights.reshape(groups, -1, *weights.shape[2:])
        filters = by_group.transpose(2, 3, 0, 1)
        return Nhwc(_convolve(values, "FusedDepthwiseConv2dNative", x, filters, bias, attributes))
    width = weights.shape[1]
    sizes = values.integers([width] * groups)
    split = values.graph.node("SplitV", (x, sizes, values.integer(3)), {"num_split": whole(groups)})
    per_group = np.split(weights, groups)
    biases = np.split(bias, groups) if bias is not None else [None] * groups
    parts = [
        _convolve(
            values,
            "_FusedConv2D",
            split if index == 0 else f"{split}:{index}",
            filters.transpose(2, 3, 1, 0),
            biases[index],
            attributes,
        )
        for index, filters in enumerate(per_group)
    ]
    return Nhwc(values.graph.node("ConcatV2", (*parts, values.integer(3)), {"N": whole(groups)}))


def _convolve(values: Values, op: str, x: str, filters: Array, bias: Array | None, attributes: dict[str, Any]) -> str:
    weights = values.graph.constant(np.ascontiguousarray(filters))
    if bias is None:
        plain = "Conv2D" if op == "_FusedConv2D" else "DepthwiseConv2dNative"
        return values.graph.node(plain, (x, weights), attributes)
    fused = {**attributes, "fused_ops": texts(["BiasAdd"]), "num_args": whole(1)}
    return values.graph.node(op, (x, weights, values.graph.constant(bias)), fused)


def _window(call: Call, kernel: Sequence[int], shape: Sequence[int | str]) -> dict[str, Any]:
    strides = call.attributes.get("strides", [1, 1])
    dilations = call.attributes.get("dilations", [1, 1])
    top, left, bottom, right = _pads(call, kernel, shape, strides, dilations)
    return {
        "strides": wholes([1, *strides, 1]),
        "dilations": wholes([1, *dilations, 1]),
        "data_format": text("NHWC"),
        "padding": text("EXPLICIT"),
        "explicit_paddings": wholes([0, 0, top, bottom, left, right, 0, 0]),
    }


def _pads(
    call: Call, kernel: Sequence[int], shape: Sequence[int | str], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Rows and columns that are added: top, left, bottom, right."""
    auto = call.attributes.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        return list(call.attributes.get("pads", [0, 0, 0, 0])) if auto == "NOTSET" else [0, 0, 0, 0]
    starts, ends = [], []
    for size, width, stride, dilation in zip(shape[2:], kernel, strides, dilations, strict=True):
        if isinstance(size, str):
            raise ExportError(f"{call.op} with auto_pad {auto} needs images of a fixed size")
        total = max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        starts.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return [*starts, *ends]


def max_pool(values: Values, call: Call) -> Nhwc:
    """The largest value of each window; what is padded never wins."""
    return _pool(values, call, "MaxPool", _LOWEST)


def average_pool(values: Values, call: Call) -> Nhwc:
    """The mean of each window.

    Raises:
        ExportError: padding that does not count, which TensorFlow.js has in another form only.
    """
    if any(call.attributes.get("pads", ())) and not call.attributes.get("count_include_pad", 0):
        raise ExportError("AveragePool with padding that does not count is not supported")
    return _pool(values, call, "AvgPool", 0.0)


def _pool(values: Values, call: Call, op: str, padding: float) -> Nhwc:
    kernel = call.attributes["kernel_shape"]
    if len(kernel) != 2 or len(call.outputs) > 1:
        raise ExportError(f"{call.op} over other than images, or with indices, is not supported")
    if any(size != 1 for size in call.attributes.get("dilations", ())):
        raise ExportError(f"{call.op} with dilations is not supported")
    shape = values.shape(call.inputs[0])
    strides = call.attributes.get("strides", [1, 1])
    pads = _pads(call, kernel, shape, strides, [1, 1])
    if call.attributes.get("ceil_mode", 0):
        pads = _with_ceiling(call, pads, shape, kernel, strides)
    x = values.nhwc(call.inputs[0])
    if any(pads):
        top, left, bottom, right = pads
        widths = values.graph.constant(np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
        x = values.graph.node("PadV2", (x, widths, values.scalar(padding)))
    attributes = {
        "ksize": wholes([1, *kernel, 1]),
        "strides": wholes([1, *strides, 1]),
        "padding": text("VALID"),
        "data_format": text("NHWC"),
    }
    return Nhwc(values.graph.node(op, (x,), attributes))


def _with_ceiling(
    call: Call, pads: list[int], shape: Sequence[int | str], kernel: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """More padding at the end, so that the last window that was only begun is counted too."""
    if call.op == "AveragePool":
        raise ExportError("AveragePool with ceil_mode is not supported")
    wider = list(pads)
    for axis, (size, width, stride) in enumerate(zip(shape[2:], kernel, strides, strict=True)):
        if isinstance(size, str):
            raise ExportError(f"{call.op} with ceil_mode needs images of a fixed size")
        rest = (size + pads[axis] + pads[axis + 2] - width) % stride
        # A window that would start in the padding at the end does not count.
        starts = -(-(size + pads[axis] + pads[axis + 2] - width) // stride) * stride
        if rest and starts < size + pads[axis]:
            wider[axis + 2] += stride - rest
    return wider


def global_average_pool(values: Values, call: Call) -> Nhwc:
    """The mean of each channel."""
    inputs = (values.nhwc(call.inputs[0]), values.integers([1, 2]))
    return Nhwc(values.graph.node("Mean", inputs, {"keep_dims": flag(value=True)}))


def global_max_pool(values: Values, call: Call) -> Nhwc:
    """The largest value of each channel."""
    inputs = (values.nhwc(call.inputs[0]), values.integers([1, 2]))
    return Nhwc(values.graph.node("Max", inputs, {"keep_dims": flag(value=True)}))


def resize(values: Values, call: Call) -> Nhwc:
    """Images at another size, which must be fixed: linear or nearest, as TensorFlow.js has them.

    Raises:
        ExportError: a mode, a way to place pixels, or a size that it does not have.
    """
    mode = call.attributes.get("mode", "nearest")
    place = call.attributes.get("coordinate_transformation_mode", "half_pixel")
    nearest = call.attributes.get("nearest_mode", "round_prefer_floor")
    known = {("linear", "half_pixel"), ("linear", "align_corners"), ("nearest", "asymmetric"), ("linear", "asymmetric")}
    if (mode, place) not in known or (mode == "nearest" and nearest != "floor"):
        raise ExportError(f"Resize by {mode} with {place} and {nearest} is not supported")
    shape = values.shape(call.inputs[0])
    height, width = shape[2:] if len(shape) == 4 else ("?", "?")
    if call.has(3):
        height, width = (int(size) for size in values.constant(call, 3)[2:])
    elif isinstance(height, int) and isinstance(width, int):
        by_height, by_width = values.constant(call, 2)[2:].astype(np.float64)
        height, width = int(height * by_height), int(width * by_width)
    else:
        raise ExportError("Resize by a factor needs images of a fixed size")
    op = "ResizeBilinear" if mode == "linear" else "ResizeNearestNeighbor"
    attributes = {
        "align_corners": flag(value=place == "align_corners"),
        "half_pixel_centers": flag(value=place == "half_pixel"),
    }
    return Nhwc(values.graph.node(op, (values.nhwc(call.inputs[0]), values.integers([height, width])), attributes))
