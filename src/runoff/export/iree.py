"""To `iree`: a module of machine code from an ONNX file, by IREE's importer and compiler.

Runs in the export worker. Knows no plan and no manifest. The code is made for a level of x86-64, or for any processor
of another machine, and not for this very processor: the manifest says which features it needs. Dimensions stay
dynamic, but for a batch that was asked for.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

import msgspec

from runoff.backends import table
from runoff.environment.hardware import read_cpu
from runoff.errors import ExportError
from runoff.export.step import Made, StepOptions, with_batch
from runoff.models.compiled import remember_compiled
from runoff.models.dimensions import batch_dimension
from runoff.models.folder import Package

MAIN_FILE = "model.vmfb"
_ENTRY = "main"
"""The function of a module, as the backend calls it."""
_FLAGS = ("--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu", "--iree-opt-level=O3")
_LEVELS = {
    "x86-64-v4": ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl"),
    "x86-64-v3": ("avx2", "fma", "f16c"),
    "x86-64-v2": ("sse4_2",),
}
"""Levels of the x86-64 psABI, the highest first, and those of their features that `environment.Cpu.isa` names."""


def from_onnx(source: Package, destination: Path, options: StepOptions) -> Made:
    """Import an .onnx file and compile it.

    Raises:
        ExportError: an operator has no lowering, or the compiler fails on what it lowered.
    """
    import iree.compiler.tools as compiler
    from iree.compiler.version import VERSION

    level, features = _target(platform.machine(), read_cpu().isa)
    signature = with_batch(source.signature, options.batch)
    with tempfile.TemporaryDirectory(dir=destination) as place:
        given = _fixed(source, Path(place), options)
        imported = Path(place) / "model.mlir"
        done = subprocess.run(
            [sys.executable, "-m", "iree.compiler.tools.import_onnx", str(given), "-o", str(imported)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ExportError(f"IREE cannot import {source.id}: {_reason(done.stderr, done.returncode)}")
        cpu = () if level is None else (f"--iree-llvmcpu-target-cpu={level}",)
        text = _renamed(imported, _ENTRY)
        try:
            compiler.compile_str(
                text, output_file=str(destination / MAIN_FILE), extra_args=[*_FLAGS, *cpu], strip_source_map=True
            )
        except compiler.CompilerToolError as error:
            raise ExportError(f"IREE cannot compile {source.id}: {_reason(str(error), 1)}") from error
    remember_compiled(destination / MAIN_FILE)
    # Where the backend looks for it: a module has no names.
    (destination / "signature.json").write_bytes(msgspec.json.encode(signature))
    requires = {
        "iree": table.load("runoff.backends.iree:iree_version")(),
        "machine": platform.machine(),
        "isa": list(features),
    }
    return Made(MAIN_FILE, "iree-compile", {"iree": VERSION}, requires, details={"target_cpu": level or "generic"})


def _target(machine: str, isa: Collection[str]) -> tuple[str | None, tuple[str, ...]]:
    """The best level that a processor has, and the features that it stands for; None where there are no levels."""
    if machine.lower() not in ("x86_64", "amd64"):
        return None, ()
    for level, features in _LEVELS.items():
        if set(features) <= set(isa):
            return level, features
    return "x86-64", ()


def _fixed(source: Package, place: Path, options: StepOptions) -> Path:
    """The .onnx file, with the batch that was asked for in the shapes of its inputs and outputs."""
    batch = batch_dimension(source.signature)
    if options.batch == "dynamic" or batch is None:
        return source.main_file
    import onnx

    model = onnx.load(source.main_file)
    # What the exporter noted of the shapes in between is for any batch; the importer finds them anew.
    del model.graph.value_info[:]
    specs = {spec.name: spec for spec in (*source.signature.inputs, *source.signature.outputs)}
    for value in (*model.graph.input, *model.graph.output):
        spec = specs.get(value.name)
        for axis, dim in enumerate(spec.shape if spec else ()):
            if dim == batch:
                value.type.tensor_type.shape.dim[axis].dim_value = options.batch
    onnx.save(model, place / "model.onnx")
    return place / "model.onnx"


def _renamed(imported: Path, entry: str) -> str:
    """The imported module with its function called `entry`, whatever the graph was called."""
    head, found, rest = imported.read_text(encoding="utf-8").partition("func.func @")
    if not found:
        raise ExportError("IREE's importer wrote no function")
    return f"{head}{found}{entry}{rest[rest.index('(') :]}"


def _reason(said: str, code: int) -> str:
    """The first line that tells of an error, without the place in a file that is gone."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    found = next((line.partition("error:")[2].strip() for line in lines if "error:" in line), None)
    if found:
        return found[:300]
    crashed = re.search(r"Error code: -(\d+)", said)
    if crashed:
        return f"the compiler ended by signal {crashed[1]}"
    return next((line for line in reversed(lines) if "Error" in line), f"code {code}")[:300]
