"""To `executorch` at int8 by PyTorch's PT2E flow and XNNPACK's quantizer: static, and dynamic for linear layers.

Runs in the export worker. Knows no plan, no contract and no manifest. Layers have the names of their nodes in the
captured graph, such as `conv2d_1`.
"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from runoff.errors import ExportError
from runoff.export.executorch import MAIN_FILE, lower
from runoff.export.layers import group_layers, kept_nodes, kept_of, read_feeds, reported
from runoff.export.module import first_line, to_tensor
from runoff.export.quantize_torch import count_weights, operator_name
from runoff.export.step import Made, Quantization, StepOptions, quiet, with_all_sizes
from runoff.export.torch_export import example, load_program, recapture
from runoff.models.arrays import Arrays
from runoff.models.dimensions import SIZES
from runoff.models.folder import Package
from runoff.types import Signature

_LINEAR = ("linear",)
_LAYER_OPS = (*_LINEAR, "conv1d", "conv2d", "convolution", "conv_transpose1d", "conv_transpose2d")
_SMALLEST_STEP = 2**-12
"""Of a scale, as XNNPACK's own settings have it."""
_OBSERVERS = {"minmax": MinMaxObserver, "entropy": HistogramObserver}
"""The histogram's range is the one of the least squared error, which stands for the least entropy."""


def int8_static(source: Package, destination: Path, options: StepOptions) -> Made:
    """Weights for each channel and activations in 8 bits, with ranges read from calibration rows.

    Raises:
        FormatMismatch: torch cannot read the archive.
        ExportError: there is nothing to quantise, or ExecuTorch cannot do it.
    """
    wanted = options.quantization or Quantization()
    settings = _with_observer(get_symmetric_quantization_config(is_per_channel=True), wanted.calibration)
    details = {"method": "int8-static", "calibration": wanted.calibration}
    return _quantise(source, destination, options, settings, _LAYER_OPS, details)


def int8_dynamic(source: Package, destination: Path, options: StepOptions) -> Made:
    """Weights of linear layers in int8, a scale for each channel; their inputs are quantised as they come.

    Needs no data. Other layers stay at fp32.

    Raises:
        FormatMismatch: torch cannot read the archive.
        ExportError: there are no linear layers, or ExecuTorch cannot lower them.
    """
    settings = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    return _quantise(source, destination, options, settings, _LINEAR, {"method": "int8-dynamic"})


def _quantise(
    source: Package,
    destination: Path,
    options: StepOptions,
    settings: Any,
    operators: tuple[str, ...],
    details: dict[str, Any],
) -> Made:
    wanted = options.quantization or Quantization()
    signature, sizes = with_all_sizes(source.signature, options)
    program = load_program(source.main_file)
    if signature != source.signature:
        program = recapture(program.module(), signature, options)
    is_dynamic = bool(settings.input_activation.is_dynamic)
    tensors = tuple(example(signature, options, {}))
    size = options.batch if isinstance(options.batch, int) else 1
    feeds = [] if is_dynamic else [_in_order(feed, signature) for feed in read_feeds(wanted, size, signature)]
    with _reported(source), quiet(), torch.no_grad():
        module = program.module()
        layers = _layers(module, operators)
        if not layers:
            raise ExportError(f"{source.id} has no {_named(operators)} to store in int8")
        kept = kept_nodes(layers, wanted.kept)
        convolutions, linear = count_weights(module)
        # Sums and products between linear layers stay at fp32: masks of attention take ranges that 8 bits serve badly.
        usable = operators if linear > convolutions else None
        quantizer = XNNPACKQuantizer().set_global(settings)
        quantizer.set_filter_function(
            lambda node: node.name not in kept and (usable is None or operator_name(node) in usable)
        )
        prepared: Any = prepare_pt2e(module, quantizer)
        for feed in feeds or [tensors]:
            prepared(*feed)
        quantised = torch.export.export(convert_pt2e(prepared), tensors)
        (destination / MAIN_FILE).write_bytes(lower(quantised, is_dynamic=is_dynamic))
    versions = {"torch": str(torch.__version__), "executorch": version("executorch"), "torchao": version("torchao")}
    requires = {SIZES: sizes} if sizes else {}
    return Made(MAIN_FILE, "executorch", versions, requires, tuple(layers), kept_of(layers, wanted), details)


def _reported(source: Package) -> AbstractContextManager[None]:
    return reported("ExecuTorch", source.id, lambda error: first_line(error).partition(": ")[2])


def _in_order(feed: Arrays, signature: Signature) -> tuple[torch.Tensor, ...]:
    return tuple(to_tensor(feed[spec.name]) for spec in signature.inputs)


def _layers(module: torch.fx.GraphModule, operators: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    calls = (node for node in module.graph.nodes if node.op == "call_function")
    return group_layers((node.name, operator_name(node) in operators) for node in calls)


def _named(operators: tuple[str, ...]) -> str:
    return "linear layers" if operators == _LINEAR else "linear layers or convolutions"


def _with_observer(settings: Any, calibration: str) -> Any:
    """The settings with activations observed in another way."""
    observer = _OBSERVERS[calibration].with_args(eps=_SMALLEST_STEP)
    spec = dataclasses.replace(settings.input_activation, observer_or_fake_quant_ctr=observer)
    return dataclasses.replace(settings, input_activation=spec, output_activation=spec)
