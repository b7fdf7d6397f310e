"""ONNX Runtime: `.onnx` files on an ordered list of execution providers.

The file decides the precision. On the CPU a run is one call with numpy arrays; bf16, which numpy lacks, and devices
with memory of their own go through ONNX Runtime's tensors instead.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from runoff.backends import table
from runoff.backends.execution_providers import ExecutionProvider, find_provider, how_to_get, providers_for
from runoff.backends.protocol import CheckedSession, Session, SessionOptions, session_closed
from runoff.backends.threads import default_threads
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError, UnknownName, unknown_name
from runoff.models.arrays import Array, Arrays, numpy_dtype
from runoff.models.folder import Package
from runoff.types import Device, Dim, DType, Precision, Signature, TensorSpec

_CPU = "CPUExecutionProvider"
_DTYPES = {
    "tensor(double)": DType.FP64,
    "tensor(float)": DType.FP32,
    "tensor(float16)": DType.FP16,
    "tensor(bfloat16)": DType.BF16,
    "tensor(string)": DType.STRING,
    **{f"tensor({dtype})": dtype for dtype in DType if dtype.startswith(("int", "uint", "bool"))},
}
_LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_BF16_ELEMENT_TYPE = 16
"""`TensorProto.BFLOAT16` of onnx.proto."""

_LOG_ERRORS_ONLY = 3
_FINDING = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")

ort.set_default_logger_severity(_LOG_ERRORS_ONLY)
ort.disable_telemetry_events()


class OnnxBackend:
    """Opens packages in the formats `onnx` and `onnx-fused`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("onnx", options)
        own = package.entry.precision
        if options.precision not in (None, "default", own):
            raise RuntimeLoadError(
                f"ONNX Runtime computes in the precision of the file, which is {own}, not {options.precision}",
                hint=f"export a package with precision {options.precision}",
            )
        wanted = _providers(options)
        session_options = _session_options(options)
        try:
            session = ort.InferenceSession(
                str(package.main_file),
                session_options,
                providers=[name for name, _ in wanted],
                provider_options=[settings for _, settings in wanted],
                # Otherwise a provider that fails is replaced by another one, silently but for a print.
                enable_fallback=0,
            )
        except Exception as error:
            raise _load_error(package, error) from error
        _check_providers([name for name, _ in wanted], session.get_providers())
        return OnnxSession(session, package, options, session_options.intra_op_num_threads)

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The inputs and outputs of a file; see `_dim` for those without a name."""
        options = ort.SessionOptions()
        options.graph_optimization_level = _LEVELS["off"]
        options.intra_op_num_threads = 1
        try:
            session = ort.InferenceSession(str(path), options, providers=[_CPU], enable_fallback=0)
        except Exception as error:
            raise FormatMismatch(f"ONNX Runtime cannot read {path}: {_finding(error)}") from error
        return Signature(_specs(path, session.get_inputs()), _specs(path, session.get_outputs()))


class OnnxSession(CheckedSession):
    """An `InferenceSession`; its `run` may be called from several threads at once."""

    def __init__(self, session: Any, package: Package, options: SessionOptions, num_threads: int) -> None:
        providers = session.get_providers()
        facts = {
            "runtime": f"onnxruntime {ort.__version__}",
            "device": str(options.device),
            "precision": package.entry.precision.value,
            "threads": num_threads,
            "providers": providers,
            "provider_options": {name: session.get_provider_options()[name] for name in providers},
        }
        super().__init__(package.signature, facts)
        self._session: Any = session
        self._feeds = _match(package, "inputs", [spec.name for spec in self.signature.inputs], session.get_inputs())
        outputs = [spec.name for spec in self.signature.outputs]
        matched = _match(package, "outputs", outputs, session.get_outputs())
        self._names = outputs
        self._fetches = [matched[name] for name in outputs]
        self._renames = any(name != feed for name, feed in self._feeds.items())
        kinds = {spec.dtype for spec in (*self.signature.inputs, *self.signature.outputs)}
        needs_binding = DType.BF16 in kinds or not _in_host_memory(providers[0])
        self._bound = options.backend.get("io_binding", needs_binding) or DType.BF16 in kinds
        facts["io_binding"] = self._bound

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise session_closed()
        try:
            if self._bound:
                return self._run_bound(session, inputs)
            feed = inputs
            if self._renames or type(inputs) is not dict:
                feed = {self._feeds[name]: array for name, array in inputs.items()}
            return dict(zip(self._names, session.run(self._fetches, feed), strict=True))
        except Exception as error:
            raise RuntimeRunError(
                f"ONNX Runtime failed while computing: {_finding(error)}",
                hint="the sizes of the inputs may not fit each other; compare them with the signature",
            ) from error

    def _run_bound(self, session: Any, inputs: Arrays) -> dict[str, Array]:
        """Bind inputs in host memory and outputs wherever ONNX Runtime allocates them on the host."""
        binding = session.io_binding()
        # ONNX Runtime borrows the arrays' memory, so they must live until the run is over.
        values = [_to_value(array) for array in inputs.values()]
        for name, value in zip(inputs, values, strict=True):
            binding.bind_ortvalue_input(self._feeds[name], value)
        for name in self._fetches:
            binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        return {name: _to_array(value) for name, value in zip(self._names, binding.get_outputs(), strict=True)}

    def _release(self) -> None:
        self._session = None


def _to_value(array: Array) -> Any:
    array = np.ascontiguousarray(array)
    if array.dtype == numpy_dtype(DType.BF16):
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BF16_ELEMENT_TYPE)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _to_array(value: Any) -> Array:
    """A copy of a tensor in host memory; numpy cannot be told of bf16, so its bits are copied."""
    if value.element_type() != _BF16_ELEMENT_TYPE:
        array: Array = value.numpy()
        return array
    bits = np.empty(value.shape(), np.uint16)
    ctypes.memmove(bits.ctypes.data, value.data_ptr(), bits.nbytes)
    return bits.view(numpy_dtype(DType.BF16))


def _session_options(options: SessionOptions) -> Any:
    chosen = options.backend
    session_options = ort.SessionOptions()
    session_options.log_severity_level = _LOG_ERRORS_ONLY
    session_options.intra_op_num_threads = options.num_threads or default_threads()
    session_options.graph_optimization_level = _LEVELS[chosen.get("graph_optimization", "all")]
    inter_op = chosen.get("inter_op_num_threads", 1)
    session_options.inter_op_num_threads = inter_op
    if inter_op > 1:
        session_options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    spinning = "1" if chosen.get("allow_spinning", True) else "0"
    session_options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    session_options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    return session_options


def _providers(options: SessionOptions) -> list[tuple[str, dict[str, Any]]]:
    """The execution providers to ask for, in order, with their options.

    Raises:
        UnknownName: a provider that ONNX Runtime does not know at all.
        RuntimeLoadError: one that this build does not have, or none for the device.
    """
    listed = options.backend.get("providers")
    available = ort.get_available_providers()
    if listed is None:
        return _providers_of(options.device, available)
    wanted = [_provider(entry) for entry in listed]
    if not wanted:
        raise UnknownName("option 'providers' is empty", hint=f"name one of {', '.join(available)}")
    for name, _ in wanted:
        if name not in ort.get_all_providers():
            raise unknown_name("execution provider", name, available)
        if name not in available:
            row = find_provider(name)
            raise _absent(f"execution provider {name}", available, (row,) if row else ())
    return wanted


def _in_host_memory(provider: str) -> bool:
    row = find_provider(provider)
    return row is not None and row.host_memory


def _provider(entry: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Sequence) and len(entry) == 2:
        name, settings = entry
        if isinstance(name, str) and isinstance(settings, Mapping):
            return name, {str(key): value for key, value in settings.items()}
    raise UnknownName(f"option 'providers' takes names and (name, {{option: value}}) pairs, not {entry!r}")


def _providers_of(device: Device, available: list[str]) -> list[tuple[str, dict[str, Any]]]:
    if device.kind == "cpu":
        return [(_CPU, {})]
    rows = providers_for(device.kind)
    for row in rows:
        if row.name in available:
            # Operators that the provider lacks run on the CPU, as ONNX Runtime intends.
            return [(row.name, _device_settings(row, device)), (_CPU, {})]
    raise _absent(f"execution provider for device {device}", available, rows)


def _device_settings(row: ExecutionProvider, device: Device) -> dict[str, Any]:
    if row.device_option == "device_type":
        return {"device_type": device.kind.upper() + ("" if device.index is None else f".{device.index}")}
    if row.device_option is None or device.index is None:
        return {}
    return {row.device_option: device.index}


def _absent(what: str, available: list[str], rows: tuple[ExecutionProvider, ...]) -> RuntimeLoadError:
    return RuntimeLoadError(
        f"this build of ONNX Runtime has no {what}; it has {', '.join(available)}",
        hint=how_to_get(rows) if rows else "install the ONNX Runtime build of your device",
    )


def _check_providers(wanted: list[str], got: list[str]) -> None:
    """A provider whose library does not load is left out with no more than a log line."""
    if got[: len(wanted)] != wanted:
        raise RuntimeLoadError(
            f"ONNX Runtime opened with {', '.join(got)}, not with {', '.join(wanted)} as asked",
            hint="a library of the missing provider could not be loaded; is its driver installed?",
        )


def _match(package: Package, what: str, names: list[str], found: list[Any]) -> dict[str, str]:
    """The signature's names to those of the file: by name where they are the same, else by order.

    Raises:
        RuntimeLoadError: the file has another number of them.
    """
    own = [part.name for part in found]
    if set(names) <= set(own) and (what == "outputs" or len(names) == len(own)):
        return {name: name for name in names}
    if len(names) != len(own):
        raise RuntimeLoadError(
            f"cannot open package {package.id!r}: its file has {len(own)} {what} ({', '.join(own)}), "
            f"the signature {len(names)} ({', '.join(names)})",
            hint="package the model again",
        )
    return dict(zip(names, own, strict=True))


def _specs(path: Path, found: list[Any]) -> tuple[TensorSpec, ...]:
    for part in found:
        if part.type not in _DTYPES:
            raise FormatMismatch(
                f"{path}: {part.name!r} is a {part.type}, which no array can hold",
                hint="export the model with plain tensors, such as zipmap=False for scikit-learn",
            )
    return tuple(
        TensorSpec(
            part.name,
            _DTYPES[part.type],
            tuple(_dim(part.name, axis, dim) for axis, dim in enumerate(part.shape)),
        )
        for part in found
    )


def _dim(name: str, axis: int, dim: Any) -> Dim:
    """A dimension of the file; those without a name differ from input to input, but for the batch."""
    if isinstance(dim, (int, str)) and dim != "":
        return dim
    return "batch" if axis == 0 else f"{name}_dim_{axis}"


def _load_error(package: Package, error: Exception) -> RuntimeLoadError:
    finding = _finding(error)
    low = package.entry.precision in (Precision.BF16, Precision.FP16)
    hint = "check the file with `runoff verify`, or export it again"
    if "NOT_IMPLEMENTED" in str(error) and low:
        hint = f"this provider has no kernels for some operators in {package.entry.precision}; use an fp32 package"
    return RuntimeLoadError(f"ONNX Runtime cannot open package {package.id!r}: {finding}", hint=hint)


def _finding(error: Exception) -> str:
    """What ONNX Runtime says, without its error code and stack."""
    text = _FINDING.sub("", " ".join(str(error).split()))
    return text or type(error).__name__
