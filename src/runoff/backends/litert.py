"""LiteRT: `.tflite` files on its interpreter, with XNNPACK on the CPU and, where one is named, another delegate.

The file decides the precision and, as a rule, every shape. Converters narrow 64-bit integers to 32 bits: arrays are
cast to what the interpreter declares, and numbers that do not fit are refused.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate

from runoff.backends import table
from runoff.backends.protocol import CheckedSession, Session, SessionOptions, session_closed
from runoff.backends.threads import default_threads
from runoff.errors import FormatMismatch, InputError, RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import Array, Arrays, dtype_name, narrow, numpy_dtype
from runoff.models.folder import Package
from runoff.types import Dim, DType, Signature, TensorSpec

_NARROWED = {DType.INT64: np.dtype(np.int32), DType.UINT64: np.dtype(np.uint32)}
"""What a converter may make of a dtype without changing a number that fits."""


class LiteRtBackend:
    """Opens packages in the format `litert`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("litert", options)
        own = package.entry.precision
        if options.precision not in (None, "default", own):
            raise RuntimeLoadError(
                f"LiteRT computes in the precision of the file, which is {own}, not {options.precision}",
                hint=f"export a package with precision {options.precision}",
            )
        num_threads = options.num_threads or default_threads()
        delegates = _delegates(options.backend)
        try:
            interpreter = Interpreter(
                model_path=str(package.main_file), num_threads=num_threads, experimental_delegates=delegates
            )
            interpreter.allocate_tensors()
        except Exception as error:
            raise _load_error(package.id, error) from error
        facts = {
            "runtime": f"litert {importlib.metadata.version('ai-edge-litert')}",
            "device": str(options.device),
            "precision": own.value,
            "threads": num_threads,
            "delegate": options.backend.get("delegate"),
        }
        return LiteRtSession(interpreter, package, facts)

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The inputs and outputs of a file; dimensions that vary are called `batch` or `<input>_dim_<axis>`."""
        try:
            interpreter = Interpreter(model_path=str(path))
        except Exception as error:
            raise FormatMismatch(f"LiteRT cannot read {path}: {_finding(error)}") from error
        return Signature(*(tuple(_spec(*port) for port in _ports(interpreter, side)) for side in ("inputs", "outputs")))


class LiteRtSession(CheckedSession):
    """An interpreter; it has one set of tensors, so it takes one `run` at a time."""

    def __init__(self, interpreter: Any, package: Package, facts: Mapping[str, Any]) -> None:
        super().__init__(package.signature, facts)
        self.concurrency = "exclusive"
        self._interpreter: Any = interpreter
        self._lock = threading.Lock()
        """Two runs at once would mix their tensors without a word."""
        feeds = _match(package, "inputs", self.signature.inputs, _ports(interpreter, "inputs"))
        fetches = _match(package, "outputs", self.signature.outputs, _ports(interpreter, "outputs"))
        self._feeds = [(spec.name, port["index"], _cast(package, spec, port)) for spec, port in feeds]
        self._fetches = [(spec.name, port["index"], _widened(package, spec, port)) for spec, port in fetches]
        self._shapes = {spec.name: tuple(port["shape"]) for spec, port in feeds}

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        cast = [
            (name, index, inputs[name] if dtype is None else narrow(name, inputs[name], dtype))
            for name, index, dtype in self._feeds
        ]
        with self._lock:
            interpreter = self._interpreter
            if interpreter is None:
                raise session_closed()
            try:
                self._resize(interpreter, cast)
                for _, index, array in cast:
                    interpreter.set_tensor(index, array)
                interpreter.invoke()
                # `get_tensor` copies, so the answer is the caller's.
                answer = [(name, interpreter.get_tensor(index), dtype) for name, index, dtype in self._fetches]
            except Exception as error:
                raise RuntimeRunError(
                    f"LiteRT failed while computing: {_finding(error)}",
                    hint="the sizes of the inputs may not fit each other; compare them with the signature",
                ) from error
        return {name: array if dtype is None else array.astype(dtype) for name, array, dtype in answer}

    def _resize(self, interpreter: Any, inputs: Sequence[tuple[str, int, Array]]) -> None:
        """Tell the interpreter of new shapes; a dimension that the file fixes is refused by it."""
        changed = [(name, index, array.shape) for name, index, array in inputs if array.shape != self._shapes[name]]
        if not changed:
            return
        for name, index, shape in changed:
            # Forgotten first: after a failure the tensors are in no known state.
            self._shapes[name] = ()
            interpreter.resize_tensor_input(index, shape, strict=True)
        interpreter.allocate_tensors()
        self._shapes.update({name: shape for name, _, shape in changed})

    def _release(self) -> None:
        with self._lock:
            self._interpreter = None


def _delegates(options: Mapping[str, Any]) -> list[Any] | None:
    library = options.get("delegate")
    if library is None:
        return None
    settings = {str(name): str(value) for name, value in options.get("delegate_options", {}).items()}
    try:
        # First by ourselves: where this fails, LiteRT leaves a half-made delegate that complains when it is collected.
        ctypes.CDLL(library)
        return [load_delegate(library, settings)]
    except Exception as error:
        raise RuntimeLoadError(
            f"LiteRT cannot load the delegate {library}: {_finding(error)}",
            hint="is the driver of the device installed, and the device plugged in?",
        ) from error


def _ports(interpreter: Any, side: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and details of the inputs or outputs in the order of the file: by its only signature's names, if it has one.

    A signature lists its inputs by name, whatever their order in the file.
    """
    found = interpreter.get_input_details() if side == "inputs" else interpreter.get_output_details()
    signatures = interpreter.get_signature_list()
    named: dict[int, str] = {}
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        details = runner.get_input_details() if side == "inputs" else runner.get_output_details()
        named = {port["index"]: name for name, port in details.items()}
    return [(named.get(port["index"], port["name"]), port) for port in found]


def _match(
    package: Package, what: str, specs: tuple[TensorSpec, ...], ports: list[tuple[str, dict[str, Any]]]
) -> list[tuple[TensorSpec, dict[str, Any]]]:
    """Each spec with its port: by name where all are found, else by order.

    Raises:
        RuntimeLoadError: the file has another number of them, or other sizes.
    """
    if len(specs) != len(ports):
        raise _unlike(package, f"{len(ports)} {what} ({', '.join(name for name, _ in ports)})", f"{len(specs)}")
    by_name = dict(ports)
    matched = [
        (spec, by_name[spec.name] if all(each.name in by_name for each in specs) else port)
        for spec, (_, port) in zip(specs, ports, strict=True)
    ]
    for spec, port in matched:
        fits = len(spec.shape) == len(port["shape_signature"]) and all(
            isinstance(dim, str) or size in (dim, -1)
            for dim, size in zip(spec.shape, port["shape_signature"], strict=True)
        )
        if not fits and what == "inputs":
            raise _unlike(package, f"{spec.name!r} as {port['shape_signature'].tolist()}", str(spec))
    return matched


def _unlike(package: Package, own: str, expected: str) -> RuntimeLoadError:
    return RuntimeLoadError(
        f"cannot open package {package.id!r}: its file has {own}, the signature {expected}",
        hint="package the model again",
    )


def _cast(package: Package, spec: TensorSpec, port: dict[str, Any]) -> np.dtype[Any] | None:
    """What an input is cast to; None where it stays as it is.

    Raises:
        RuntimeLoadError: the file takes a dtype that the signature's numbers may not fit into.
    """
    declared: np.dtype[Any] = np.dtype(port["dtype"])
    if declared == numpy_dtype(spec.dtype):
        return None
    if _NARROWED.get(spec.dtype) != declared:
        raise _unlike(package, f"{spec.name!r} as {declared}", str(spec))
    return declared


def _widened(package: Package, spec: TensorSpec, port: dict[str, Any]) -> np.dtype[Any] | None:
    return None if _cast(package, spec, port) is None else numpy_dtype(spec.dtype)


def _spec(name: str, port: dict[str, Any]) -> TensorSpec:
    try:
        dtype = dtype_name(np.dtype(port["dtype"]))
    except (InputError, TypeError) as error:
        raise FormatMismatch(f"{name!r} has the type {port['dtype']}, which no array can hold") from error
    shape = port["shape_signature"].tolist()
    dims: list[Dim] = [
        size if size >= 0 else "batch" if axis == 0 else f"{name}_dim_{axis}" for axis, size in enumerate(shape)
    ]
    return TensorSpec(name, dtype, tuple(dims))


def _load_error(package_id: str, error: Exception) -> RuntimeLoadError:
    return RuntimeLoadError(
        f"LiteRT cannot open package {package_id!r}: {_finding(error)}",
        hint="check the file with `runoff verify`, or export it again; one with custom operators needs their delegate",
    )


def _finding(error: Exception) -> str:
    """What LiteRT says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
