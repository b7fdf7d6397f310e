"""The quantised forms of a model: one row each, with the code that makes it and the libraries that this needs.

Pure data: knows no files and no runtime. A form names its code as `module:function`, called in an isolated process as
`function(package, destination, StepOptions) -> Made`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from runoff.errors import UnknownName
from runoff.types import Precision

Method: TypeAlias = Literal["int8-static", "int8-dynamic", "int4"]
METHODS: tuple[Method, ...] = ("int8-static", "int8-dynamic", "int4")
CALIBRATIONS = ("minmax", "entropy", "percentile")


class Form(msgspec.Struct, frozen=True):
    """One quantised form.

    Attributes:
        id: of the package, such as `onnx-int8-static`.
        format: of the package.
        target: `module:function` that makes it.
        libraries: modules that must be importable.
        extra: the extra of runoff that brings them.
        reads_data: whether it needs calibration rows.
        controls_accuracy: whether the quantiser can keep layers back by itself, given labels.
        made_from: the format of the fp32 package that it is made from; None: its own.
        calibrations: the ways in which its quantiser can read ranges.
    """

    id: str
    backend: str
    format: str
    precision: Precision
    method: Method
    target: str
    libraries: tuple[str, ...]
    extra: str
    reads_data: bool = False
    controls_accuracy: bool = False
    made_from: str | None = None
    calibrations: tuple[str, ...] = CALIBRATIONS

    @property
    def source_format(self) -> str:
        """The format of the fp32 package that it is made from."""
        return self.made_from or self.format


_ONNX = ("onnx", "onnxruntime")
_OPENVINO = ("openvino", "nncf")
_LITERT = ("ai_edge_quantizer", "ai_edge_litert")
_EXECUTORCH = ("torch", "executorch", "torchao")
FORMS: tuple[Form, ...] = (
    Form(
        "onnx-int8-static",
        "onnx",
        "onnx",
        Precision.INT8,
        "int8-static",
        "runoff.export.quantize_onnx:int8_static",
        _ONNX,
        "quant",
        reads_data=True,
    ),
    Form(
        "onnx-int8-dynamic",
        "onnx",
        "onnx",
        Precision.INT8,
        "int8-dynamic",
        "runoff.export.quantize_onnx:int8_dynamic",
        _ONNX,
        "quant",
    ),
    Form("onnx-int4", "onnx", "onnx", Precision.INT4, "int4", "runoff.export.quantize_onnx:int4", _ONNX, "quant"),
    Form(
        "openvino-int8",
        "openvino",
        "openvino",
        Precision.INT8,
        "int8-static",
        "runoff.export.quantize_openvino:int8_static",
        _OPENVINO,
        "quant",
        reads_data=True,
        controls_accuracy=True,
    ),
    Form(
        "openvino-int4",
        "openvino",
        "openvino",
        Precision.INT4,
        "int4",
        "runoff.export.quantize_openvino:int4",
        _OPENVINO,
        "quant",
    ),
    Form(
        "litert-int8-static",
        "litert",
        "litert",
        Precision.INT8,
        "int8-static",
        "runoff.export.quantize_litert:int8_static",
        _LITERT,
        "litert-export",
        reads_data=True,
        calibrations=("minmax",),
    ),
    Form(
        "litert-int8",
        "litert",
        "litert",
        Precision.INT8,
        "int8-dynamic",
        "runoff.export.quantize_litert:int8_dynamic",
        _LITERT,
        "litert-export",
    ),
    Form(
        "executorch-int8-static",
        "executorch",
        "executorch",
        Precision.INT8,
        "int8-static",
        "runoff.export.quantize_executorch:int8_static",
        _EXECUTORCH,
        "executorch",
        reads_data=True,
        made_from="torch-export",
        calibrations=("minmax", "entropy"),
    ),
    Form(
        "executorch-int8",
        "executorch",
        "executorch",
        Precision.INT8,
        "int8-dynamic",
        "runoff.export.quantize_executorch:int8_dynamic",
        _EXECUTORCH,
        "executorch",
        made_from="torch-export",
    ),
    Form(
        "torch-int8-dynamic",
        "torch",
        "torch-export",
        Precision.INT8,
        "int8-dynamic",
        "runoff.export.quantize_torch:int8_dynamic",
        ("torch", "torchao"),
        "quant",
    ),
)


def find_form(backend: str, method: Method) -> Form:
    """The form of a backend by method.

    Raises:
        UnknownName: the backend has no such form; the message lists those that have one.
    """
    found = next((form for form in FORMS if (form.backend, form.method) == (backend, method)), None)
    if found is None:
        having = ", ".join(sorted({form.backend for form in FORMS if form.method == method}))
        raise UnknownName(f"backend {backend!r} has no {method} form; {having} has", hint=f"--backend {having}")
    return found
