"""What `runoff.package` does with the module itself: example rows, capture or weights, golden outputs.

Imports torch; `packaging.py` loads it by name. Knows no manifest.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runoff.backends import table
from runoff.errors import BackendNotInstalled, ExportError, InputError
from runoff.export.conversions import SAFETENSORS, TORCH_EXPORT
from runoff.export.module import (
    Flat,
    capture,
    check_program,
    evaluating,
    first_line,
    precision_of,
    read_outputs,
    save_program,
    to_array,
    to_tensor,
)
from runoff.export.step import Made, with_batch
from runoff.export.torch_export import MAIN_FILE, TOOL
from runoff.models.arrays import Array, Arrays, batch_size, spec_of
from runoff.models.samples import resize_rows
from runoff.types import Dim, Precision, Signature, TensorSpec

BATCH = "batch"
_WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Packed:
    """What was made of a module: files in the destination, and what the manifest needs to say about them."""

    made: Made
    format: str
    precision: Precision
    signature: Signature
    inputs: Arrays
    outputs: Arrays


def pack(module: Any, inputs: Any, destination: Path, options: Any) -> Packed:
    """Write a module's package files.

    Args:
        module: an `nn.Module`, left as it was.
        inputs: see `packaging.package`.
        destination: an empty folder.
        options: `packaging.PackagingOptions`.

    Raises:
        InputError, ExportError: see `packaging.package`.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"module is a {type(module).__name__}, expected a torch.nn.Module")
    if options.keep not in ("graph", "code"):
        raise InputError(f"keep={options.keep!r} is neither 'graph' nor 'code'")
    if options.batch != "dynamic" and (not isinstance(options.batch, int) or options.batch < 1):
        raise InputError(f"batch={options.batch!r} is neither 'dynamic' nor a positive number")
    if options.keep == "code":
        target = _dotted_name(module)
    arrays = _named_inputs(module, inputs)
    specs = _input_specs(arrays, options.dynamic)
    arrays = _enough_rows(Signature(specs, ()), arrays, options)
    if options.batch != "dynamic":
        specs = with_batch(Signature(specs, ()), options.batch).inputs
    with evaluating(module):
        module = _on_cpu(module)
        outputs = _run(module, arrays, options.outputs)
        signature = Signature(specs, _output_specs(module, specs, arrays, outputs))
        if options.keep == "code":
            made = _save_code(module, target, signature, arrays, (destination, options))
        else:
            made = _save_graph(module, signature, arrays, destination)
        kept = SAFETENSORS if options.keep == "code" else TORCH_EXPORT
        return Packed(made, kept, precision_of(module), signature, arrays, outputs)


def _named_inputs(module: nn.Module, inputs: Any) -> dict[str, Array]:
    parameters = inspect.signature(module.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = [p.name for p in parameters if p.name in names and p.default is p.empty]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if isinstance(inputs, Mapping):
        given = dict(inputs)
    else:
        values = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
        if len(values) > len(names):
            raise InputError(
                f"{len(values)} example inputs, and {type(module).__name__}.forward names {len(names)}",
                hint="pass a mapping of name to array, to a forward() that takes its inputs by name",
            )
        given = dict(zip(names, values, strict=False))
    unknown = [name for name in given if name not in names and not takes_any]
    missing = [name for name in required if name not in given]
    if unknown or missing or not given:
        parts = [f"unknown {', '.join(unknown)}"] if unknown else []
        parts += [f"missing {', '.join(missing)}"] if missing else []
        raise InputError(
            f"the example inputs do not fit {type(module).__name__}.forward({', '.join(names)}): "
            f"{'; '.join(parts) or 'there are none'}"
        )
    return {name: to_array(to_tensor(value)) for name, value in given.items()}


def _input_specs(arrays: Arrays, dynamic: Mapping[str, Mapping[int, str]]) -> tuple[TensorSpec, ...]:
    """Axis 0 is the batch in every input with as many rows as the first; further names come from the options."""
    unknown = [name for name in dynamic if name not in arrays]
    if unknown:
        raise InputError(f"dynamic names the input {unknown[0]!r}; the model takes {', '.join(arrays)}")
    first = next(iter(arrays.values()))
    rows = first.shape[0] if first.ndim else None
    specs = []
    for name, array in arrays.items():
        exact = spec_of(name, array)
        shape: list[Dim] = list(exact.shape)
        if array.ndim and array.shape[0] == rows:
            shape[0] = BATCH
        for axis, label in dynamic.get(name, {}).items():
            if not 0 <= axis < array.ndim:
                raise InputError(f"dynamic names axis {axis} of {name!r}, which has shape {list(array.shape)}")
            shape[axis] = label
        specs.append(TensorSpec(name, exact.dtype, tuple(shape)))
    return tuple(specs)


def _enough_rows(signature: Signature, arrays: dict[str, Array], options: Any) -> dict[str, Array]:
    """The example with the rows that the capture needs: N, or at least two that differ where the batch is dynamic."""
    rows = batch_size(signature, arrays)
    if rows == 0:
        raise InputError("the example inputs have no row")
    if options.batch != "dynamic":
        return resize_rows(signature, arrays, options.batch)
    if rows > 1:
        return arrays
    generator = np.random.default_rng(options.seed)
    wider = resize_rows(signature, arrays, 2)
    for name, array in wider.items():
        if array.dtype.kind == "f" and array.shape != arrays[name].shape:
            noise = generator.standard_normal(array.shape[1:]) * (float(array.std()) or 1.0)
            array[1] = (array[1] + noise).astype(array.dtype)
    return wider


def _on_cpu(module: nn.Module) -> nn.Module:
    """The module itself when it lies on the CPU, else a copy there."""
    if all(part.device.type == "cpu" for part in (*module.parameters(), *module.buffers())):
        return module
    return copy.deepcopy(module).cpu()


def _run(module: nn.Module, arrays: Arrays, names: Sequence[str] | None) -> dict[str, Array]:
    return read_outputs(module, {name: to_tensor(array.copy()) for name, array in arrays.items()}, names)


def _output_specs(
    module: nn.Module, specs: tuple[TensorSpec, ...], arrays: Arrays, outputs: Arrays
) -> tuple[TensorSpec, ...]:
    """Which output dimensions follow which named dimension: each is made one longer in turn, and the module run."""
    shapes: dict[str, list[Dim]] = {name: [int(size) for size in array.shape] for name, array in outputs.items()}
    for label in dict.fromkeys(dim for spec in specs for dim in spec.shape if isinstance(dim, str)):
        longer, size = _longer(specs, arrays, label)
        try:
            answers = _run(module, longer, list(outputs))
        except ExportError as error:
            raise ExportError(
                f"the module works at {label} {size} but not at {label} {size + 1}: {error.message}",
                hint="pass batch=N to package it for one batch size"
                if label == BATCH
                else f"{label!r} is not dynamic in this module",
            ) from error
        for name, array in answers.items():
            for axis, (old, new) in enumerate(zip(outputs[name].shape, array.shape, strict=True)):
                if old != new:
                    shapes[name][axis] = label if (old, new) == (size, size + 1) else f"{name}_{axis}"
    return tuple(TensorSpec(name, spec_of(name, outputs[name]).dtype, tuple(shape)) for name, shape in shapes.items())


def _longer(specs: tuple[TensorSpec, ...], arrays: Arrays, label: str) -> tuple[dict[str, Array], int]:
    """The inputs with one named dimension one longer, and its size before."""
    longer, size = dict(arrays), 0
    for spec in specs:
        for axis, dim in enumerate(spec.shape):
            if dim == label:
                size = arrays[spec.name].shape[axis]
                longer[spec.name] = np.take(longer[spec.name], np.arange(size + 1) % size, axis=axis)
    return longer, size


def _save_graph(module: nn.Module, signature: Signature, arrays: Arrays, destination: Path) -> Made:
    """Capture the module, hold the program against it, at one row too where the batch is dynamic, and save it."""
    flat = Flat(module, [spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs])
    program = capture(flat, [to_tensor(array) for array in arrays.values()], signature)
    for rows in (batch_size(signature, arrays), 1):
        check_program(program, flat, [to_tensor(array) for array in resize_rows(signature, arrays, rows).values()])
    save_program(program, destination / MAIN_FILE)
    return Made(MAIN_FILE, TOOL, {"torch": str(torch.__version__)})


def _dotted_name(module: nn.Module) -> str:
    """`package.module:Class` of a module whose class can be imported again."""
    kind = type(module)
    target = f"{kind.__module__}:{kind.__qualname__}"
    importable = kind.__module__ != "__main__" and kind.__qualname__.isidentifier()
    try:
        importable = importable and table.load(target) is kind
    except BackendNotInstalled:
        importable = False
    if not importable:
        raise ExportError(
            f"keep='code' needs a class that can be imported, {target} cannot",
            hint="move the class to the top of a module of its own, or use keep='graph'",
        )
    return target


def _save_code(module: nn.Module, target: str, signature: Signature, arrays: Arrays, place: tuple[Path, Any]) -> Made:
    """Save the weights, and prove that the class builds the same module from them."""
    import safetensors
    from safetensors.torch import save_file

    destination, options = place
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    outputs = [spec.name for spec in signature.outputs]
    try:
        twin = type(module)(**options.arguments)
        twin.load_state_dict(weights)
    except Exception as error:
        raise ExportError(
            f"{target} cannot be built again with its weights: {first_line(error)}",
            hint="PackagingOptions(arguments={...}) holds what the class is called with",
        ) from error
    tensors = [to_tensor(array) for array in arrays.values()]
    by_name = Flat(module, list(arrays), outputs)(*tensors)
    by_position = Flat(twin.eval(), list(arrays), outputs, by_position=True)(*tensors)
    if not all(torch.equal(by_name[name], by_position[name]) for name in outputs):
        raise ExportError(
            f"{target} built again, and called with its inputs in order, answers differently",
            hint="name every input and output in the order of forward(), or use keep='graph'",
        )
    save_file(weights, destination / _WEIGHTS_FILE)
    versions = {"torch": str(torch.__version__), "safetensors": safetensors.__version__}
    return Made(_WEIGHTS_FILE, "safetensors", versions, {"module": target, "kwargs": dict(options.arguments)})
