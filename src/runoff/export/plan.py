"""The format graph: which format leads to which, and the cheapest path from what is there to what is wanted.

Pure: knows no files, no runtime and no machine; what is installed is handed in. A step names its code as
`module:function`, which `worker.py` loads in an isolated process.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from typing import TypeAlias

import msgspec

from runoff.errors import ExportError
from runoff.types import Precision

State: TypeAlias = tuple[str, Precision]
"""A node of the graph: a format at a precision."""

TORCH_EXPORT = "torch-export"
SAFETENSORS = "safetensors"
HF = "hf"
ONNX = "onnx"
OPENVINO = "openvino"
LITERT = "litert"
EXECUTORCH = "executorch"
AOTI = "aoti"
TORCHSCRIPT = "torchscript"
ONNX_FUSED = "onnx-fused"
NCNN = "ncnn"
MLPACKAGE = "mlpackage"


class Step(msgspec.Struct, frozen=True):
    """One edge of the graph: a conversion as data.

    Attributes:
        target: `module:function` that does it, called as `function(package, destination, StepOptions) -> Made`.
        libraries: distributions that must be installed, by the name that pip knows.
        extra: the extra of runoff that brings them.
        cost: relative effort and risk; the cheapest path wins.
        raced: whether a race takes it unasked where its source is there; else only the first format of each backend.
    """

    source_format: str
    source_precision: Precision
    target_format: str
    target_precision: Precision
    target: str
    libraries: tuple[str, ...]
    extra: str
    cost: int = 1
    raced: bool = False

    @property
    def source(self) -> State:
        """Where the edge starts."""
        return (self.source_format, self.source_precision)

    @property
    def result(self) -> State:
        """Where the edge ends."""
        return (self.target_format, self.target_precision)

    def __str__(self) -> str:
        return f"{_name(self.source)} -> {_name(self.result)}"


class Available(msgspec.Struct, frozen=True):
    """A package that a path may start from."""

    package_id: str
    format: str
    precision: Precision


class Plan(msgspec.Struct, frozen=True):
    """The package to start from and the steps to take, in order; no step when it is already there."""

    package_id: str
    steps: tuple[Step, ...]

    @property
    def cost(self) -> int:
        """The sum of the steps' costs."""
        return sum(step.cost for step in self.steps)


_FP32 = Precision.FP32
_FLOATS = (Precision.FP32, Precision.BF16, Precision.FP16)
_ONNX_LIBRARIES = ("torch", "onnx", "onnxscript")

STEPS: tuple[Step, ...] = (
    # A checkpoint stored in 16 bits is widened without loss, so that fp32 stays the common root.
    *(
        Step(HF, stored, TORCH_EXPORT, _FP32, "runoff.export.torch_export:from_hf", ("torch", "transformers"), "hf", 4)
        for stored in _FLOATS
    ),
    Step(
        SAFETENSORS,
        _FP32,
        TORCH_EXPORT,
        _FP32,
        "runoff.export.torch_export:from_safetensors",
        ("torch", "safetensors"),
        "torch",
        3,
    ),
    Step(TORCH_EXPORT, _FP32, ONNX, _FP32, "runoff.export.onnx:from_torch_export", _ONNX_LIBRARIES, "export", 4),
    Step(ONNX, _FP32, ONNX, Precision.FP16, "runoff.export.onnx:to_fp16", ("onnx", "onnxruntime"), "export", 2),
    Step(
        TORCH_EXPORT,
        _FP32,
        OPENVINO,
        _FP32,
        "runoff.export.openvino:from_torch_export",
        ("torch", "openvino"),
        "openvino",
        3,
    ),
    Step(ONNX, _FP32, OPENVINO, _FP32, "runoff.export.openvino:from_onnx", ("openvino",), "openvino", 2),
    Step(
        HF,
        _FP32,
        ONNX_FUSED,
        _FP32,
        "runoff.export.onnx_fused:from_hf",
        ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"),
        "export",
        5,
        raced=True,
    ),
    *(
        Step(TORCH_EXPORT, _FP32, AOTI, precision, "runoff.export.aoti:from_torch_export", ("torch",), "torch", 5)
        for precision in (_FP32, Precision.BF16)
    ),
    Step(
        TORCH_EXPORT, _FP32, TORCHSCRIPT, _FP32, "runoff.export.torchscript:from_torch_export", ("torch",), "torch", 3
    ),
    Step(
        TORCH_EXPORT,
        _FP32,
        LITERT,
        _FP32,
        "runoff.export.litert:from_torch_export",
        ("torch", "litert_torch", "ai_edge_litert"),
        "litert-export",
        5,
    ),
    Step(
        LITERT,
        _FP32,
        LITERT,
        Precision.INT8,
        "runoff.export.litert:to_int8",
        ("ai_edge_quantizer", "ai_edge_litert"),
        "litert-export",
        2,
    ),
    *(
        Step(
            TORCH_EXPORT,
            _FP32,
            EXECUTORCH,
            precision,
            "runoff.export.executorch:from_torch_export",
            ("torch", "executorch"),
            "executorch",
            6,
        )
        for precision in (_FP32, Precision.INT8)
    ),
    Step(TORCH_EXPORT, _FP32, NCNN, _FP32, "runoff.export.ncnn:from_torch_export", ("torch", "pnnx"), "ncnn", 4),
    *(
        Step(
            TORCH_EXPORT,
            _FP32,
            MLPACKAGE,
            precision,
            "runoff.export.coreml:from_torch_export",
            ("torch", "coremltools"),
            "coreml",
            4,
        )
        for precision in (_FP32, Precision.FP16)
    ),
)


def plan(
    available: Sequence[Available],
    wanted: State,
    installed: Collection[str],
    steps: Sequence[Step] = STEPS,
) -> Plan:
    """The cheapest path from one of the packages to the wanted format at the wanted precision.

    Of equally cheap paths the one with fewer steps is taken, then the one whose package comes first.

    Args:
        available: packages to start from, the preferred one first.
        wanted: format and precision.
        installed: the distributions that are installed.
        steps: the edges of the graph.

    Raises:
        ExportError: no path; the message says which library is missing, or which formats can be reached.
    """
    usable = [step for step in steps if all(library in installed for library in step.libraries)]
    found = _cheapest(available, wanted, usable)
    if found is not None:
        return found
    blocked = _cheapest(available, wanted, steps)
    if blocked is not None:
        missing = {
            library: step.extra for step in blocked.steps for library in step.libraries if library not in installed
        }
        extras = ",".join(dict.fromkeys(missing.values()))
        raise ExportError(
            f"cannot make {_name(wanted)} from {_list(available)}: missing {', '.join(missing)}",
            hint=f"pip install 'runoff[{extras}]'",
        )
    reached = reachable(available, usable)
    names = ", ".join(_name(state) for state in sorted(reached)) or "nothing"
    raise ExportError(
        f"no conversion leads from {_list(available)} to {_name(wanted)}",
        hint=f"what can be made from it here: {names}",
    )


def reachable(available: Iterable[Available], steps: Sequence[Step] = STEPS) -> set[State]:
    """Every format and precision that some path leads to, without those that are there already."""
    start = {(package.format, package.precision) for package in available}
    seen = set(start)
    pending = list(start)
    while pending:
        state = pending.pop()
        fresh = {step.result for step in steps if step.source == state} - seen
        seen |= fresh
        pending.extend(fresh)
    return seen - start


def _cheapest(available: Sequence[Available], wanted: State, steps: Sequence[Step]) -> Plan | None:
    """Dijkstra from all packages at once."""
    queue: list[tuple[int, int, int, State, tuple[Step, ...]]] = [
        (0, 0, rank, (package.format, package.precision), ()) for rank, package in enumerate(available)
    ]
    heapq.heapify(queue)
    done: set[State] = set()
    order = len(queue)
    origin = {rank: package.package_id for rank, package in enumerate(available)}
    while queue:
        cost, length, rank, state, path = heapq.heappop(queue)
        if state == wanted:
            return Plan(origin[rank], path)
        if state in done:
            continue
        done.add(state)
        for step in steps:
            if step.source == state and step.result not in done:
                origin[order] = origin[rank]
                heapq.heappush(queue, (cost + step.cost, length + 1, order, step.result, (*path, step)))
                order += 1
    return None


def _name(state: State) -> str:
    return f"{state[0]} at {state[1].value}"


def _list(available: Sequence[Available]) -> str:
    return ", ".join(_name((package.format, package.precision)) for package in available) or "nothing"
