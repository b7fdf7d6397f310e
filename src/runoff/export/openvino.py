"""To `openvino`: an IR of an .xml and a .bin, from ONNX or from a `torch.export` archive.

Runs in the export worker. Knows no plan and no manifest. Weights keep their precision: OpenVINO's own default
would store fp32 weights as fp16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runoff.backends.usage_reports import hide_openvino_telemetry
from runoff.errors import ExportError
from runoff.export.step import Made, StepOptions, quiet, with_batch
from runoff.models.folder import Package
from runoff.types import Precision, Signature, TensorSpec

MAIN_FILE = "model.xml"

hide_openvino_telemetry()


def from_onnx(source: Package, destination: Path, options: StepOptions) -> Made:
    """Convert an .onnx file.

    Raises:
        ExportError: OpenVINO has no conversion for it.
    """
    import openvino

    return _convert(source, str(source.main_file), destination, options, {"openvino": openvino.__version__})


def from_torch_export(source: Package, destination: Path, options: StepOptions) -> Made:
    """Convert an archive through OpenVINO's own PyTorch front end.

    Raises:
        RuntimeLoadError: torch cannot read the archive.
        ExportError: OpenVINO has no conversion for it.
    """
    import openvino
    import torch

    from runoff.export.torch_export import load_program

    versions = {"openvino": openvino.__version__, "torch": str(torch.__version__)}
    return _convert(source, load_program(source.main_file), destination, options, versions)


def stored_precision(path: Path) -> Precision:
    """The precision that most of an IR's weights are stored in; fp32 where they say nothing else."""
    import openvino

    sizes: dict[str, int] = {}
    for node in openvino.Core().read_model(path).get_ops():
        if node.get_type_name() == "Constant":
            kind = node.get_element_type().get_type_name()
            sizes[kind] = sizes.get(kind, 0) + node.get_byte_size()
    most = max(sizes, key=lambda kind: sizes[kind], default="f32")
    named = {"f16": Precision.FP16, "bf16": Precision.BF16, "i8": Precision.INT8, "u8": Precision.INT8}
    return {**named, "i4": Precision.INT4, "u4": Precision.INT4}.get(most, Precision.FP32)


def _convert(source: Package, given: Any, destination: Path, options: StepOptions, versions: dict[str, str]) -> Made:
    import openvino

    signature = with_batch(source.signature, options.batch)
    try:
        with quiet():
            model = openvino.convert_model(given)
            _name(model.inputs, signature.inputs)
            _name(model.outputs, signature.outputs)
            _fix_shapes(model, signature)
            openvino.save_model(model, destination / MAIN_FILE, compress_to_fp16=False)
    except ExportError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = lines[-1][:300] if lines else ""
        raise ExportError(f"OpenVINO cannot convert {source.id}: {type(error).__name__}: {why}") from error
    return Made(MAIN_FILE, "openvino", versions)


def _name(ports: Any, specs: tuple[TensorSpec, ...]) -> None:
    """Give the ports the signature's names; both are in the signature's order."""
    if len(ports) != len(specs):
        raise ExportError(f"OpenVINO made {len(ports)} inputs or outputs, the signature has {len(specs)}")
    for port, spec in zip(ports, specs, strict=True):
        if spec.name not in port.get_names():
            port.get_tensor().set_names({spec.name})


def _fix_shapes(model: Any, signature: Signature) -> None:
    """Fixed dimensions as the signature has them: the PyTorch front end leaves all of them open."""
    import openvino

    shapes = {
        port: openvino.PartialShape([dim if isinstance(dim, int) else -1 for dim in spec.shape])
        for port, spec in zip(model.inputs, signature.inputs, strict=True)
    }
    model.reshape(shapes)
