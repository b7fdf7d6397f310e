"""The table of backends: one row each, listable without importing any runtime.

Rows stand in the documented order of preference, which ranks packages only while nothing was measured.
`load` is the one function that turns a dotted name into code; nothing imports a backend's file.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, cast

import msgspec

from runoff.backends.protocol import Backend, PrecisionHint, SessionOptions
from runoff.errors import BackendNotInstalled, RunoffError, RuntimeLoadError, UnknownName, unknown_name
from runoff.types import Precision

ENTRY_POINTS = "runoff.backends"


class Option(msgspec.Struct, frozen=True):
    """One backend option: what it takes and what it does.

    Attributes:
        takes: a type name for people and errors: `bool`, `int`, `str`, `list`, `dict`.
        choices: the accepted values, where they are few.
        about: one line with the unit and the default.
    """

    takes: str
    about: str
    choices: tuple[str, ...] = ()


class Variant(msgspec.Struct, frozen=True):
    """A way to open a package that competes as a candidate of its own.

    Attributes:
        name: suffix of the candidate id; empty for the plain way.
        precision: the hint, see `SessionOptions.precision`.
        options: backend options of this variant.
        opt_in: raced only when named, such as one that is slow to start.
        formats: the package formats that can be opened in this way; None means all of the row.
    """

    name: str
    precision: PrecisionHint = None
    options: dict[str, Any] = {}
    opt_in: bool = False
    formats: tuple[str, ...] | None = None


class BackendRow(msgspec.Struct, frozen=True):
    """A backend as data.

    Attributes:
        id: the word of the user: `torch`, `onnx`, ...
        library: row of `environment.libraries.LIBRARIES` that must be installed; None for a plug-in.
        formats: package formats that it opens.
        target: `module:Class` of the backend.
        extra: the extra that brings the library.
        variants: the candidates that each fp32 package of this backend gives, the plain one first.
        static_batch: its packages are made for one batch size each, and for one size of every other dimension.
        platforms: values of `sys.platform` where it runs; empty means all.
        check: `module:function` that holds a package against its signature where the backend does not run.
    """

    id: str
    title: str
    library: str | None
    formats: tuple[str, ...]
    devices: tuple[str, ...]
    precisions: tuple[Precision, ...]
    target: str
    extra: str | None = None
    options: dict[str, Option] = {}
    variants: tuple[Variant, ...] = (Variant(""),)
    static_batch: bool = False
    notes: str = ""
    platforms: tuple[str, ...] = ()
    check: str | None = None

    def runs_on(self, platform: str) -> bool:
        """Whether the runtime exists for a value of `sys.platform`."""
        return not self.platforms or platform in self.platforms


_ALL_FLOAT = (Precision.FP32, Precision.BF16, Precision.FP16)
_MODULES = ("torch-export", "safetensors")
"""Forms of PyTorch that open as a module, which can still be compiled or moved to another precision."""

BUILT_IN: tuple[BackendRow, ...] = (
    BackendRow(
        id="torch",
        title="PyTorch",
        library="torch",
        formats=(*_MODULES, "aoti", "torchscript"),
        devices=("cpu", "cuda", "mps"),
        precisions=_ALL_FLOAT,
        target="runoff.backends.torch:TorchBackend",
        extra="torch",
        options={
            "compile": Option("bool", "run through torch.compile; the first run of each shape compiles; default False"),
            "compile_mode": Option(
                "str",
                "mode of torch.compile",
                ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
            ),
            "freeze": Option("bool", "fold weights into the compiled code (inductor freezing); default True"),
        },
        variants=(
            Variant(""),
            Variant("compile", options={"compile": True}, formats=_MODULES),
            Variant("bf16", Precision.BF16, formats=_MODULES),
            Variant("compile-bf16", Precision.BF16, {"compile": True}, formats=_MODULES),
        ),
    ),
    BackendRow(
        id="hf",
        title="Hugging Face Transformers",
        library="transformers",
        formats=("hf",),
        devices=("cpu", "cuda", "mps"),
        precisions=_ALL_FLOAT,
        target="runoff.backends.hf:HfBackend",
        extra="hf",
        options={
            "attn_implementation": Option(
                "str", "attention of Transformers; default: its own choice", ("eager", "sdpa")
            ),
        },
        variants=(Variant(""), Variant("bf16", Precision.BF16)),
    ),
    BackendRow(
        id="onnx",
        title="ONNX Runtime",
        library="onnxruntime",
        formats=("onnx", "onnx-fused"),
        devices=("cpu", "cuda", "gpu", "npu"),
        precisions=(*_ALL_FLOAT, Precision.INT8, Precision.INT4),
        target="runoff.backends.onnx:OnnxBackend",
        extra="onnx-cpu",
        options={
            "providers": Option("list", "execution providers in order: names, or (name, {option: value}) pairs"),
            "graph_optimization": Option(
                "str", "graph optimization level; default all", ("off", "basic", "extended", "all")
            ),
            "inter_op_num_threads": Option("int", "threads across independent nodes; default 1 (sequential)"),
            "allow_spinning": Option("bool", "worker threads spin between operators; default True"),
            "io_binding": Option("bool", "bind inputs and outputs; default: only off the CPU and for bf16"),
        },
    ),
    BackendRow(
        id="openvino",
        title="OpenVINO",
        library="openvino",
        formats=("openvino", "onnx"),
        devices=("cpu", "gpu", "npu"),
        precisions=(*_ALL_FLOAT, Precision.INT8, Precision.INT4),
        target="runoff.backends.openvino:OpenVinoBackend",
        extra="openvino",
        options={
            "performance_hint": Option("str", "default latency", ("latency", "throughput", "undefined")),
            "num_streams": Option("int", "parallel inference streams; default 1"),
            "cache_dir": Option("str", "folder for compiled models; default: none"),
        },
        variants=(Variant(""), Variant("default", "default")),
    ),
    BackendRow(
        id="litert",
        title="LiteRT",
        library="ai_edge_litert",
        formats=("litert",),
        devices=("cpu",),
        precisions=(Precision.FP32, Precision.INT8),
        target="runoff.backends.litert:LiteRtBackend",
        extra="litert",
        options={
            "delegate": Option("str", "shared library of a delegate, such as libedgetpu.so.1; default: none"),
            "delegate_options": Option("dict", "options of the delegate, text by name, such as {'device': 'usb'}"),
        },
        static_batch=True,
        notes="XNNPACK computes what no other delegate takes.",
    ),
    BackendRow(
        id="executorch",
        title="ExecuTorch",
        library="executorch",
        formats=("executorch",),
        devices=("cpu",),
        precisions=(Precision.FP32, Precision.INT8),
        target="runoff.backends.executorch:ExecuTorchBackend",
        extra="executorch",
        static_batch=True,
        notes="XNNPACK; the number of threads belongs to the process, not to the session.",
    ),
    BackendRow(
        id="ncnn",
        title="ncnn",
        library="ncnn",
        formats=("ncnn",),
        devices=("cpu",),
        precisions=(Precision.FP32,),
        target="runoff.backends.ncnn:NcnnBackend",
        extra="ncnn",
        notes="runs a batch row by row",
    ),
    BackendRow(
        id="coreml",
        title="Core ML",
        library="coremltools",
        formats=("mlpackage",),
        devices=("cpu", "gpu", "npu"),
        precisions=(Precision.FP32, Precision.FP16),
        target="runoff.backends.coreml:CoreMlBackend",
        extra="coreml",
        options={
            "compute_units": Option(
                "str", "what Core ML may use; default all", ("all", "cpu", "cpu-and-gpu", "cpu-and-npu")
            ),
        },
        notes="predicts on macOS only; converts on Linux",
        platforms=("darwin",),
        check="runoff.export.coreml:check_package",
    ),
)

_ALIASES = {
    "pytorch": "torch",
    "huggingface": "hf",
    "hugging-face": "hf",
    "transformers": "hf",
    "onnxruntime": "onnx",
    "ort": "onnx",
    "ov": "openvino",
    "tensorrt": "trt",
    "tflite": "litert",
    "ai-edge-litert": "litert",
}
_ABSENT = {"trt": "TensorRT"}
"""Names that users of the field know and that this version has no backend for: refused by name, not as a typo."""


def rows() -> Mapping[str, BackendRow]:
    """Every backend by id, built-in ones first, then those of the entry-point group `runoff.backends`."""
    return _all_rows()[0]


def broken_plugins() -> Mapping[str, str]:
    """Entry points that could not be read, by name, with the reason."""
    return _all_rows()[1]


def forget_plugins() -> None:
    """Read the entry points again when they are next asked for, because what is installed has changed."""
    _all_rows.cache_clear()


@cache
def _all_rows() -> tuple[Mapping[str, BackendRow], Mapping[str, str]]:
    found = {row.id: row for row in BUILT_IN}
    broken: dict[str, str] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            row = point.load()
        except Exception as error:  # noqa: BLE001 - a broken plug-in is a reason in the table, not a crash
            broken[point.name] = f"{type(error).__name__}: {error}"
            continue
        if not isinstance(row, BackendRow):
            broken[point.name] = f"{point.value} is a {type(row).__name__}, expected a BackendRow"
        elif row.id in found:
            broken[point.name] = f"the id {row.id!r} is taken"
        else:
            found[row.id] = row
    return MappingProxyType(found), MappingProxyType(broken)


def row(name: str) -> BackendRow:
    """The row of a backend by id or by a name that the field uses for it (`pytorch`, `ort`, ...).

    Raises:
        UnknownName: no such backend; the message lists the known ones.
    """
    wanted = _ALIASES.get(name.lower(), name.lower())
    found = rows().get(wanted)
    if found is not None:
        return found
    if wanted in broken_plugins():
        raise UnknownName(f"the plug-in of backend {name!r} is broken: {broken_plugins()[wanted]}")
    if wanted in _ABSENT:
        raise UnknownName(
            f"this version of runoff has no backend for {_ABSENT[wanted]}; it has {', '.join(rows())}",
            hint="a plug-in can add one through the entry-point group 'runoff.backends'",
        )
    raise unknown_name("backend", name, list(rows()))


def load(target: str) -> Any:
    """The object that `module:name` names. The only place that imports code by name.

    Raises:
        BackendNotInstalled: a library that the module needs is missing or broken.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except RunoffError:
        raise
    except Exception as error:
        raise BackendNotInstalled(f"cannot load {target}: {type(error).__name__}: {error}") from error


def backend(backend_id: str) -> Backend:
    """Load a backend.

    Raises:
        UnknownName: no such backend.
        BackendNotInstalled: its library is missing or broken; the hint names the extra.
    """
    found = row(backend_id)
    try:
        return cast("Backend", load(found.target)())
    except BackendNotInstalled as error:
        hint = f"pip install 'runoff[{found.extra}]'" if found.extra else None
        raise BackendNotInstalled(f"backend {found.id!r} is not usable: {error.message}", hint=hint) from error


def backends_for(format_id: str) -> list[BackendRow]:
    """The backends that open a format, in the documented order."""
    return [found for found in rows().values() if format_id in found.formats]


def package_stem(format_id: str) -> str:
    """What the ids of packages in a format begin with: `torch` for a backend's first one, else such as `torch-aoti`."""
    found = backends_for(format_id)[0]
    if format_id == found.formats[0]:
        return found.id
    return format_id if format_id.startswith(f"{found.id}-") else f"{found.id}-{format_id}"


def package_id(format_id: str, precision: Precision) -> str:
    """The usual id of a package, such as `onnx-fp32` or `torch-aoti-bf16`."""
    return f"{package_stem(format_id)}-{precision.value}"


_TYPES: dict[str, type | tuple[type, ...]] = {
    "bool": bool,
    "int": int,
    "float": (int, float),
    "str": str,
    "list": (list, tuple),
    "dict": dict,
}


def check_options(backend_id: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the backend does not have, or values that they do not take.

    Raises:
        UnknownName: an unknown option or choice; the message lists the known ones.
    """
    found = row(backend_id)
    for name, value in options.items():
        option = found.options.get(name)
        if option is None:
            raise unknown_name(f"option of backend {found.id!r}", name, list(found.options))
        fits = isinstance(value, _TYPES[option.takes]) and not (option.takes == "int" and isinstance(value, bool))
        if not fits:
            raise UnknownName(f"option {name!r} of backend {found.id!r} takes {option.takes}, not {value!r}")
        if option.choices and value not in option.choices:
            raise unknown_name(f"value of option {name!r}", value, list(option.choices))


def check_session(backend_id: str, options: SessionOptions) -> None:
    """What every backend holds its session options against before it opens anything.

    Raises:
        UnknownName: an unknown option or choice; see `check_options`.
        RuntimeLoadError: a device kind that the backend does not drive, or a number of threads below 1.
    """
    found = row(backend_id)
    check_options(backend_id, options.backend)
    if options.device.kind not in found.devices:
        raise RuntimeLoadError(
            f"backend {found.id!r} has no device {options.device}; it drives {', '.join(found.devices)}",
            hint="choose one of these, or another backend",
        )
    if options.num_threads is not None and options.num_threads < 1:
        raise RuntimeLoadError(f"num_threads is {options.num_threads}, expected at least 1")
