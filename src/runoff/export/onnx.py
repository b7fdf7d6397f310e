"""To `onnx`: from a `torch.export` archive through the dynamo exporter, and from fp32 to fp16.

Runs in the export worker. Knows no plan and no manifest. Inputs, outputs and dynamic dimensions carry the
signature's names; the weights are in the one file unless that passes protobuf's 2 GB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runoff.errors import ExportError, RuntimeLoadError
from runoff.export.step import Made, StepOptions, quiet, with_batch
from runoff.models.folder import Package
from runoff.types import Dim, Precision, Signature

MAIN_FILE = "model.onnx"
_WEIGHTS_FILE = "model.onnx.data"
_PROTOBUF_LIMIT_BYTES = 2**31 - 2**24
"""What a single file may hold: protobuf's limit, less room for the graph itself."""


def from_torch_export(source: Package, destination: Path, options: StepOptions) -> Made:
    """Convert an archive with `torch.onnx.export(dynamo=True)`.

    Raises:
        RuntimeLoadError: torch cannot read the archive.
        ExportError: the exporter has no ONNX for an operator, or the result is not valid.
    """
    import onnxscript
    import torch

    from runoff.export.module import first_line
    from runoff.export.torch_export import load_program, recapture

    signature = with_batch(source.signature, options.batch)
    program = load_program(source.main_file)
    if signature != source.signature:
        program = recapture(program.module(), source.signature, options)
    try:
        with quiet():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=options.opset,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                verbose=False,
            )
    except Exception as error:
        cause = error.__cause__ or error
        raise ExportError(
            f"torch.onnx cannot convert {source.id}: {first_line(cause)}",
            hint="another opset may have the operator: runoff export --opset N",
        ) from error
    if converted is None:
        raise ExportError(f"torch.onnx gave no model for {source.id}")
    model = converted.model
    _name_dimensions(model.graph, signature)
    _strip(model.graph)
    opset = save_model(model, destination)
    versions = {"torch": str(torch.__version__), "onnxscript": onnxscript.__version__}
    return Made(MAIN_FILE, "torch.onnx", versions, {"opset": opset})


def to_fp16(source: Package, destination: Path, options: StepOptions) -> Made:
    """Store and compute in fp16; inputs and outputs keep their dtypes.

    Raises:
        RuntimeLoadError: onnx cannot read the file.
        ExportError: it cannot be converted, or the result is not valid.
    """
    import onnx
    import onnx_ir as ir
    import onnxruntime
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        model = onnx.load(source.main_file)
    except Exception as error:
        raise RuntimeLoadError(f"onnx cannot read {source.main_file}: {type(error).__name__}: {error}") from error
    try:
        with quiet():
            converted = ir.from_proto(convert_float_to_float16(model, keep_io_types=True))
            # onnxruntime 1.31 puts the casts of the inputs behind the nodes that use them.
            converted.graph.sort()
    except Exception as error:
        raise ExportError(f"{source.id} cannot be converted to fp16: {type(error).__name__}: {error}") from error
    _name_dimensions(converted.graph, with_batch(source.signature, options.batch))
    _strip(converted.graph)
    opset = save_model(converted, destination)
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    return Made(MAIN_FILE, "onnxruntime.transformers.float16", versions, {"opset": opset})


def stored_precision(path: Path) -> Precision:
    """The precision that most of a file's weights are stored in; fp32 where they say nothing else."""
    import onnx

    sizes: dict[int, int] = {}
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        count = 1
        for dim in tensor.dims:
            count *= dim
        sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + count
    most = max(sizes, key=lambda kind: sizes[kind], default=onnx.TensorProto.FLOAT)
    named: dict[int, Precision] = {
        onnx.TensorProto.FLOAT16: Precision.FP16,
        onnx.TensorProto.BFLOAT16: Precision.BF16,
        onnx.TensorProto.INT8: Precision.INT8,
        onnx.TensorProto.UINT8: Precision.INT8,
        onnx.TensorProto.INT4: Precision.INT4,
        onnx.TensorProto.UINT4: Precision.INT4,
    }
    return named.get(most, Precision.FP32)


def count_weights(path: Path) -> dict[str, int]:
    """How many weights a graph's linear layers and convolutions have, by `linear` and `convolution`."""
    import math

    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer if len(tensor.dims) > 1}
    counts = {"linear": 0, "convolution": 0}
    for node in graph.node:
        kind = {"Gemm": "linear", "MatMul": "linear", "Conv": "convolution", "ConvTranspose": "convolution"}
        if node.op_type in kind:
            counts[kind[node.op_type]] += max((sizes.get(name, 0) for name in node.input), default=0)
    return counts


def external_files(path: Path) -> list[str]:
    """The weights files that an .onnx file refers to, relative to its folder."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    model = onnx.load(path, load_external_data=False)
    tensors = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    return sorted({ExternalDataInfo(tensor).location for tensor in tensors})


def _name_dimensions(graph: Any, signature: Signature) -> None:
    """Give inputs and outputs the signature's dimension names in place of the exporter's symbols."""
    import onnx_ir as ir

    names: dict[str, str] = {}
    for value, spec in zip(graph.inputs, signature.inputs, strict=True):
        for size, dim in zip(value.shape, spec.shape, strict=True):
            if isinstance(dim, str) and not isinstance(size, int):
                names.setdefault(str(size), dim)
            elif isinstance(dim, str):
                raise ExportError(
                    f"the dimension {dim!r} of input {spec.name!r} became the constant {size}",
                    hint="ask for a fixed batch size with batch=N",
                )
    for values, specs in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        for value, spec in zip(values, specs, strict=True):
            value.shape = ir.Shape(
                [_dimension(size, dim, names) for size, dim in zip(value.shape, spec.shape, strict=True)]
            )


def _dimension(size: Any, dim: Dim, names: dict[str, str]) -> Dim:
    if isinstance(size, int) or isinstance(dim, int):
        return size if isinstance(size, int) else dim
    return names.get(str(size), dim)


def _strip(graph: Any) -> None:
    """Drop what only the exporter's developers need: stack traces with local paths, and inferred inner shapes.

    Every runtime infers inner shapes itself; onnxruntime.quantization even refuses those of the exporter when
    its own inference differs.
    """
    outputs = set(graph.outputs)
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in outputs:
                value.shape = None
                value.type = None
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    graph.metadata_props.clear()


def save_model(model: Any, destination: Path, limit_bytes: int = _PROTOBUF_LIMIT_BYTES) -> int:
    """Write and check an `onnx_ir` model, its weights in a second file when they pass the limit; answers its opset.

    Raises:
        ExportError: the model is not valid.
    """
    import onnx_ir as ir

    path = destination / MAIN_FILE
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    with quiet():
        ir.save(model, path, external_data=_WEIGHTS_FILE if size > limit_bytes else None)
    _check(path)
    return int(model.opset_imports[""])


def _check(path: Path) -> None:
    """Hold a file against ONNX's own checker, with shape inference."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise ExportError(f"the ONNX model is not valid: {type(error).__name__}: {error}") from error
