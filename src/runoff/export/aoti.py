"""To `aoti`: a package of machine code by AOTInductor, for this processor and this version of torch.

Runs in the export worker. Knows no plan and no manifest. The batch stays dynamic, within the range that torch.export
found, unless one was asked for; the package carries the signature, which its code does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from runoff.backends import table
from runoff.errors import ExportError
from runoff.export.module import Flat, capture, first_line
from runoff.export.step import Made, StepOptions, quiet, with_batch
from runoff.export.torch_export import example, load_program
from runoff.models.compiled import remember_compiled
from runoff.models.folder import Package
from runoff.types import Precision, Signature

MAIN_FILE = "model.pt2"


def from_torch_export(source: Package, destination: Path, options: StepOptions) -> Made:
    """Compile an archive with AOTInductor, at fp32 or bf16.

    Raises:
        ExportError: there is no C++ compiler, or the program cannot be compiled.
    """
    compiler = _compiler()
    signature = with_batch(source.signature, options.batch)
    program = _program(source, signature, options)
    path = destination / MAIN_FILE
    # Compiled in, the number of threads would be that of this process, and not the session's.
    configs = {
        "cpp.dynamic_threads": True,
        "compile_threads": 1,
        "aot_inductor.metadata": table.load("runoff.backends.torch_compiled:signature_note")(signature),
    }
    try:
        with quiet():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
    except Exception as error:
        raise ExportError(f"AOTInductor cannot compile {source.id}: {first_line(error)}") from error
    remember_compiled(path)
    requires = table.load("runoff.backends.torch_compiled:aoti_requirements")()
    return Made(
        MAIN_FILE,
        "torch._inductor.aoti_compile_and_package",
        {"torch": str(torch.__version__)},
        requires,
        details={"compiler": compiler, "ranges": _ranges(program)},
    )


def _compiler() -> str:
    """The C++ compiler that AOTInductor will call.

    Raises:
        ExportError: there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return Path(str(get_cpp_compiler())).name
    except Exception as error:
        raise ExportError(
            f"AOTInductor needs a C++ compiler: {first_line(error)}", hint="install g++ or clang++, or set CXX to one"
        ) from error


def _program(source: Package, signature: Signature, options: StepOptions) -> torch.export.ExportedProgram:
    """The program for the batch and the precision that are wanted, with the example inputs that archives lack."""
    module = load_program(source.main_file).module()
    tensors = example(signature, options, {})
    if options.precision is not Precision.FP32:
        convert = table.load("runoff.backends.torch_precision:convert_graph")
        convert(module, torch.float32, torch.bfloat16)
        tensors = [tensor.bfloat16() if tensor.dtype == torch.float32 else tensor for tensor in tensors]
    names = ([spec.name for spec in specs] for specs in (signature.inputs, signature.outputs))
    return capture(Flat(module, *names, by_position=True), tensors, signature)


def _ranges(program: torch.export.ExportedProgram) -> dict[str, Any]:
    """The sizes that each dynamic dimension may have, by its symbol; None where it has no upper bound."""
    found = {}
    for symbol, bounds in program.range_constraints.items():
        low, high = int(bounds.lower), str(bounds.upper)
        found[str(symbol)] = [low, int(high) if high.isdigit() else None]
    return found
