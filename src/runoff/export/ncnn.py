"""To `ncnn`: a `.param` and a `.bin` by pnnx, from a trace of one sample.

Runs in the export worker. Knows no plan and no manifest. Shapes are static, and the batch is not part of the network:
the session runs row by row. Integer inputs are narrowed to 32 bits.
"""

from __future__ import annotations

import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from runoff.errors import ExportError
from runoff.export.step import Made, StepOptions, with_batch
from runoff.export.torchscript import save_trace, trace
from runoff.models.folder import Package
from runoff.types import DType, Signature

MAIN_FILE = "model.param"
_INPUTS = {DType.FP32: "f32", DType.INT64: "i64", DType.INT32: "i32"}


def from_torch_export(source: Package, destination: Path, options: StepOptions) -> Made:
    """Trace the program of an archive for one sample, and let pnnx convert it.

    Raises:
        ExportError: ncnn cannot take its dtypes or shapes, or has no layer for an operator.
    """
    import pnnx

    single = _one_sample(source)
    traced = trace(source, single, msgspec.structs.replace(options, batch=1))
    shapes = [f"[{','.join(map(str, spec.shape))}]{_INPUTS[spec.dtype]}" for spec in single.inputs]
    with tempfile.TemporaryDirectory(dir=destination) as place:
        folder = Path(place)
        save_trace(traced, folder / "model.pt", {})
        # pnnx writes its files beside its input.
        done = subprocess.run(
            [pnnx.EXEC_PATH, "model.pt", f"inputshape={','.join(shapes)}", "fp16=0"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        network, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
        if done.returncode != 0 or not network.is_file() or not weights.is_file():
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise ExportError(f"pnnx cannot convert {source.id}: {said[-1] if said else f'code {done.returncode}'}")
        _check_layers(source, network)
        network.rename(destination / MAIN_FILE)
        weights.rename(destination / "model.bin")
    # Where the backend looks for it: a network of ncnn holds no shapes.
    own = with_batch(source.signature, options.batch)
    (destination / "signature.json").write_bytes(msgspec.json.encode(own))
    return Made(MAIN_FILE, "pnnx", {"pnnx": version("pnnx"), "torch": str(torch.__version__)})


def _one_sample(source: Package) -> Signature:
    """The signature for one row.

    Raises:
        ExportError: ncnn cannot take a dtype, a dimension varies, or a value has no row for each sample.
    """
    single = with_batch(source.signature, 1)
    for kind, specs, allowed in (("input", single.inputs, set(_INPUTS)), ("output", single.outputs, {DType.FP32})):
        for spec in specs:
            if spec.dtype not in allowed:
                raise ExportError(f"ncnn has no {kind} of dtype {spec.dtype}, which {spec.name!r} of {source.id} is")
            varying = [dim for dim in spec.shape if isinstance(dim, str)]
            if varying:
                raise ExportError(
                    f"{kind} {spec.name!r} of {source.id} varies in {', '.join(varying)}, and ncnn packages are static",
                    hint="package the model with fixed sizes",
                )
            if not spec.shape or spec.shape[0] != 1:
                raise ExportError(
                    f"{kind} {spec.name!r} of {source.id} is no row of a batch, and ncnn runs one sample at a time",
                    hint="package the model with a dynamic batch, or a batch of 1",
                )
    return single


def _check_layers(source: Package, network: Path) -> None:
    """Refuse a network with operators that pnnx passed through because ncnn has no layer for them."""
    kinds = {line.split()[0] for line in network.read_text().splitlines()[2:] if line.strip()}
    unknown = sorted(kind for kind in kinds if "." in kind or ":" in kind)
    if unknown:
        raise ExportError(f"ncnn has no layer for {', '.join(unknown)} of {source.id}", hint="use another format")
