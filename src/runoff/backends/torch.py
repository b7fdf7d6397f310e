"""PyTorch: `torch.export` archives, safetensors weights for a module named by its dotted name, and compiled forms.

Nothing is unpickled: archives are looked into before PyTorch opens them (`torch_archive.py`), weights come from
safetensors, and the module's class from the normal import path. The compiled forms are in `torch_compiled.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.utils._pytree as pytree
from safetensors.torch import load_file
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.backends.torch_archive import check_archive
from runoff.backends.torch_compiled import aoti_signature, open_aoti, open_torchscript, torchscript_signature
from runoff.backends.torch_effects import keeps_state, writes_in_place
from runoff.backends.torch_graphs import RecordedForward
from runoff.backends.torch_precision import convert_graph
from runoff.backends.torch_session import (
    FLOATS,
    NAMES,
    Forward,
    TorchPlan,
    TorchSession,
    compile_module,
    first_line,
    flatten,
    input_dtypes,
    session_facts,
    storages,
    torch_device,
    wanted_precision,
)
from runoff.errors import FormatMismatch, RuntimeLoadError
from runoff.models.folder import Package
from runoff.types import Dim, Precision, Signature, TensorSpec

_MODULE_HINT = 'the manifest needs "requires": {"module": "package.module:Class", "kwargs": {}}'


class TorchBackend:
    """Opens packages in the formats `torch-export`, `safetensors`, `aoti` and `torchscript`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("torch", options)
        precision = wanted_precision(package.entry.precision, options)
        device = torch_device(options.device)
        if package.entry.format in _FIXED:
            return _open_fixed(package, options, device)
        opened = _OPENERS[package.entry.format](package, precision)
        compiled, recorded = (bool(options.backend.get(name, False)) for name in ("compile", "cuda_graph"))
        if recorded:
            _check_recordable(package, options, opened)
        module = opened.module.to(device)
        called = compile_module(module, options.backend) if compiled else module
        plan = TorchPlan(
            device=device,
            input_dtypes=input_dtypes(package.signature, precision),
            num_threads=options.num_threads,
            copy_inputs=opened.may_write_inputs,
            copy_outputs=compiled,
            kept=storages(_tensors(module)),
        )
        forward = opened.bind(called)
        return TorchSession(
            package.signature,
            RecordedForward(forward, device) if recorded else forward,
            plan,
            session_facts(plan, precision, options.backend),
            "exclusive" if compiled or recorded else opened.concurrency,
        )

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The signature of an archive; safetensors hold weights only, so they have none."""
        if format_id in _FIXED:
            return _FIXED[format_id](path)
        if format_id != "torch-export":
            raise FormatMismatch(
                f"{path} holds weights without a signature", hint="runoff.package(module, inputs, folder) reads one"
            )
        return program_signature(load_program(path))


class _Opened(NamedTuple):
    """A module ready to run: how to call it with tensors in order, and what it may do to memory."""

    module: torch.nn.Module
    bind: Callable[[Callable[..., Any]], Callable[[list[torch.Tensor]], list[torch.Tensor]]]
    may_write_inputs: bool
    concurrency: Literal["thread", "exclusive"]


def load_program(path: Path) -> ExportedProgram:
    """Read an archive of `torch.export.save`, once it is known to run no code of its author.

    Raises:
        FormatMismatch: no such archive, damaged, or one that holds more than tensors and a graph.
    """
    check_archive(path)
    try:
        return torch.export.load(path)
    except Exception as error:
        raise FormatMismatch(
            f"torch {torch.__version__} cannot read {path}: {first_line(error)}",
            hint="export the program again with this version of torch",
        ) from error


def _open_export(package: Package, precision: Precision) -> _Opened:
    try:
        program = load_program(package.main_file)
    except FormatMismatch as error:
        raise RuntimeLoadError(f"cannot open package {package.id!r}: {error.message}", hint=error.hint) from error
    kinds = [spec.kind for spec in program.graph_signature.input_specs]
    _check_count(package, "inputs", kinds.count(InputKind.USER_INPUT) - len(_constants(program)))
    module = program.module()
    if precision != package.entry.precision:
        convert_graph(module, FLOATS[package.entry.precision], FLOATS[precision])
    return _Opened(
        module, _by_structure(program), writes_in_place(module), "exclusive" if keeps_state(module) else "thread"
    )


def _by_structure(program: ExportedProgram) -> Callable[..., Callable[[list[torch.Tensor]], list[torch.Tensor]]]:
    """How to call the program's module: flat tensors, put back into the arguments that it was exported with."""
    structure = program.call_spec.in_spec
    constants = _constants(program)

    def bind(module: Callable[..., Any]) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
        def forward(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
            leaves: list[Any] = list(tensors)
            for position, value in constants:
                leaves.insert(position, value)
            args, kwargs = pytree.tree_unflatten(leaves, structure)
            return flatten(module(*args, **kwargs))

        return forward

    return bind


def _constants(program: ExportedProgram) -> list[tuple[int, Any]]:
    """Inputs that are no tensors, such as a flag fixed at export: position and value."""
    user = [spec.arg for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    return [(i, getattr(arg, "value", None)) for i, arg in enumerate(user) if not isinstance(arg, TensorArgument)]


def _open_safetensors(package: Package, precision: Precision) -> _Opened:
    kwargs = package.entry.requires.get("kwargs", {})
    kind = _module_class(package)
    try:
        weights = load_file(package.main_file)
        module = kind(**kwargs)
        module.load_state_dict(weights, strict=True)
    except Exception as error:
        raise RuntimeLoadError(
            f"cannot open package {package.id!r}: {kind.__name__}(**{kwargs}) does not take the weights of "
            f"{package.main_file.name}: {' '.join(str(error).split())}",
            hint="the class, its arguments and the weights must be those that were saved together",
        ) from error
    if precision is not Precision.FP32:
        module.to(FLOATS[precision])
    # The class is any code: it may write to its inputs, and keep state from one run to the next.
    return _Opened(module.eval(), _by_position, may_write_inputs=True, concurrency="exclusive")


def _by_position(module: Callable[..., Any]) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
    return lambda tensors: flatten(module(*tensors))


def _module_class(package: Package) -> type[torch.nn.Module]:
    target = package.entry.requires.get("module")
    if not isinstance(target, str) or ":" not in target:
        raise RuntimeLoadError(f"package {package.id!r} names no module for its weights", hint=_MODULE_HINT)
    if not isinstance(package.entry.requires.get("kwargs", {}), dict):
        raise RuntimeLoadError(f"package {package.id!r}: the kwargs of {target} are no mapping", hint=_MODULE_HINT)
    try:
        kind = table.load(target)
    except Exception as error:
        raise RuntimeLoadError(
            f"cannot open package {package.id!r}: cannot import {target}: {first_line(error)}",
            hint="install the code of the model, or add its folder to PYTHONPATH",
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise RuntimeLoadError(
            f"package {package.id!r} names {target}, which is no subclass of torch.nn.Module", hint=_MODULE_HINT
        )
    return kind


def _check_recordable(package: Package, options: SessionOptions, opened: _Opened) -> None:
    """Refuse to record what cannot be recorded.

    Raises:
        RuntimeLoadError: the device is not CUDA, the module is compiled too, or it may keep state.
    """
    why = None
    if options.device.kind != "cuda":
        why = f"device {options.device} has no CUDA graphs", "open with device cuda"
    elif options.backend.get("compile", False):
        why = "a compiled module records its own", "use compile_mode reduce-overhead in place of cuda_graph"
    elif opened.concurrency == "exclusive":
        why = (
            f"package {package.id!r} may keep state from run to run, which recording would change",
            "use the model's torch-export package",
        )
    if why is not None:
        raise RuntimeLoadError(f"cuda_graph cannot be used: {why[0]}", hint=why[1])


def _open_fixed(package: Package, options: SessionOptions, device: torch.device) -> Session:
    """Open a form whose precision and way of running were fixed when it was made.

    Raises:
        RuntimeLoadError: another precision, or compilation, was asked for.
    """
    own = package.entry.precision
    if options.precision not in (None, "default", own) or options.backend:
        raise RuntimeLoadError(
            f"package {package.id!r} runs as it was made, at {own}, and takes no options of PyTorch",
            hint="leave precision and options out, or use the model's torch-export package",
        )
    kept: frozenset[int] = frozenset()
    forward: Forward
    if package.entry.format == "aoti":
        if device.type != "cpu":
            raise RuntimeLoadError(f"package {package.id!r} was compiled for the CPU", hint="use device cpu")
        forward = open_aoti(package)
    else:
        module = open_torchscript(package, device)
        kept = storages(_tensors(module))
        forward = _by_position(module)
    # What the code does to its inputs cannot be seen, and TorchScript may keep state between runs.
    plan = TorchPlan(device, input_dtypes(package.signature, own), options.num_threads, copy_inputs=True, kept=kept)
    concurrency: Literal["thread", "exclusive"] = "thread" if package.entry.format == "aoti" else "exclusive"
    return TorchSession(package.signature, forward, plan, session_facts(plan, own, {}), concurrency)


_OPENERS = {"torch-export": _open_export, "safetensors": _open_safetensors}
_FIXED = {"aoti": aoti_signature, "torchscript": torchscript_signature}
"""Forms that cannot be changed any more, with what reads their signature."""


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Everything that a module keeps: weights, buffers, and constants that are plain attributes."""
    yield from module.parameters()
    yield from module.buffers()
    for part in module.modules():
        yield from (value for value in vars(part).values() if isinstance(value, torch.Tensor))


def _check_count(package: Package, what: str, count: int) -> None:
    expected = len(package.signature.inputs)
    if count != expected:
        raise RuntimeLoadError(
            f"cannot open package {package.id!r}: its file has {count} {what}, the signature {expected}",
            hint="package the model again",
        )


def program_signature(program: ExportedProgram) -> Signature:
    """Inputs and outputs of a program in order; a dimension that varies is named `batch` on axis 0, else by its symbol.

    Outputs of a mapping have its keys as names, others those of the graph.
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names: dict[str, str] = {}
    inputs = tuple(_spec(name, name, values, names) for name in program.graph_signature.user_inputs if name in values)
    results = [name for name in program.graph_signature.user_outputs if isinstance(values.get(name), torch.Tensor)]
    keys = _output_names(program, results)
    outputs = tuple(_spec(key, name, values, names) for key, name in zip(keys, results, strict=True))
    return Signature(inputs, outputs)


def _output_names(program: ExportedProgram, results: list[str]) -> list[str]:
    structure = program.call_spec.out_spec
    context = structure.context if structure is not None else None
    keys = context if isinstance(context, list) and all(isinstance(key, str) for key in context) else []
    # A graph may answer one node twice; names must differ.
    unique = [name if results.index(name) == i else f"{name}_{i}" for i, name in enumerate(results)]
    return list(keys) if len(keys) == len(results) else unique


def _spec(name: str, node: Any, values: dict[str, Any], names: dict[str, str]) -> TensorSpec:
    tensor = values[node]
    if not isinstance(tensor, torch.Tensor):
        raise FormatMismatch(f"the program's input {name!r} is a {type(tensor).__name__}, expected a tensor")
    dims: list[Dim] = []
    shape: tuple[Any, ...] = tuple(tensor.shape)
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            dims.append(size)
            continue
        symbol = str(size).replace(" ", "")
        if symbol not in names:
            names[symbol] = "batch" if axis == 0 and "batch" not in names.values() else symbol
        dims.append(names[symbol])
    return TensorSpec(name, NAMES[tensor.dtype], tuple(dims))
