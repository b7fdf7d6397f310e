"""To `litert`: a `.tflite` file from a `torch.export` archive.

Runs in the export worker. Knows no plan and no manifest. A file is made for one size of every dimension; its inputs
and outputs carry the signature's names. 64-bit integers become 32-bit ones, which the backend casts to.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.errors import ExportError, FormatMismatch
from runoff.export.step import Made, StepOptions, quiet, with_all_sizes
from runoff.models.dimensions import SIZES
from runoff.models.folder import Package
from runoff.types import Precision

if TYPE_CHECKING:
    from torch import nn

    from runoff.types import Signature

MAIN_FILE = "model.tflite"


def from_torch_export(source: Package, destination: Path, options: StepOptions) -> Made:
    """Convert an archive with LiteRT Torch.

    Raises:
        FormatMismatch: torch cannot read the archive.
        ExportError: the converter has no LiteRT for it.
    """
    import torch

    from runoff.export.module import first_line
    from runoff.export.torch_export import example, load_program

    signature, sizes = with_all_sizes(source.signature, options)
    program = load_program(source.main_file)
    tensors = dict(zip([spec.name for spec in signature.inputs], example(signature, options, {}), strict=True))
    try:
        with quiet(), torch.no_grad():
            # Not before the archive was read: the import takes seconds.
            import litert_torch

            model = litert_torch.convert(_by_name(program.module(), signature), sample_kwargs=tensors)
            model.export(str(destination / MAIN_FILE))
    except Exception as error:
        raise ExportError(
            f"LiteRT Torch cannot convert {source.id}: {first_line(error)}",
            hint="the model may run as an onnx or executorch package",
        ) from error
    versions = {"torch": str(torch.__version__), "litert-torch": version("litert-torch")}
    return Made(MAIN_FILE, "litert-torch", versions, {SIZES: sizes} if sizes else {})


def stored_precision(path: Path) -> Precision:
    """The precision that most of a file's weights are stored in; fp32 where they say nothing else.

    Raises:
        FormatMismatch: not a readable .tflite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    sizes: dict[int, int] = {}
    try:
        model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                stored = model.buffers[tensor.buffer]
                count = len(stored.data) if stored.data is not None else stored.size
                sizes[tensor.type] = sizes.get(tensor.type, 0) + count
    except Exception as error:
        raise FormatMismatch(f"{path} is not a readable .tflite file: {type(error).__name__}") from error
    kinds = schema.TensorType
    most = max(sizes, key=lambda kind: sizes[kind], default=kinds.FLOAT32)
    named = {
        kinds.FLOAT16: Precision.FP16,
        kinds.BFLOAT16: Precision.BF16,
        kinds.INT8: Precision.INT8,
        kinds.UINT8: Precision.INT8,
        kinds.INT4: Precision.INT4,
    }
    return named.get(most, Precision.FP32)


def _by_name(program: nn.Module, signature: Signature) -> nn.Module:
    """A captured program that takes its inputs by name: the names of its arguments are those of the file."""
    import torch
    from torch import nn

    inputs = [spec.name for spec in signature.inputs]
    outputs = [spec.name for spec in signature.outputs]

    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = program
            # A captured program refuses train() and eval(), and is in neither mode.
            self.training = False

        def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            answer: Any = self.program(*(tensors[name] for name in inputs))
            values = list(answer.values()) if isinstance(answer, dict) else answer
            values = values if isinstance(values, list | tuple) else [values]
            return dict(zip(outputs, values, strict=True))

    return ByName()
