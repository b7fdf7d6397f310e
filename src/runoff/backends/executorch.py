"""ExecuTorch: `.pte` programs through its Python bindings, with XNNPACK on the CPU.

The file decides precision and shapes, and names no inputs: they follow the order of the signature. XNNPACK's threads
are one pool for the whole process, so all sessions that are open at the same time have the same number.
"""

from __future__ import annotations

import importlib.metadata
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from runoff.backends import table
from runoff.backends.protocol import CheckedSession, Session, SessionOptions, session_closed
from runoff.backends.threads import default_threads
from runoff.backends.torch_session import to_array, to_tensor
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import Array, Arrays
from runoff.models.folder import Package
from runoff.types import DType, Signature, TensorSpec


def _bindings() -> ModuleType:
    """ExecuTorch's extension module, by itself where that works: the package around it brings the compiler and 3 s.

    It is linked against PyTorch's libraries, which `torch_session` has loaded.
    """
    try:
        from executorch.extension.pybindings import _C
    except ImportError:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from executorch.extension.pybindings import portable_lib
        found: ModuleType = portable_lib
        return found
    return _C  # type: ignore[no-any-return]


_RUNTIME: Any = _bindings()
_METHOD = "forward"
_DTYPES = {
    0: DType.UINT8,
    1: DType.INT8,
    2: DType.INT16,
    3: DType.INT32,
    4: DType.INT64,
    5: DType.FP16,
    6: DType.FP32,
    7: DType.FP64,
    11: DType.BOOL,
    15: DType.BF16,
    27: DType.UINT16,
    28: DType.UINT32,
    29: DType.UINT64,
}
"""`ScalarType` of executorch/runtime/core/portable_type/scalar_type.h."""

_ERRORS = {
    0x10: "the program cannot do that, such as take inputs of another shape",
    0x12: "an input is not what the program takes",
    0x14: "it has an operator that this runtime lacks",
    0x21: "there is not enough memory",
    0x23: "the file is damaged, or of a version that this runtime does not read",
    0x30: "it was made for another version of a delegate",
}
"""`Error` of executorch/runtime/core/error.h, as far as a user may meet it."""


class _Pool:
    """The one thread pool of the process: sized by the first session, kept until the last one is closed.

    Programs keep a pointer to the pool that they were loaded under, so it may not be replaced beneath them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions = 0

    def enter(self, wanted: int | None) -> int:
        """Count a session in; answers the number of threads.

        Raises:
            RuntimeLoadError: sessions are open with another number than the one wanted.
        """
        with self._lock:
            present = int(_RUNTIME._threadpool_get_thread_count())
            if self._sessions and wanted not in (None, present):
                raise RuntimeLoadError(
                    f"ExecuTorch has one thread pool in a process, and open sessions use it with {present} threads, "
                    f"not {wanted}",
                    hint="close the other sessions first, or open them all with the same num_threads",
                )
            number = present if self._sessions else wanted or default_threads()
            if number != present:
                _RUNTIME._unsafe_reset_threadpool(number)
            self._sessions += 1
            return number

    def leave(self) -> None:
        """Count a session out."""
        with self._lock:
            self._sessions -= 1


_POOL = _Pool()


class ExecuTorchBackend:
    """Opens packages in the format `executorch`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("executorch", options)
        own = package.entry.precision
        if options.precision not in (None, "default", own):
            raise RuntimeLoadError(
                f"ExecuTorch computes in the precision of the file, which is {own}, not {options.precision}",
                hint=f"export a package with precision {options.precision}",
            )
        threads = _POOL.enter(options.num_threads)
        try:
            method = _load(package.main_file)
            _check(package, _read(method.method_meta()))
        except RuntimeLoadError:
            _POOL.leave()
            raise
        except Exception as error:
            _POOL.leave()
            raise RuntimeLoadError(
                f"ExecuTorch cannot open package {package.id!r}: {_finding(error)}",
                hint="check the file with `runoff verify`, or export it again with this version",
            ) from error
        facts = {
            "runtime": f"executorch {importlib.metadata.version('executorch')}",
            "device": str(options.device),
            "precision": own.value,
            "threads": threads,
        }
        return ExecuTorchSession(method, package.signature, facts)

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The inputs and outputs of a program: `input_0`, ..., `output_0`, ...; all shapes are fixed."""
        try:
            program = _RUNTIME._load_program(str(path))
            return _read(program.method_meta(_METHOD))
        except FormatMismatch:
            raise
        except Exception as error:
            raise FormatMismatch(f"ExecuTorch cannot read {path}: {_finding(error)}") from error


class ExecuTorchSession(CheckedSession):
    """A loaded method; it has one set of buffers, so it takes one `run` at a time."""

    def __init__(self, method: Any, signature: Signature, facts: Mapping[str, Any]) -> None:
        super().__init__(signature, facts)
        self.concurrency = "exclusive"
        self._method: Any = method
        self._lock = threading.Lock()
        """Two runs at once would mix their buffers without a word."""
        self._names = [spec.name for spec in signature.outputs]
        self._order = [spec.name for spec in signature.inputs]

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        tensors = [to_tensor(inputs[name]) for name in self._order]
        with self._lock:
            if self._method is None:
                raise session_closed()
            try:
                # Not cloned by ExecuTorch: that is PyTorch's work, whose own threads then spin beside XNNPACK's.
                answer = self._method(tensors, clone_outputs=False)
                return {name: to_array(tensor).copy() for name, tensor in zip(self._names, answer, strict=True)}
            except Exception as error:
                raise RuntimeRunError(
                    f"ExecuTorch failed while computing: {_finding(error)}",
                    hint="compare the inputs with the signature",
                ) from error

    def _release(self) -> None:
        with self._lock:
            self._method = None
        _POOL.leave()


def _load(path: Path) -> Any:
    """Load a program with its delegates.

    The method holds on to its program.
    """
    return _RUNTIME._load_program(str(path)).load_method(_METHOD)


def _read(meta: Any) -> Signature:
    inputs = tuple(_spec(f"input_{i}", meta.input_tensor_meta(i)) for i in range(meta.num_inputs()))
    outputs = tuple(_spec(f"output_{i}", meta.output_tensor_meta(i)) for i in range(meta.num_outputs()))
    return Signature(inputs, outputs)


def _spec(name: str, info: Any) -> TensorSpec:
    if info.dtype() not in _DTYPES:
        raise FormatMismatch(f"{name!r} has the scalar type {info.dtype()}, which no array can hold")
    return TensorSpec(name, _DTYPES[info.dtype()], tuple(int(size) for size in info.sizes()))


def _check(package: Package, own: Signature) -> None:
    """Hold the program against the signature: it names nothing, so number, dtypes and sizes must do."""
    for found, expected in ((own.inputs, package.signature.inputs), (own.outputs, package.signature.outputs)):
        fits = len(found) == len(expected) and all(_fits(*pair) for pair in zip(found, expected, strict=True))
        if not fits:
            raise RuntimeLoadError(
                f"cannot open package {package.id!r}: its program has {_list(found)}, the signature {_list(expected)}",
                hint="package the model again",
            )


def _fits(found: TensorSpec, expected: TensorSpec) -> bool:
    return (
        found.dtype is expected.dtype
        and len(found.shape) == len(expected.shape)
        and all(isinstance(dim, str) or dim == size for size, dim in zip(found.shape, expected.shape, strict=True))
    )


def _list(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(str(spec) for spec in specs)


def _finding(error: Exception) -> str:
    """What ExecuTorch says, with its error code in words."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    for code, meaning in _ERRORS.items():
        if text.rstrip(".").lower().endswith((f"0x{code:x}", f"0x:{code:x}")):
            return f"{text}: {meaning}"
    return text
