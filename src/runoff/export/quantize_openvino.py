"""To `openvino` at int8 and int4 with NNCF: post-training quantisation, its accuracy control, and 4-bit weights.

Runs in the export worker. Knows no plan, no contract and no manifest.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runoff.backends.usage_reports import hide_openvino_telemetry
from runoff.errors import ExportError
from runoff.export.layers import group_layers, kept_nodes, last_line, read_feeds, reported
from runoff.export.step import Control, Made, Quantization, StepOptions, quiet
from runoff.models.arrays import Array
from runoff.models.evaluation import metric_for
from runoff.models.folder import Package

hide_openvino_telemetry()

import nncf  # noqa: E402
import openvino  # noqa: E402
from nncf.quantization.range_estimator import RangeEstimatorParametersSet  # noqa: E402

MAIN_FILE = "model.xml"
_LAYER_OPS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul")
_NO_OPS = ("Constant", "Parameter", "Result", "Convert")
_INTEGERS = ("i8", "u8", "i4", "u4")
_GROUP_SIZE = 32
_RANGES = {
    "minmax": RangeEstimatorParametersSet.MINMAX,
    "entropy": RangeEstimatorParametersSet.HISTOGRAM,
    "percentile": RangeEstimatorParametersSet.MEAN_QUANTILE,
}
"""NNCF's default, the mean over rows of each row's range, cuts off most rows of a net with few activations."""
_DEPTH = 6
"""Nodes between a layer and what quantises its weights: dequantisation, reshapes and transposes."""


def int8_static(source: Package, destination: Path, options: StepOptions) -> Made:
    """Weights and activations in 8 bits, with ranges read from calibration rows.

    With labelled rows and a drop, NNCF keeps as many layers back as it takes to stay within the drop.

    Raises:
        ExportError: there is nothing to quantise, or NNCF cannot do it.
    """
    wanted = options.quantization or Quantization()
    rows = options.batch if isinstance(options.batch, int) else 1
    with _reported(source), quiet():
        model = openvino.Core().read_model(str(source.main_file))
        layers = _layers(model)
        if not layers:
            own = ", ".join(sorted({op.get_type_name() for op in model.get_ops()} - set(_NO_OPS))) or "no operator"
            raise ExportError(
                f"nothing in {source.id} can be quantised: int8 takes {', '.join(_LAYER_OPS)}, it has {own}"
            )
        feeds = read_feeds(wanted, rows)
        advanced = nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.FIRST_LAYER if wanted.reduce_range else nncf.OverflowFix.DISABLE,
            activations_range_estimator_params=_RANGES[wanted.calibration],
        )
        settings = {
            "calibration_dataset": nncf.Dataset(feeds),
            "subset_size": len(feeds),
            "model_type": nncf.ModelType.TRANSFORMER if _has_attention(model) else None,
            "ignored_scope": nncf.IgnoredScope(names=sorted(kept_nodes(layers, wanted.kept)), validate=False),
        }
        if wanted.control is None:
            quantised = nncf.quantize(model, advanced_parameters=advanced, **settings)
        else:
            quantised = _controlled(model, wanted, rows, {"advanced_quantization_parameters": advanced, **settings})
    details = {
        "method": "int8-static",
        "calibration": wanted.calibration,
        "reduce_range": wanted.reduce_range,
        "accuracy_control": wanted.control is not None,
    }
    return _save(quantised, destination, tuple(layers), details)


def int4(source: Package, destination: Path, options: StepOptions) -> Made:
    """Weights of linear layers in 4 bits, in groups of 32 with a scale each, others in 8; activations as they are.

    Raises:
        ExportError: there is no linear layer with constant weights, or NNCF cannot do it.
    """
    wanted = options.quantization or Quantization()
    with _reported(source), quiet():
        model = openvino.Core().read_model(str(source.main_file))
        layers = tuple(
            op.get_friendly_name()
            for op in model.get_ordered_ops()
            if op.get_type_name() == "MatMul" and _has_weights(op)
        )
        if not layers:
            raise ExportError(
                f"nothing in {source.id} can be quantised: int4 takes linear layers with constant weights"
            )
        compressed = nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=_GROUP_SIZE,
            ratio=1.0,
            all_layers=True,
            ignored_scope=nncf.IgnoredScope(names=list(wanted.kept), validate=False),
            advanced_parameters=nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
            ),
        )
    return _save(compressed, destination, layers, {"method": "int4", "group_size": _GROUP_SIZE})


def _controlled(model: Any, wanted: Quantization, rows: int, settings: dict[str, Any]) -> Any:
    """Quantise under NNCF's accuracy control."""
    control = wanted.control
    assert control is not None  # noqa: S101 - the caller asked
    labels = np.load(control.labels, allow_pickle=False)
    inputs = read_feeds(msgspec.structs.replace(wanted, data=control.inputs), rows)
    pieces = [np.arange(start, start + rows) % len(labels) for start in range(0, len(labels), rows)]
    pairs = list(zip(inputs, [labels[piece] for piece in pieces], strict=True))
    return nncf.quantize_with_accuracy_control(
        model,
        validation_dataset=nncf.Dataset(pairs, lambda pair: pair[0]),
        validation_fn=lambda compiled, items: _metric(compiled, items, control),
        max_drop=control.max_drop,
        **settings,
    )


def _metric(compiled: Any, items: Any, control: Control) -> tuple[float, list[float]]:
    """The task's metric over all items, and over each alone."""
    found = metric_for(control.task)
    if found is None:
        raise ExportError(f"the task {control.task!r} has no metric")
    names = [port.get_any_name() for port in compiled.outputs]
    each, total, count = [], 0.0, 0
    for feed, labels in items:
        answer = compiled(feed)
        outputs: dict[str, Array] = {name: np.array(answer[i]) for i, name in enumerate(names)}
        each.append(found[1](outputs, labels))
        total, count = total + each[-1] * len(labels), count + len(labels)
    return total / max(1, count), each


def _reported(source: Package) -> AbstractContextManager[None]:
    return reported("NNCF", source.id, last_line)


def _layers(model: Any) -> dict[str, tuple[str, ...]]:
    nodes = ((op.get_friendly_name(), op.get_type_name()) for op in model.get_ordered_ops())
    return group_layers((name, kind in _LAYER_OPS) for name, kind in nodes if kind not in _NO_OPS)


def _has_attention(model: Any) -> bool:
    kinds = {op.get_type_name() for op in model.get_ops()}
    return "ScaledDotProductAttention" in kinds or ("Softmax" in kinds and "MatMul" in kinds)


def _has_weights(op: Any) -> bool:
    """Whether the second factor is a constant."""
    node = op.input_value(1).get_node()
    for _ in range(_DEPTH):
        if node.get_type_name() == "Constant":
            return True
        if node.get_input_size() != 1:
            return False
        node = node.input_value(0).get_node()
    return False


def _is_quantised(op: Any) -> bool:
    """Whether the second factor of a layer comes from small integers or from a node that rounds to them."""
    pending = [(op.input_value(1).get_node(), 0)]
    while pending:
        node, depth = pending.pop()
        kind = node.get_type_name()
        if kind == "FakeQuantize" or (kind == "Constant" and node.get_element_type().get_type_name() in _INTEGERS):
            return True
        if depth < _DEPTH and kind not in _LAYER_OPS:
            pending += [(node.input_value(i).get_node(), depth + 1) for i in range(node.get_input_size())]
    return False


def _save(model: Any, destination: Path, layers: tuple[str, ...], details: dict[str, Any]) -> Made:
    # Besides the layers NNCF's notes are dropped: they repeat the settings, local paths among them.
    quantised = {
        op.get_friendly_name() for op in model.get_ops() if op.get_type_name() in _LAYER_OPS and _is_quantised(op)
    }
    openvino.save_model(model, destination / MAIN_FILE, compress_to_fp16=False)
    versions = {"nncf": nncf.__version__, "openvino": openvino.__version__}
    kept = tuple(layer for layer in layers if layer not in quantised)
    return Made(MAIN_FILE, "nncf", versions, {}, layers, kept, details)
