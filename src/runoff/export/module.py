"""An `nn.Module` seen from outside: its inputs and outputs by name, and its capture as a `torch.export` program.

Imports torch, so only steps and `packaging.py` (through the table's loader) reach it. Knows no folder and no
manifest. A captured program takes its inputs by position in the signature's order and answers a flat tuple of
tensors in the signature's order.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runoff.errors import ExportError, InputError
from runoff.export.step import quiet
from runoff.models.arrays import Array, numpy_dtype
from runoff.types import DType, Precision, Signature

_TOLERANCE = 1e-3
_FIX_BATCH = "pass batch=N to capture it for one batch size"
_PRECISIONS = {torch.float32: Precision.FP32, torch.bfloat16: Precision.BF16, torch.float16: Precision.FP16}


class Flat(nn.Module):
    """A module with tensors in by position and a mapping of output name to tensor out.

    The signature of `forward` carries the input names and the mapping the output names, so that the captured
    program keeps both.

    Args:
        module: what is called.
        inputs: names of the inputs in order.
        outputs: names of the outputs in order.
        by_position: call the module with its inputs in order, and name what it answers in order; else by name.
    """

    def __init__(
        self, module: nn.Module, inputs: Sequence[str], outputs: Sequence[str], *, by_position: bool = False
    ) -> None:
        super().__init__()
        self.module = module

        def forward(*tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            if by_position:
                answer = module(*tensors)
                values = list(answer.values()) if isinstance(answer, Mapping) else answer
                return dict(zip(outputs, select(values, outputs), strict=True))
            answer = module(**dict(zip(inputs, tensors, strict=True)))
            return dict(zip(outputs, select(answer, outputs), strict=True))

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature([inspect.Parameter(name, kind) for name in inputs])
        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Hold a module in eval mode, without gradients; every submodule's own mode comes back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def capture(flat: Flat, tensors: Sequence[torch.Tensor], signature: Signature) -> torch.export.ExportedProgram:
    """Capture a module with `torch.export`; every named dimension of the signature's inputs stays dynamic.

    Args:
        flat: around a module in eval mode.
        tensors: examples in the signature's order, at least two rows where the batch is dynamic.
        signature: says which dimensions have names; the outputs are not looked at.

    Raises:
        ExportError: torch.export cannot capture it, or a named dimension turned out to be a constant.
    """
    dynamic = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in signature.inputs
    )
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(flat, tuple(tensors), dynamic_shapes=dynamic)
    except ExportError:
        raise
    except Exception as error:
        raise _explain(error, flat.module) from error


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a captured program as an archive, without its example inputs and the paths of its source files."""
    program.example_inputs = None
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)
    with quiet():
        torch.export.save(program, path)


def read_outputs(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], names: Sequence[str] | None
) -> dict[str, Array]:
    """Run a module once and name its outputs.

    Args:
        module: in eval mode.
        tensors: inputs by name.
        names: of a tensor or a tuple: the names in order; of a mapping: the keys to keep; None: all.

    Raises:
        ExportError: it fails on its inputs, or an output is not a tensor.
        InputError: a name that is no output, or as many names as there are no outputs.
    """
    try:
        answer = module(**tensors)
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} fails on its example inputs: {first_line(error)}",
            hint="the inputs go to forward() by name; pass the ones that it takes",
        ) from error
    if isinstance(answer, Mapping):
        chosen = list(names) if names is not None else list(answer)
        unknown = [name for name in chosen if name not in answer]
        if unknown:
            raise InputError(f"the module has no output {unknown[0]!r}; it has {', '.join(answer)}")
    else:
        count = len(answer) if isinstance(answer, tuple | list) else 1
        chosen = list(names) if names is not None else [f"output_{index}" for index in range(count)]
        if len(chosen) != count:
            raise InputError(f"the module has {count} outputs, {len(chosen)} names were given: {', '.join(chosen)}")
    return {name: to_array(value) for name, value in zip(chosen, select(answer, chosen), strict=True)}


def check_program(program: torch.export.ExportedProgram, flat: Flat, tensors: Sequence[torch.Tensor]) -> None:
    """Hold a captured program against the module that it was captured from, on the same inputs.

    Raises:
        ExportError: it fails, or an output differs by more than a thousandth of its scale.
    """
    with torch.no_grad(), quiet():
        expected = flat(*tensors)
        try:
            found = program.module()(*tensors)
        except Exception as error:
            raise ExportError(
                f"the captured program fails where the module works: {first_line(error)}", hint=_FIX_BATCH
            ) from error
    for name, left in expected.items():
        right = found[name]
        if left.shape != right.shape or left.dtype != right.dtype:
            raise ExportError(
                f"the captured program answers {name!r} as {right.dtype}{list(right.shape)}, "
                f"the module as {left.dtype}{list(left.shape)}",
                hint=_FIX_BATCH,
            )
        if left.numel() == 0 or not left.is_floating_point():
            continue
        scale = max(float(left.abs().nan_to_num().max()), 1e-6)
        error_rel = float((left - right).abs().nan_to_num().max()) / scale
        if error_rel > _TOLERANCE:
            raise ExportError(
                f"the captured program differs from the module by {error_rel:.1e} of the scale of {name!r}",
                hint="a module that draws random numbers or keeps state between calls cannot be captured",
            )


def precision_of(module: nn.Module) -> Precision:
    """The precision of the module's weights; fp32 where it has none."""
    dtype = next((part.dtype for part in module.parameters() if part.is_floating_point()), torch.float32)
    if dtype not in _PRECISIONS:
        raise ExportError(f"weights of dtype {dtype} are not supported", hint="module.float() makes them fp32")
    return _PRECISIONS[dtype]


def to_tensor(value: Any) -> torch.Tensor:
    """A CPU tensor of an array, a tensor or a number; bf16 included."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    array = np.asarray(value)
    if array.dtype == numpy_dtype(DType.BF16):
        return torch.from_numpy(np.ascontiguousarray(array).view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(array))


def to_array(tensor: torch.Tensor) -> Array:
    """A numpy array of a tensor; bf16 included."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(numpy_dtype(DType.BF16))
    array: Array = tensor.numpy()
    return array


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, cut to a readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def select(answer: Any, names: Sequence[str]) -> list[torch.Tensor]:
    """The named outputs of a module's answer, which is a tensor, a tuple or a mapping."""
    if isinstance(answer, Mapping):
        values = [answer[name] for name in names]
    elif isinstance(answer, tuple | list):
        values = list(answer[: len(names)])
    else:
        values = [answer]
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, torch.Tensor):
            raise ExportError(
                f"output {name!r} is a {type(value).__name__}, expected a tensor",
                hint="PackagingOptions(outputs=...) names the outputs to keep",
            )
    return values


def _explain(error: Exception, module: nn.Module) -> ExportError:
    """The error of torch.export in words, with what to do about the two usual causes."""
    text = f"{type(error).__name__} {error}".lower()
    message = f"torch.export cannot capture {type(module).__name__}: {first_line(error)}"
    if "data-dependent" in text or "datadependent" in text or "unbacked" in text:
        hint = "the control flow depends on values: use torch.where or torch.cond instead of Python's if"
    elif "specialized" in text or "constraints violated" in text or "dynamic" in text:
        hint = f"a dimension is a constant in its code: {_FIX_BATCH}"
    else:
        hint = "forward() must be tensor code that torch.export understands"
    return ExportError(message, hint=hint)
