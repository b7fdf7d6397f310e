"""Core ML: `.mlpackage` folders. Predictions need macOS; elsewhere a package can be made and its specification read.

Written against the documented interface of coremltools; predicting has not been run where this was built.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import coremltools
import numpy as np

from runoff.backends import table
from runoff.backends.protocol import CheckedSession, Session, SessionOptions, session_closed
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import Array, Arrays, numpy_dtype
from runoff.models.folder import Package
from runoff.types import Dim, DType, Signature, TensorSpec

_UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "cpu-and-gpu": "CPU_AND_GPU", "cpu-and-npu": "CPU_AND_NE"}
_NARROWED = {DType.INT64: DType.INT32, DType.BOOL: DType.INT32}


class CoreMlBackend:
    """Opens packages in the format `mlpackage`, on macOS."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("coreml", options)
        if not table.row("coreml").runs_on(sys.platform):
            raise RuntimeLoadError(
                f"package {package.id!r} needs macOS: Core ML predicts nowhere else, and this is {sys.platform}",
                hint="run the model's onnx or openvino package here",
            )
        units = options.backend.get("compute_units", "all")
        try:
            model = coremltools.models.MLModel(
                str(package_folder(package)), compute_units=getattr(coremltools.ComputeUnit, _UNITS[units])
            )
        except Exception as error:
            raise RuntimeLoadError(
                f"Core ML cannot open package {package.id!r}: {error}", hint="export it again"
            ) from error
        return CoreMlSession(model, package, units)

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The inputs and outputs of a package's specification; an output whose shape it leaves open is refused."""
        root = path if path.is_dir() else path.parent
        try:
            description = coremltools.utils.load_spec(str(root)).description
        except Exception as error:
            raise FormatMismatch(f"coremltools cannot read {root}: {error}") from error
        return Signature(tuple(map(_spec, description.input)), tuple(map(_spec, description.output)))


class CoreMlSession(CheckedSession):
    """A model of Core ML; integers pass as 32 bits."""

    concurrency: Literal["thread", "exclusive"] = "exclusive"

    def __init__(self, model: Any, package: Package, units: str) -> None:
        facts = {
            "runtime": f"coremltools {coremltools.__version__}",
            "device": units,
            "precision": package.entry.precision.value,
            "threads": None,
        }
        super().__init__(package.signature, facts)
        self._model: Any = model

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        model = self._model
        if model is None:
            raise session_closed()
        feed = {
            spec.name: inputs[spec.name].astype(numpy_dtype(_NARROWED.get(spec.dtype, spec.dtype)), copy=False)
            for spec in self.signature.inputs
        }
        try:
            found = model.predict(feed)
            return {spec.name: np.array(found[spec.name], numpy_dtype(spec.dtype)) for spec in self.signature.outputs}
        except Exception as error:
            raise RuntimeRunError(f"Core ML failed while computing: {error}") from error

    def _release(self) -> None:
        self._model = None


def package_folder(package: Package) -> Path:
    """The .mlpackage folder of a package, whose main file is its Manifest.json."""
    return package.main_file.parent


def _spec(feature: Any) -> TensorSpec:
    kinds = {65568: DType.FP32, 65600: DType.FP64, 65552: DType.FP16, 131104: DType.INT32}
    array = feature.type.multiArrayType
    if array.dataType not in kinds:
        raise FormatMismatch(f"{feature.name!r} is no array of numbers")
    dims: list[Dim] = list(array.shape)
    for axis, bounds in enumerate(array.shapeRange.sizeRanges):
        if bounds.lowerBound != bounds.upperBound:
            dims[axis] = "batch" if axis == 0 else f"{feature.name}_dim_{axis}"
    if not dims:
        raise FormatMismatch(
            f"the specification leaves the shape of {feature.name!r} open", hint="export the package for one batch size"
        )
    return TensorSpec(feature.name, kinds[array.dataType], tuple(dims))
