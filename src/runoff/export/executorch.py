"""To `executorch`: a `.pte` program with XNNPACK's parts in it, from a `torch.export` archive, at fp32 or int8.

Runs in the export worker. Knows no plan and no manifest. A program is made for one size of every dimension; what
XNNPACK does not take is computed by ExecuTorch's portable kernels.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from runoff.errors import ExportError
from runoff.export.module import first_line
from runoff.export.step import Made, StepOptions, quiet, with_all_sizes
from runoff.export.torch_export import example, load_program, recapture
from runoff.models.dimensions import SIZES
from runoff.models.folder import Package
from runoff.types import Precision

MAIN_FILE = "model.pte"


def from_torch_export(source: Package, destination: Path, options: StepOptions) -> Made:
    """Lower an archive to XNNPACK.

    At int8 the weights of linear layers are stored in int8, a scale for each channel, and their inputs are quantised
    as they come: that needs no data. Other layers stay at fp32.

    Raises:
        FormatMismatch: torch cannot read the archive.
        ExportError: ExecuTorch cannot lower it, or has nothing to store in int8.
    """
    signature, sizes = with_all_sizes(source.signature, options)
    program = load_program(source.main_file)
    if signature != source.signature:
        program = recapture(program, signature, options)
    tensors = tuple(example(signature, options, {}))
    try:
        with quiet(), torch.no_grad():
            if options.precision is Precision.INT8:
                program = _quantised(program, tensors, source.id)
            content = _lower(program, quantised=options.precision is Precision.INT8)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"ExecuTorch cannot lower {source.id}: {first_line(error)}",
            hint="the model may run as an onnx or litert package",
        ) from error
    (destination / MAIN_FILE).write_bytes(content)
    versions = {"torch": str(torch.__version__), "executorch": version("executorch")}
    return Made(MAIN_FILE, "executorch", versions, {SIZES: sizes} if sizes else {})


def _lower(program: torch.export.ExportedProgram, *, quantised: bool) -> bytes:
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    partitioners = [XnnpackPartitioner()]
    if quantised:
        # First, and operator by operator: a partition of several would quantise the input of one only.
        dynamic = XnnpackPartitioner(config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True)
        partitioners.insert(0, dynamic)
    content: bytes = to_edge_transform_and_lower(program, partitioner=partitioners).to_executorch().buffer
    return content


def _quantised(
    program: torch.export.ExportedProgram, tensors: tuple[torch.Tensor, ...], source_id: str
) -> torch.export.ExportedProgram:
    """The program with the weights of its linear layers in int8, by PyTorch's PT2E flow."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))
    prepared: Any = prepare_pt2e(program.module(), quantizer)
    prepared(*tensors)
    converted = convert_pt2e(prepared)
    if not any(node.target is torch.ops.quantized_decomposed.choose_qparams.tensor for node in _nodes(converted)):
        raise ExportError(f"{source_id} has no linear layers to store in int8")
    return torch.export.export(converted, tensors)


def _nodes(module: torch.fx.GraphModule) -> list[Any]:
    return [node for node in module.graph.nodes if node.op == "call_function"]
