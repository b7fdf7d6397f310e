"""To `executorch`: a `.pte` program with XNNPACK's parts in it, from a `torch.export` archive.

Runs in the export worker. Knows no plan and no manifest. A program is made for one size of every dimension; what
XNNPACK does not take is computed by ExecuTorch's portable kernels.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch

from runoff.errors import ExportError
from runoff.export.module import first_line
from runoff.export.step import Made, StepOptions, quiet, with_all_sizes
from runoff.export.torch_export import load_program, recapture
from runoff.models.dimensions import SIZES
from runoff.models.folder import Package

MAIN_FILE = "model.pte"


def from_torch_export(source: Package, destination: Path, options: StepOptions) -> Made:
    """Lower an archive to XNNPACK.

    Raises:
        FormatMismatch: torch cannot read the archive.
        ExportError: ExecuTorch cannot lower it.
    """
    signature, sizes = with_all_sizes(source.signature, options)
    program = load_program(source.main_file)
    if signature != source.signature:
        program = recapture(program.module(), signature, options)
    try:
        with quiet(), torch.no_grad():
            content = lower(program)
    except Exception as error:
        raise ExportError(
            f"ExecuTorch cannot lower {source.id}: {first_line(error)}",
            hint="the model may run as an onnx or litert package",
        ) from error
    (destination / MAIN_FILE).write_bytes(content)
    versions = {"torch": str(torch.__version__), "executorch": version("executorch")}
    return Made(MAIN_FILE, "executorch", versions, {SIZES: sizes} if sizes else {})


def lower(program: torch.export.ExportedProgram, *, is_dynamic: bool = False) -> bytes:
    """The program of a captured graph, with XNNPACK's parts in it.

    Args:
        program: at fp32, or quantised.
        is_dynamic: whether it has layers whose inputs are quantised as they come.
    """
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    partitioners = [XnnpackPartitioner()]
    if is_dynamic:
        # First, and operator by operator: a partition of several would quantise the input of one only.
        dynamic = XnnpackPartitioner(config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True)
        partitioners.insert(0, dynamic)
    content: bytes = to_edge_transform_and_lower(program, partitioner=partitioners).to_executorch().buffer
    return content
