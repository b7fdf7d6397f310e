"""What every backend on PyTorch shares: numpy in, a callable over tensors on a device, numpy out.

Knows no file format and no kind of model. bf16 arrays are those of `ml_dtypes`, moved as their bits.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from runoff.backends.protocol import CheckedSession, SessionOptions, session_closed
from runoff.backends.threads import default_threads
from runoff.errors import RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import Array, Arrays, numpy_dtype
from runoff.types import Device, DType, Precision, Signature

Forward: TypeAlias = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]
"""Input tensors in the order of the signature, to output tensors in the order of the signature."""

DTYPES: dict[DType, torch.dtype] = {
    DType.FP64: torch.float64,
    DType.FP32: torch.float32,
    DType.FP16: torch.float16,
    DType.BF16: torch.bfloat16,
    DType.INT64: torch.int64,
    DType.INT32: torch.int32,
    DType.INT16: torch.int16,
    DType.INT8: torch.int8,
    DType.UINT64: torch.uint64,
    DType.UINT32: torch.uint32,
    DType.UINT16: torch.uint16,
    DType.UINT8: torch.uint8,
    DType.BOOL: torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}

# A session without a wish for threads must not inherit what an earlier session set in this process.
_DEFAULT_THREADS = min(torch.get_num_threads(), default_threads())
_BF16 = numpy_dtype(DType.BF16)
_COMPILING = threading.Lock()
"""Held while inductor's settings of the process are other than usual."""


@dataclass(frozen=True, slots=True)
class TorchPlan:
    """How a session treats tensors on the way in and out.

    Attributes:
        device: where the module lies.
        input_dtypes: what each input is cast to, in the order of the signature.
        num_threads: threads of the CPU kernels; None for the process's default.
        copy_inputs: hand the module copies, because it may write to its inputs.
        copy_outputs: copy every output, because the module may answer memory that it keeps.
        kept: storages of weights and constants; an output lying in one of them is copied.
    """

    device: torch.device
    input_dtypes: tuple[torch.dtype, ...]
    num_threads: int | None = None
    copy_inputs: bool = False
    copy_outputs: bool = False
    kept: frozenset[int] = frozenset()


class TorchSession(CheckedSession):
    """A callable over tensors as a session.

    The number of threads of PyTorch's CPU kernels belongs to the calling thread, not to a model: each `run` sets
    it when it differs, so two sessions with different numbers may live in one process.
    """

    def __init__(
        self,
        signature: Signature,
        forward: Forward,
        plan: TorchPlan,
        facts: Mapping[str, Any],
        concurrency: Literal["thread", "exclusive"] = "thread",
    ) -> None:
        super().__init__(signature, facts)
        self.concurrency = concurrency
        self._forward: Forward | None = forward
        self._plan = plan
        self._num_threads = plan.num_threads or _DEFAULT_THREADS
        self._inputs = [
            (spec.name, target, target != DTYPES.get(spec.dtype))
            for spec, target in zip(signature.inputs, plan.input_dtypes, strict=True)
        ]
        self._outputs = [(spec.name, _torch_dtype(spec.dtype)) for spec in signature.outputs]
        self._off_cpu = plan.device.type != "cpu"

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        forward = self._forward
        if forward is None:
            raise session_closed()
        if torch.get_num_threads() != self._num_threads:
            torch.set_num_threads(self._num_threads)
        try:
            with torch.inference_mode():
                tensors = [self._place(inputs[name], dtype, cast) for name, dtype, cast in self._inputs]
                return self._collect(forward(tensors), tensors)
        except RuntimeRunError:
            raise
        except Exception as error:
            raise RuntimeRunError(
                f"PyTorch failed while computing: {first_line(error)}", hint=_run_hint(error)
            ) from error

    def _place(self, array: Array, dtype: torch.dtype, cast: bool) -> torch.Tensor:
        tensor = to_tensor(array, copy=self._plan.copy_inputs and not cast and not self._off_cpu)
        return tensor.to(self._plan.device, dtype) if cast or self._off_cpu else tensor

    def _collect(self, outputs: Sequence[torch.Tensor], inputs: Iterable[torch.Tensor]) -> dict[str, Array]:
        if len(outputs) != len(self._outputs):
            raise RuntimeRunError(
                f"the module gave {len(outputs)} tensors, its signature names {len(self._outputs)}",
                hint="package the model again, so that its signature is read anew",
            )
        plan = self._plan
        taken = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        named = {}
        for (name, dtype), tensor in zip(self._outputs, outputs, strict=True):
            own = tensor
            if own.dtype != dtype or self._off_cpu:
                own = own.to("cpu", dtype)
            if not own.is_contiguous():
                own = own.contiguous()
            storage = own.untyped_storage().data_ptr()
            if plan.copy_outputs or storage in taken or storage in plan.kept:
                own = own.clone()
            taken.add(storage)
            named[name] = to_array(own)
        return named

    def _release(self) -> None:
        self._forward = None


class _Writeable:
    """The memory of a read-only array, declared writeable; holds the array so that the memory stays."""

    def __init__(self, array: Array) -> None:
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self._array = array


def to_tensor(array: Array, *, copy: bool = False) -> torch.Tensor:
    """A CPU tensor over the array's memory where that is possible, else over a copy.

    A read-only array is shared too: `torch.from_numpy` warns that it could be written, which only a module that
    writes to its inputs does, and such a module is handed copies (`copy=True`).
    """
    if array.dtype == _BF16:
        return to_tensor(array.view(np.int16), copy=copy).view(torch.bfloat16)
    if copy:
        return torch.from_numpy(array.copy(order="C"))
    if not array.flags.carray:
        if array.flags.c_contiguous and array.flags.aligned:
            array = np.asarray(_Writeable(array))
        else:
            array = array.copy(order="C")
    return torch.from_numpy(array)


def to_array(tensor: torch.Tensor) -> Array:
    """The numpy array over the memory of a contiguous CPU tensor."""
    if tensor.dtype == torch.bfloat16:
        bits: Array = tensor.view(torch.int16).numpy(force=True)
        return bits.view(_BF16)
    array: Array = tensor.numpy(force=True)
    return array


def storages(tensors: Iterable[torch.Tensor]) -> frozenset[int]:
    """The addresses of the tensors' memory, to recognise an output that lies in it."""
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors)


def flatten(output: Any) -> list[torch.Tensor]:
    """The tensors of a module's output in order: a tensor, or sequences and mappings of them; None is left out.

    Raises:
        RuntimeRunError: something else is among them.
    """
    if isinstance(output, torch.Tensor):
        return [output]
    if output is None:
        return []
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in flatten(part)]
    if isinstance(output, Mapping):
        return [tensor for part in output.values() for tensor in flatten(part)]
    raise RuntimeRunError(
        f"the module answered a {type(output).__name__}", hint="return tensors, or tuples or dicts of tensors"
    )


def torch_device(device: Device) -> torch.device:
    """The device as PyTorch names it, known to be there.

    Raises:
        RuntimeLoadError: this machine, or this build of PyTorch, does not have it.
    """
    if device.kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
            raise RuntimeLoadError(
                f"there is no device {device}: PyTorch {torch.__version__} ({built}) sees {count} CUDA devices",
                hint="open with device cpu, or install the extra of your CUDA version",
            )
    if device.kind == "mps" and not torch.backends.mps.is_available():
        raise RuntimeLoadError(
            f"there is no device {device}: PyTorch {torch.__version__} finds no Metal GPU here", hint="use device cpu"
        )
    if device.kind == "cpu":
        return torch.device("cpu")
    return torch.device(device.kind, device.index or 0)


def wanted_precision(package: Precision, options: SessionOptions) -> Precision:
    """The precision that a session computes in; `default` is the package's, as PyTorch changes none itself.

    Raises:
        RuntimeLoadError: neither the package's nor one float precision for another.
    """
    wanted = package if options.precision in (None, "default") else Precision(options.precision)
    if wanted != package and (wanted not in FLOATS or package not in FLOATS):
        raise RuntimeLoadError(
            f"PyTorch sessions compute in {', '.join(FLOATS)}, or in the precision that a package was quantised to, "
            f"which is {package} here, not {wanted}",
            hint="runoff quantize --precision int8-dynamic makes a package at int8",
        )
    return wanted


def input_dtypes(signature: Signature, precision: Precision) -> tuple[torch.dtype, ...]:
    """What each input is cast to: floats to a float precision, the rest as it is; a quantised module takes its own."""
    floats = {DType.FP32, DType.BF16, DType.FP16}
    computed = FLOATS.get(precision)
    return tuple(
        computed if computed is not None and spec.dtype in floats else _torch_dtype(spec.dtype)
        for spec in signature.inputs
    )


def compile_module(module: torch.nn.Module, backend_options: Mapping[str, Any]) -> Callable[..., Any]:
    """The module under `torch.compile`; it compiles when it is first run, and again for shapes that need it."""
    with warnings.catch_warnings():
        # torch 2.13: inductor imports a module of its own that warns of torch.jit's deprecation.
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch._inductor.compile_fx
    mode = backend_options.get("compile_mode", "default")
    # `mode` and `options` exclude each other, so a mode travels as the options that it stands for.
    chosen = dict(torch._inductor.list_mode_options(mode))
    chosen["freezing"] = backend_options.get("freeze", True)
    compiled: Callable[..., Any] = torch.compile(module, options=chosen)
    return _frozen(compiled) if chosen["freezing"] else compiled


def _frozen(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Freezing for code that compiles when a shape is first run.

    torch 2.13: whether weights are constants is asked while tracing, of inductor's setting for the whole process and
    not of the options that `torch.compile` was given, which alone change nothing.
    """
    compiled_for: set[tuple[torch.Size, ...]] = set()

    def run(*tensors: torch.Tensor) -> Any:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes in compiled_for:
            return compiled(*tensors)
        with _COMPILING, torch._inductor.config.patch(freezing=True):
            outputs = compiled(*tensors)
        compiled_for.add(shapes)
        return outputs

    return run


def session_facts(plan: TorchPlan, precision: Precision, backend_options: Mapping[str, Any]) -> dict[str, Any]:
    """What really runs, for `Session.facts`."""
    facts: dict[str, Any] = {
        "runtime": f"torch {torch.__version__}",
        "device": str(plan.device),
        "precision": precision.value,
        "threads": plan.num_threads or _DEFAULT_THREADS,
        "compile": bool(backend_options.get("compile", False)),
    }
    if backend_options.get("cuda_graph", False):
        facts["cuda_graph"] = True
    if facts["compile"]:
        facts["compile_mode"] = backend_options.get("compile_mode", "default")
        facts["freeze"] = backend_options.get("freeze", True)
    return facts


def first_line(error: BaseException) -> str:
    """The type and first line of an error: what a library says before its stack and its essays."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _torch_dtype(dtype: DType) -> torch.dtype:
    try:
        return DTYPES[dtype]
    except KeyError:
        raise RuntimeLoadError(f"PyTorch has no tensors of dtype {dtype}") from None


def _run_hint(error: Exception) -> str | None:
    if isinstance(error, torch.OutOfMemoryError):
        return "use a smaller batch"
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        return "compiling failed: is there a C++ compiler? Open the model without the option 'compile'"
    return None
