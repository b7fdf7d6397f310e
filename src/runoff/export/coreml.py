"""To `mlpackage`: a Core ML program by coremltools, which converts on Linux too.

Runs in the export worker. Knows no plan and no manifest. Predictions need macOS, so elsewhere the specification is held
against the signature instead of being run: names, dtypes, shapes and version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from runoff.errors import ExportError
from runoff.export.module import first_line
from runoff.export.step import Made, StepOptions, quiet, with_batch
from runoff.export.torch_export import load_program, recapture
from runoff.models.arrays import numpy_dtype
from runoff.models.folder import Package
from runoff.types import DType, Precision, Signature, TensorSpec

MAIN_FILE = "Manifest.json"
_SPECIFICATION_VERSION = 8
"""Of iOS 17 and macOS 14, the oldest target of the programs that are made here."""
_KINDS = {DType.FP32: 65568, DType.FP16: 65552, DType.INT32: 131104, DType.INT64: 131104, DType.BOOL: 131104}
"""`ArrayFeatureType.ArrayDataType` of Core ML's Model.proto; it has no int64 and no bool."""


def from_torch_export(source: Package, destination: Path, options: StepOptions) -> Made:
    """Convert an archive, at fp32 or fp16.

    Raises:
        ExportError: coremltools has no conversion for it, or made something else than the signature says.
    """
    signature = with_batch(source.signature, options.batch)
    with quiet():
        import coremltools
    program = load_program(source.main_file)
    if signature != source.signature:
        program = recapture(program.module(), source.signature, options)
    half = options.precision is Precision.FP16
    try:
        with quiet():
            model = coremltools.convert(
                program.run_decompositions({}),
                convert_to="mlprogram",
                compute_precision=coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32,
                minimum_deployment_target=coremltools.target.iOS17,
                # Else an fp16 program would answer fp16.
                outputs=[coremltools.TensorType(dtype=_numpy_dtype(spec)) for spec in signature.outputs],
            )
            specification = _named(coremltools, model.get_spec(), signature)
            coremltools.models.MLModel(specification, weights_dir=model.weights_dir, skip_model_load=True).save(
                str(destination / "model.mlpackage")
            )
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"coremltools cannot convert {source.id}: {first_line(error)}") from error
    folder = destination / "model.mlpackage"
    for extra in folder.glob("executorch_*.json"):
        extra.unlink()
    check_specification(folder, signature)
    return Made(
        f"model.mlpackage/{MAIN_FILE}",
        "coremltools",
        {"coremltools": coremltools.__version__, "torch": str(torch.__version__)},
        {"platform": "darwin", "specification": specification.specificationVersion},
    )


def check_specification(folder: Path, signature: Signature) -> None:
    """Hold the specification of a package against the signature.

    Raises:
        ExportError: a name, dtype, shape or the version is not what it should be.
    """
    with quiet():
        import coremltools
    specification = coremltools.utils.load_spec(str(folder))
    if specification.specificationVersion < _SPECIFICATION_VERSION or not specification.HasField("mlProgram"):
        raise ExportError(f"{folder} is no Core ML program of specification {_SPECIFICATION_VERSION} or newer")
    description = specification.description
    for features, specs in ((description.input, signature.inputs), (description.output, signature.outputs)):
        if [feature.name for feature in features] != [spec.name for spec in specs]:
            raise ExportError(
                f"{folder} names {[feature.name for feature in features]}, expected {list(map(str, specs))}"
            )
        for feature, spec in zip(features, specs, strict=True):
            _check_feature(feature.type.multiArrayType, spec)


def stored_precision(path: Path) -> Precision:
    """The precision that most values of a program are computed in; fp32 for what is no program."""
    with quiet():
        import coremltools
    types = coremltools.proto.MIL_pb2.DataType
    counts = {types.FLOAT16: 0, types.FLOAT32: 0}
    for function in coremltools.utils.load_spec(str(path.parent)).mlProgram.functions.values():
        for block in function.block_specializations.values():
            for operation in block.operations:
                for output in () if operation.type == "const" else operation.outputs:
                    kind = output.type.tensorType.dataType
                    counts[kind] = counts.get(kind, 0) + 1
    return Precision.FP16 if counts[types.FLOAT16] > counts[types.FLOAT32] else Precision.FP32


def check_package(package: Package) -> None:
    """Hold the specification of a package against its signature; see `check_specification`."""
    check_specification(package.main_file.parent, with_batch(package.signature, package.entry.batch))


def _numpy_dtype(spec: TensorSpec) -> Any:
    return numpy_dtype(DType.INT32 if _KINDS.get(spec.dtype) == _KINDS[DType.INT32] else spec.dtype)


def _check_feature(array: Any, spec: TensorSpec) -> None:
    if array.dataType != _KINDS.get(spec.dtype):
        raise ExportError(f"{spec.name!r} became Core ML's type {array.dataType}, expected {spec.dtype}")
    ranges = list(array.shapeRange.sizeRanges)
    # Outputs with a dimension that varies have no shape in a specification.
    if not array.shape and not ranges and any(isinstance(dim, str) for dim in spec.shape):
        return
    if len(array.shape) != len(spec.shape):
        raise ExportError(f"{spec.name!r} has the shape {list(array.shape)}, expected {spec}")
    for axis, dim in enumerate(spec.shape):
        low, high = (ranges[axis].lowerBound, ranges[axis].upperBound) if ranges else (array.shape[axis],) * 2
        if (low, high) != (dim, dim) if isinstance(dim, int) else low > 1 or high == low:
            raise ExportError(f"{spec.name!r} takes {low} to {high} on axis {axis}, expected {dim}")


def _named(coremltools: Any, specification: Any, signature: Signature) -> Any:
    """The specification with the signature's names, and with a batch that starts at 1: torch.export says 2."""
    description = specification.description
    for features, specs in ((description.input, signature.inputs), (description.output, signature.outputs)):
        if len(features) != len(specs):
            raise ExportError(f"coremltools made {len(features)} values where the signature has {len(specs)}")
        renamed = {feature.name: f"runoff_{index}" for index, feature in enumerate(features)}
        final = {f"runoff_{index}": spec.name for index, spec in enumerate(specs)}
        # In two steps, because a new name may be another one's old name.
        for names in (renamed, final) if list(renamed) != list(final.values()) else ():
            for old, new in names.items():
                coremltools.utils.rename_feature(specification, old, new)
        for feature, spec in zip(features, specs, strict=True):
            array = feature.type.multiArrayType
            for axis, bounds in enumerate(array.shapeRange.sizeRanges):
                if isinstance(spec.shape[axis], str):
                    bounds.lowerBound = 1
                    array.shape[axis] = 1
    return specification
