"""To `openvino` at int8 and int4 with NNCF: post-training quantisation, its accuracy control, and 4-bit weights.

Runs in the export worker. Knows no plan, no contract and no manifest. A layer is a convolution or matrix product with
what follows it up to the next one: keeping it keeps all of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

from runoff.errors import ExportError
from runoff.export.step import Control, Made, Quantization, StepOptions, quiet
from runoff.models.arrays import Array, Arrays, read_npz
from runoff.models.evaluation import metric_for
from runoff.models.folder import Package
from runoff.models.samples import take_rows

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
    if wanted.data is None:
        raise ExportError("int8-static needs calibration data")
    rows = options.batch if isinstance(options.batch, int) else 1
    with _reported(source), quiet():
        model = openvino.Core().read_model(str(source.main_file))
        layers = _layers(model)
        if not layers:
            own = ", ".join(sorted({op.get_type_name() for op in model.get_ops()} - set(_NO_OPS))) or "no operator"
            raise ExportError(
                f"nothing in {source.id} can be quantised: int8 takes {', '.join(_LAYER_OPS)}, it has {own}"
            )
        feeds = _feeds(read_npz(Path(wanted.data)), wanted.batched, rows)
        advanced = nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.FIRST_LAYER if wanted.reduce_range else nncf.OverflowFix.DISABLE,
            activations_range_estimator_params=_RANGES[wanted.calibration],
        )
        settings = {
            "calibration_dataset": nncf.Dataset(feeds),
            "subset_size": len(feeds),
            "model_type": nncf.ModelType.TRANSFORMER if _has_attention(model) else None,
            "ignored_scope": nncf.IgnoredScope(
                names=[name for layer in wanted.kept for name in layers.get(layer, ())], validate=False
            ),
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
    inputs = _feeds(read_npz(Path(control.inputs)), wanted.batched, rows)
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


@contextmanager
def _reported(source: Package) -> Iterator[None]:
    """Turn what NNCF and OpenVINO raise within into an ExportError that names the package."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = lines[-1][:300] if lines else ""
        raise ExportError(f"NNCF cannot quantise {source.id}: {type(error).__name__}: {why}") from error


def _feeds(arrays: Arrays, batched: Sequence[str], size: int) -> list[Arrays]:
    total = max((len(arrays[name]) for name in batched), default=1)
    return [take_rows(arrays, batched, np.arange(start, start + size) % total) for start in range(0, total, size)]


def _layers(model: Any) -> dict[str, tuple[str, ...]]:
    """Each layer's name with the names of its nodes; what stands before the first layer belongs to it."""
    found: dict[str, list[str]] = {}
    before: list[str] = []
    current: list[str] | None = None
    for op in model.get_ordered_ops():
        kind, name = op.get_type_name(), op.get_friendly_name()
        if kind in _NO_OPS:
            continue
        if kind in _LAYER_OPS:
            current = found.setdefault(name, before)
            before = []
        (before if current is None else current).append(name)
    return {name: tuple(nodes) for name, nodes in found.items()}


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
