"""To `litert` at int8 with AI Edge Quantizer: static, with ranges read from calibration rows, and dynamic.

Runs in the export worker. Knows no plan, no contract and no manifest. Operators of a file have no names, so a layer is
named by its kind and its place in the graph, such as `conv_2d_3`.
"""

from __future__ import annotations

import math
import re
from contextlib import AbstractContextManager, redirect_stderr
from functools import lru_cache
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import Quantizer, calibrator, qtyping, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.utils import qsv_utils, tfl_flatbuffer_utils

from runoff.backends.threads import default_threads
from runoff.errors import ExportError
from runoff.export.layers import group_layers, kept_nodes, kept_of, on_one_line, read_feeds, reported
from runoff.export.litert import MAIN_FILE
from runoff.export.step import Made, Quantization, StepOptions, quiet
from runoff.models.dimensions import SIZES, fixed_sizes
from runoff.models.folder import Package
from runoff.types import Signature

_TOOL = "ai-edge-quantizer"
_KINDS = {value: name.lower() for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_CONVOLUTIONS = ("conv_2d", "depthwise_conv_2d", "transpose_conv")
_LINEAR = ("fully_connected", "batch_matmul")
_BITS = 8


class _Operator(NamedTuple):
    """An operator of the file: our name for it, its kind, the quantizer's name for it, and the size of its weights."""

    name: str
    kind: str
    scope: str
    num_weights: int


def int8_static(source: Package, destination: Path, options: StepOptions) -> Made:
    """Weights for each channel and activations in 8 bits, with ranges read from calibration rows.

    A convolutional net is quantised from end to end; in others only the layers are, because 8 bits serve the ranges of
    softmax, normalisation and sums badly. Inputs and outputs stay in fp32.

    Raises:
        ExportError: there is nothing to quantise, or the quantizer cannot do it.
    """
    wanted = options.quantization or Quantization()
    with _reported(source), quiet():
        operators = _operators(source.main_file)
        layers = _layers(source, operators)
        kinds = _LINEAR if _is_linear(operators) else ()
        size = source.entry.batch if isinstance(source.entry.batch, int) else 1
        plain = msgspec.structs.replace(wanted, kept=())
        ranges = _ranges(source.main_file, plain, size, source.signature, kinds)
        quantizer = Quantizer(str(source.main_file))
        quantizer.load_quantization_recipe(_static_recipe(kinds))
        _keep(quantizer, operators, kept_nodes(layers, wanted.kept))
        _save(quantizer, ranges, destination)
    return _made(source, destination, layers, wanted, {"method": "int8-static", "calibration": wanted.calibration})


def int8_dynamic(source: Package, destination: Path, options: StepOptions) -> Made:
    """Store the weights in int8, a scale for each channel; inputs of each layer are quantised as they come.

    Needs no data. Layers that have no such kernel stay at fp32.

    Raises:
        ExportError: the quantizer refuses the file, or finds nothing in it that it can store in int8.
    """
    wanted = options.quantization or Quantization()
    with _reported(source), quiet():
        operators = _operators(source.main_file)
        layers = _layers(source, operators)
        quantizer = Quantizer(str(source.main_file))
        quantizer.add_dynamic_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, _BITS)
        _keep(quantizer, operators, kept_nodes(layers, wanted.kept))
        _save(quantizer, None, destination)
    return _made(source, destination, layers, wanted, {"method": "int8-dynamic"})


def _reported(source: Package) -> AbstractContextManager[None]:
    return reported("AI Edge Quantizer", source.id, on_one_line)


def _operators(path: Path) -> list[_Operator]:
    """The operators of the file's first graph, in its order."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    graph = model.subgraphs[0]
    found = []
    for place, operator in enumerate(graph.operators):
        code = model.operatorCodes[operator.opcodeIndex]
        kind = _KINDS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "custom")
        weights = [graph.tensors[index] for index in operator.inputs if index >= 0]
        sizes = [math.prod(tensor.shape) for tensor in weights if _is_stored(model, tensor)]
        scope = tfl_flatbuffer_utils.get_op_scope(operator, graph.tensors)
        found.append(_Operator(f"{kind}_{place}", kind, scope, max(sizes, default=0)))
    return found


def _is_stored(model: Any, tensor: Any) -> bool:
    stored = model.buffers[tensor.buffer]
    return bool(stored.size) or (stored.data is not None and len(stored.data) > 0)


def _layers(source: Package, operators: list[_Operator]) -> dict[str, tuple[str, ...]]:
    layers = group_layers((operator.name, operator.kind in (*_CONVOLUTIONS, *_LINEAR)) for operator in operators)
    if not layers:
        own = ", ".join(sorted({operator.kind for operator in operators})) or "no operator"
        takes = ", ".join((*_CONVOLUTIONS, *_LINEAR))
        raise ExportError(f"nothing in {source.id} can be quantised to int8: it takes {takes}, the file has {own}")
    return layers


def _is_linear(operators: list[_Operator]) -> bool:
    """Whether more weights lie in linear layers than in convolutions."""
    convolutions = sum(operator.num_weights for operator in operators if operator.kind in _CONVOLUTIONS)
    return sum(operator.num_weights for operator in operators if operator.kind in _LINEAR) > convolutions


def _static_recipe(kinds: tuple[str, ...]) -> Any:
    """The recipe for these kinds of operators, or for all where none are named."""
    recipe = recipe_manager.RecipeManager()
    for kind in kinds or ("all_supported",):
        recipe.add_static_config(".*", qtyping.TFLOperationName[kind.upper()], _BITS, _BITS)
    for port in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        recipe.add_quantization_config(".*", port, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return recipe.get_quantization_recipe()


@lru_cache(maxsize=1)
def _ranges(path: Path, wanted: Quantization, size: int, signature: Signature, kinds: tuple[str, ...]) -> Any:
    """The range of every tensor; kept, because a search quantises many times with the same.

    Every value seen counts: the quantizer's own way, a moving average of each row's range, cuts most rows off.
    """
    feeds = read_feeds(wanted, size, signature)
    recipe = recipe_manager.RecipeManager()
    recipe.load_quantization_recipe(_static_recipe(kinds))
    interpreter = Interpreter(model_path=str(path))
    key = next(iter(interpreter.get_signature_list()))
    ports = interpreter.get_signature_runner(key).get_input_details()
    reader = calibrator.Calibrator(
        path.read_bytes(), num_threads=default_threads(), qsv_update_func=qsv_utils.min_max_update
    )
    rows = [{name: array.astype(ports[name]["dtype"]) for name, array in feed.items()} for feed in feeds]
    # It draws a progress bar on standard error.
    with redirect_stderr(StringIO()):
        reader.calibrate({key: rows}, recipe)
    return reader.get_model_qsvs()


def _keep(quantizer: Quantizer, operators: list[_Operator], kept: set[str]) -> None:
    """Leave operators as they are; later rules of a recipe outdo earlier ones."""
    for operator in operators:
        if operator.name in kept:
            scope = f"^{re.escape(operator.scope)}$"
            everything = qtyping.TFLOperationName.ALL_SUPPORTED
            quantizer.update_quantization_recipe(scope, everything, algorithm_key=AlgorithmName.NO_QUANTIZE)


def _save(quantizer: Quantizer, ranges: Any, destination: Path) -> None:
    result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    result.export_model(str(destination / MAIN_FILE))


def _made(
    source: Package,
    destination: Path,
    layers: dict[str, tuple[str, ...]],
    wanted: Quantization,
    details: dict[str, Any],
) -> Made:
    kept = kept_of(layers, wanted)
    if len(kept) < len(layers) and not _holds_int8(destination / MAIN_FILE):
        raise ExportError(f"{source.id} has no weights that AI Edge Quantizer stores in int8")
    sizes = fixed_sizes(source.entry)
    versions = {_TOOL: version(_TOOL)}
    return Made(MAIN_FILE, _TOOL, versions, {SIZES: sizes} if sizes else {}, tuple(layers), kept, details)


def _holds_int8(path: Path) -> bool:
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    return any(tensor.type == schema.TensorType.INT8 and _is_stored(model, tensor) for tensor in tensors)
