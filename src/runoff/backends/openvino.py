"""OpenVINO: IR files (`.xml` with `.bin`) and bare `.onnx` files, on its device plug-ins.

Left alone, its CPU plug-in computes fp32 models in bf16 where the processor has AMX. So a precision is always asked
for unless the hint is `default`, and `facts["precision"]` is what the compiled model reports.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from runoff.backends import table
from runoff.backends.protocol import CheckedSession, Session, SessionOptions, session_closed
from runoff.backends.threads import default_threads
from runoff.backends.usage_reports import hide_openvino_telemetry
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import Array, Arrays, numpy_dtype
from runoff.models.folder import Package
from runoff.types import Device, Dim, DType, Precision, Signature, TensorSpec

hide_openvino_telemetry()

import openvino as ov  # noqa: E402

_DTYPES = {
    "f64": DType.FP64,
    "f32": DType.FP32,
    "f16": DType.FP16,
    "bf16": DType.BF16,
    "i64": DType.INT64,
    "i32": DType.INT32,
    "i16": DType.INT16,
    "i8": DType.INT8,
    "u64": DType.UINT64,
    "u32": DType.UINT32,
    "u16": DType.UINT16,
    "u8": DType.UINT8,
    "boolean": DType.BOOL,
    "string": DType.STRING,
}
_HINTS = {Precision.FP32: "f32", Precision.BF16: "bf16", Precision.FP16: "f16"}
_REPORTED = {"f32": Precision.FP32, "bf16": Precision.BF16, "f16": Precision.FP16}
_IR_ENDS = (b"<?xml", b"<net")


class OpenVinoBackend:
    """Opens packages in the formats `openvino` and `onnx`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("openvino", options)
        core = ov.Core()
        device = _device(core, options.device)
        try:
            model = _read_model(core, package.main_file)
            _widen_bf16(model)
        except Exception as error:
            raise _load_error(package, error) from error
        compiled = _compile(core, model, device, package, options)
        return OpenVinoSession(compiled, package, options)

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The inputs and outputs of a file; dimensions that vary are called `batch` or `<input>_dim_<axis>`."""
        try:
            model = _read_model(ov.Core(), path)
        except Exception as error:
            raise FormatMismatch(f"OpenVINO cannot read {path}: {_finding(error)}") from error
        return Signature(
            tuple(_spec(port, f"input_{i}") for i, port in enumerate(model.inputs)),
            tuple(_spec(port, f"output_{i}") for i, port in enumerate(model.outputs)),
        )


class OpenVinoSession(CheckedSession):
    """A compiled model with a pool of infer requests, one for each `run` at the same time."""

    def __init__(self, compiled: Any, package: Package, options: SessionOptions) -> None:
        super().__init__(package.signature, _facts(compiled, package, options))
        self._compiled: Any = compiled
        _check_counts(package, compiled)
        inputs, outputs = self.signature.inputs, self.signature.outputs
        self._feeds = [
            (port, spec.name, np.dtype(np.float32) if spec.dtype is DType.BF16 else None)
            for port, spec in zip(_ports(inputs, compiled.inputs), inputs, strict=True)
        ]
        self._fetches = [
            (port, spec.name, numpy_dtype(spec.dtype))
            for port, spec in zip(_ports(outputs, compiled.outputs), outputs, strict=True)
        ]
        # Taking from and giving back to a deque is atomic; an empty one means that another request is made.
        self._idle: deque[Any] = deque([compiled.create_infer_request()])

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        feed = {}
        for port, name, widened in self._feeds:
            feed[port] = inputs[name] if widened is None else inputs[name].astype(widened)
        request = self._take()
        try:
            request.infer(feed, share_inputs=True, share_outputs=True)
            # The request owns its output tensors and the next run overwrites them.
            return {name: np.array(request.get_output_tensor(i).data, dtype) for i, name, dtype in self._fetches}
        except Exception as error:
            raise RuntimeRunError(
                f"OpenVINO failed while computing: {_finding(error)}",
                hint="the sizes of the inputs may not fit each other; compare them with the signature",
            ) from error
        finally:
            self._idle.append(request)

    def _take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            compiled = self._compiled
            if compiled is None:
                raise session_closed() from None
            return compiled.create_infer_request()

    def _release(self) -> None:
        self._compiled = None
        self._idle.clear()


def _read_model(core: Any, path: Path) -> Any:
    """Read a file; a broken `.xml` is refused here, before every frontend of OpenVINO complains about it on stderr."""
    if path.suffix == ".xml":
        with path.open("rb") as file:
            if not file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_IR_ENDS):
                raise FormatMismatch(f"{path} is not an OpenVINO IR file")
    return core.read_model(str(path))


def _widen_bf16(model: Any) -> None:
    """Let bf16 inputs and outputs pass as fp32, which holds every bf16 number: OpenVINO's numpy bridge has no bf16."""
    process = ov.preprocess.PrePostProcessor(model)
    ports = [(process.input(i), port) for i, port in enumerate(model.inputs)]
    ports += [(process.output(i), port) for i, port in enumerate(model.outputs)]
    narrow = [side for side, port in ports if port.get_element_type() == ov.Type.bf16]
    for side in narrow:
        side.tensor().set_element_type(ov.Type.f32)
    if narrow:
        process.build()


def _compile(core: Any, model: Any, device: str, package: Package, options: SessionOptions) -> Any:
    """Compile, asking for a precision; see the module's docstring.

    Raises:
        RuntimeLoadError: OpenVINO refuses, or computes in another precision than the one asked for.
    """
    own = package.entry.precision
    # Quantised layers run as they are; the hint is about the float layers around them.
    asked = None if options.precision == own and own not in _HINTS else options.precision
    wanted = (own if own in _HINTS else Precision.FP32) if asked is None else asked
    if wanted != "default" and wanted not in _HINTS:
        raise RuntimeLoadError(
            f"OpenVINO takes the precisions {', '.join(_HINTS)} and default as a hint, not {wanted}",
            hint="quantise the model into a package of its own",
        )
    compiled = _compile_at(core, model, device, wanted, (package, options))
    if wanted == "default" or reported_precision(compiled) == wanted:
        return compiled
    if asked is None:
        # Nobody asked for 16 bits as such: fp32 is at least as exact, and every device has it.
        return _compile_at(core, model, device, Precision.FP32, (package, options))
    raise RuntimeLoadError(
        f"OpenVINO computes in {reported_precision(compiled)} on {device} here where {wanted} was asked for",
        hint="leave the precision out, or use 'default'",
    )


def _compile_at(core: Any, model: Any, device: str, precision: Any, what: tuple[Package, SessionOptions]) -> Any:
    package, options = what
    chosen = options.backend
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": chosen.get("performance_hint", "latency").upper(),
        "NUM_STREAMS": str(chosen["num_streams"]) if "num_streams" in chosen else None,
        "CACHE_DIR": chosen.get("cache_dir"),
        "INFERENCE_PRECISION_HINT": None if precision == "default" else _HINTS[precision],
    }
    if device.startswith("CPU"):
        config["INFERENCE_NUM_THREADS"] = options.num_threads or default_threads()
    try:
        return core.compile_model(model, device, {key: value for key, value in config.items() if value is not None})
    except Exception as error:
        raise _load_error(package, error) from error


def reported_precision(compiled: Any) -> str:
    """The float precision that a compiled model says it computes in."""
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return _REPORTED[hint].value if hint in _REPORTED else str(hint)


def _facts(compiled: Any, package: Package, options: SessionOptions) -> dict[str, Any]:
    supported = compiled.get_property("SUPPORTED_PROPERTIES")
    own = package.entry.precision
    facts: dict[str, Any] = {
        "runtime": f"openvino {ov.__version__}",
        "device": ", ".join(compiled.get_property("EXECUTION_DEVICES")),
        # What OpenVINO reports is about the float layers; quantised ones run as they are.
        "precision": reported_precision(compiled) if own in _HINTS else own.value,
        "float_precision": reported_precision(compiled),
        "performance_hint": str(compiled.get_property("PERFORMANCE_HINT")).rpartition(".")[2].lower(),
    }
    for fact, name in (("threads", "INFERENCE_NUM_THREADS"), ("streams", "NUM_STREAMS")):
        if name in supported:
            facts[fact] = int(compiled.get_property(name))
    facts.setdefault("threads", options.num_threads or default_threads())
    return facts


def _device(core: Any, device: Device) -> str:
    name = device.kind.upper() if device.index is None else f"{device.kind.upper()}.{device.index}"
    available = list(core.available_devices)
    if not any(found == name or found.startswith(f"{name}.") for found in available):
        raise RuntimeLoadError(
            f"there is no device {device}: OpenVINO sees {', '.join(available)}",
            hint="use device cpu, or install the driver of the device",
        )
    return name


def _check_counts(package: Package, compiled: Any) -> None:
    own = len(compiled.inputs), len(compiled.outputs)
    expected = len(package.signature.inputs), len(package.signature.outputs)
    if own != expected:
        raise RuntimeLoadError(
            f"cannot open package {package.id!r}: its file has {own[0]} inputs and {own[1]} outputs, "
            f"the signature {expected[0]} and {expected[1]}",
            hint="package the model again",
        )


def _ports(specs: tuple[TensorSpec, ...], ports: list[Any]) -> list[int]:
    """The index of each spec's port: by name where all are found, else by order."""
    by_name = {name: i for i, port in enumerate(ports) for name in port.get_names()}
    if all(spec.name in by_name for spec in specs):
        return [by_name[spec.name] for spec in specs]
    return list(range(len(ports)))


def _spec(port: Any, fallback: str) -> TensorSpec:
    kind = port.get_element_type().to_string()
    if kind not in _DTYPES:
        raise FormatMismatch(f"{port.get_any_name()!r} has the element type {kind}, which no array can hold")
    if port.get_partial_shape().rank.is_dynamic:
        raise FormatMismatch(f"{fallback} has no fixed number of dimensions")
    names = sorted(port.get_names())
    own = names[0] if names else fallback
    dims: list[Dim] = []
    for axis, size in enumerate(port.get_partial_shape()):
        # The file has no names for them; they differ from input to input, but for the batch.
        name = "batch" if axis == 0 else f"{own}_dim_{axis}"
        dims.append(name if size.is_dynamic else size.get_length())
    return TensorSpec(own, _DTYPES[kind], tuple(dims))


def _load_error(package: Package, error: Exception) -> RuntimeLoadError:
    return RuntimeLoadError(
        f"OpenVINO cannot open package {package.id!r}: {_finding(error)}",
        hint="check the files with `runoff verify`, or export them again",
    )


def _finding(error: Exception) -> str:
    """What OpenVINO says, without the places in its source where it says so."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return " ".join(said) or (lines[0] if lines else type(error).__name__)
