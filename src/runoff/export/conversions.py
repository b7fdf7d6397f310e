"""The edges of the format graph: each conversion as data, with the libraries that it needs.

A step names its code as `module:function`, which `worker.py` loads in an isolated process. Knows no runtime.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

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
TRT = "trt"
IREE = "iree"
WEB = "web"
TFJS = "tfjs"


def state_name(state: State) -> str:
    """A state as people read it, such as `onnx at fp16`."""
    return f"{state[0]} at {state[1].value}"


class Step(msgspec.Struct, frozen=True):
    """One edge of the graph: a conversion as data.

    Attributes:
        target: `module:function` that does it, called as `function(package, destination, StepOptions) -> Made`.
        libraries: distributions that must be installed, by the name that pip knows.
        extra: the extra of runoff that brings them.
        cost: relative effort and risk; the cheapest path wins.
        raced: whether a race takes it unasked where its source is there; else only the first format of each backend.
        javascript: the set of JavaScript packages that it needs, see `environment.javascript`.
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
    javascript: str | None = None

    @property
    def source(self) -> State:
        """Where the edge starts."""
        return (self.source_format, self.source_precision)

    @property
    def result(self) -> State:
        """Where the edge ends."""
        return (self.target_format, self.target_precision)

    def __str__(self) -> str:
        return f"{state_name(self.source)} -> {state_name(self.result)}"


_FP32 = Precision.FP32
_FLOATS = (Precision.FP32, Precision.BF16, Precision.FP16)
_ONNX_LIBRARIES = ("torch", "onnx", "onnxscript")
_TRT_LIBRARIES = ("tensorrt", "polygraphy", "onnx", "cuda")

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
        "runoff.export.quantize_litert:int8_dynamic",
        ("ai_edge_quantizer", "ai_edge_litert"),
        "litert-export",
        2,
    ),
    *(
        Step(TORCH_EXPORT, _FP32, EXECUTORCH, precision, target, ("torch", "executorch"), "executorch", 6)
        for precision, target in (
            (_FP32, "runoff.export.executorch:from_torch_export"),
            (Precision.INT8, "runoff.export.quantize_executorch:int8_dynamic"),
        )
    ),
    Step(
        ONNX, _FP32, IREE, _FP32, "runoff.export.iree:from_onnx", ("iree.compiler", "iree.runtime", "onnx"), "iree", 5
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
    *(
        Step(ONNX, source, TRT, precision, "runoff.export.trt:from_onnx", _TRT_LIBRARIES, "trt10", 6)
        for source, precision in (
            (_FP32, _FP32),
            (_FP32, Precision.FP16),
            (Precision.INT8, Precision.INT8),
        )
    ),
    *(
        Step(
            ONNX, precision, WEB, precision, "runoff.export.web:from_onnx", ("onnx",), "export", 3, javascript="ort-web"
        )
        for precision in (_FP32, Precision.INT8)
    ),
    Step(ONNX, _FP32, TFJS, _FP32, "runoff.export.tfjs:from_onnx", ("onnx",), "export", 4, javascript="tfjs"),
)
