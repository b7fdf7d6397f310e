"""To `torchscript`: a traced file, for tools that read nothing newer.

Runs in the export worker. Knows no plan and no manifest. PyTorch has deprecated TorchScript; a model goes this way only
where it is asked to, or where another converter starts from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from runoff.backends import table
from runoff.errors import ExportError
from runoff.export.module import first_line
from runoff.export.step import Made, StepOptions, quiet, with_batch
from runoff.export.torch_export import example, load_program, recapture
from runoff.models.folder import Package
from runoff.types import Signature

MAIN_FILE = "model.pt"


def from_torch_export(source: Package, destination: Path, options: StepOptions) -> Made:
    """Trace the program of an archive.

    Raises:
        ExportError: it cannot be traced.
    """
    signature = with_batch(source.signature, options.batch)
    traced = trace(source, signature, options)
    note = table.load("runoff.backends.torch_compiled:signature_note")(signature)
    save_trace(traced, destination / MAIN_FILE, note)
    return Made(MAIN_FILE, "torch.jit.trace", {"torch": str(torch.__version__)})


def trace(source: Package, signature: Signature, options: StepOptions) -> torch.jit.ScriptModule:
    """The program of an archive as TorchScript, which answers a tuple in the order of the signature.

    Raises:
        ExportError: it cannot be traced.
    """
    program = load_program(source.main_file)
    if signature != source.signature:
        program = recapture(program.module(), source.signature, options)
    computed = [node.name for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.SymInt)]
    if computed:
        raise ExportError(
            f"torch.jit.trace cannot capture {source.id}: it computes sizes from a dynamic batch ({computed[0]})",
            hint="a trace would take them as constants: ask for a fixed batch with batch=N",
        )
    graph = program.module()
    # The hook that checks inputs cannot be traced; a session checks them itself.
    graph._forward_pre_hooks.clear()
    module = Ordered(graph)
    # A trace computes: integers stay valid for any table that the model looks them up in.
    limits = {spec.name: 2 for spec in signature.inputs if spec.dtype.startswith(("int", "uint"))}
    tensors = example(signature, options, limits)
    try:
        with torch.no_grad(), quiet():
            make: Any = torch.jit.trace
            traced: torch.jit.ScriptModule = make(module, tuple(tensors), check_trace=False)
            return traced
    except Exception as error:
        raise ExportError(
            f"torch.jit.trace cannot capture {source.id}: {first_line(error)}",
            hint="ask for a fixed batch with batch=N",
        ) from error


def save_trace(traced: torch.jit.ScriptModule, path: Path, note: dict[str, str]) -> None:
    """Write a trace, with texts by name beside its code."""
    save: Any = torch.jit.save
    with quiet():
        save(traced, str(path), note)


class Ordered(torch.nn.Module):
    """A program that answers a mapping, answering a tuple: a trace keeps no names."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs in the order of the signature."""
        return tuple(self.module(*inputs).values())
