"""To `torch-export`: archives of `torch.export`, from a Hugging Face folder or a module with safetensors weights.

Runs in the export worker. Knows no plan and no manifest; the archive's inputs and outputs follow the order of
the signature, and its named dimensions stay dynamic unless a batch size was asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from runoff.backends import table
from runoff.errors import ExportError, RuntimeLoadError
from runoff.export.module import Flat, capture, check_program, first_line, save_program, to_tensor
from runoff.export.step import Made, StepOptions, quiet, with_batch
from runoff.models.folder import Package
from runoff.models.samples import generate_inputs
from runoff.types import Signature

MAIN_FILE = "model.pt2"
_EXAMPLE_ROWS = 3
_EXAMPLE_SIZE = 24


def from_hf(source: Package, destination: Path, options: StepOptions) -> Made:
    """Capture the model of a Hugging Face folder, widened to fp32.

    Raises:
        RuntimeLoadError: Transformers cannot open the folder.
        ExportError: torch.export cannot capture the model.
    """
    import transformers

    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(source.folder, local_files_only=True)
            names = getattr(config, "architectures", None) or ["AutoModel"]
            kind = getattr(transformers, names[0], transformers.AutoModel)
            module = kind.from_pretrained(source.folder, local_files_only=True, dtype=torch.float32)
    except Exception as error:
        raise RuntimeLoadError(f"transformers cannot open {source.folder}: {first_line(error)}") from error
    limits = {"input_ids": config.vocab_size} if isinstance(getattr(config, "vocab_size", None), int) else {}
    made = _capture(module, source.signature, destination, options, limits)
    return Made(MAIN_FILE, "torch.export", {**made, "transformers": transformers.__version__})


def from_safetensors(source: Package, destination: Path, options: StepOptions) -> Made:
    """Capture the module that the package names, with the weights of its safetensors file.

    Raises:
        RuntimeLoadError: the module cannot be imported, built, or does not take the weights.
        ExportError: torch.export cannot capture the module.
    """
    return Made(MAIN_FILE, "torch.export", _capture(load_code(source), source.signature, destination, options, {}))


def load_code(source: Package) -> nn.Module:
    """The module of a safetensors package: its class by dotted name, its weights from the file.

    Raises:
        RuntimeLoadError: it cannot be imported, built, or does not take the weights.
    """
    from safetensors.torch import load_file

    target = source.entry.requires.get("module")
    if not isinstance(target, str):
        raise RuntimeLoadError(
            f"package {source.id!r} names no module", hint='requires needs "module": "package:Class"'
        )
    kind = table.load(target)
    try:
        module = kind(**source.entry.requires.get("arguments", {}))
        module.load_state_dict(load_file(source.main_file))
    except Exception as error:
        raise RuntimeLoadError(f"cannot build {target} with the weights: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise RuntimeLoadError(f"{target} makes a {type(module).__name__}, expected a torch.nn.Module")
    return module


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Read an archive that opens without running its author's code.

    Raises:
        FormatMismatch: it holds pickled objects or machine code, or is no archive.
        RuntimeLoadError: torch cannot read it.
    """
    table.load("runoff.backends.torch_archive:check_archive")(path)
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:
        raise RuntimeLoadError(f"torch cannot read {path}: {first_line(error)}") from error


def recapture(
    program: torch.export.ExportedProgram, signature: Signature, options: StepOptions
) -> torch.export.ExportedProgram:
    """The same program captured again for one batch size."""
    wanted = with_batch(signature, options.batch)
    return capture(_Named(program.module(), wanted), example(wanted, options, {}), wanted)


def example(signature: Signature, options: StepOptions, limits: dict[str, int]) -> list[torch.Tensor]:
    """Example inputs in the signature's order; sizes that differ from each other keep dimensions apart."""
    sizes = {"sequence": _EXAMPLE_SIZE, **options.sizes}
    rows = _EXAMPLE_ROWS if options.batch == "dynamic" else options.batch
    arrays = generate_inputs(signature, rows=rows, seed=0, sizes=sizes, limits=limits)
    return [to_tensor(array) for array in arrays.values()]


class _Named(nn.Module):
    """A program's module, which takes its inputs by position, called by name."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.module = module
        self.names = [spec.name for spec in signature.inputs]

    def forward(self, **inputs: torch.Tensor) -> Any:
        """Call the module with the inputs in order."""
        return self.module(*(inputs[name] for name in self.names))


def _capture(
    module: nn.Module, signature: Signature, destination: Path, options: StepOptions, limits: dict[str, int]
) -> dict[str, str]:
    """Capture, check and save; answers the versions used."""
    wanted = with_batch(signature, options.batch)
    tensors = example(wanted, options, limits)
    module.eval()
    program = capture(module, tensors, wanted)
    names = [[spec.name for spec in specs] for specs in (wanted.inputs, wanted.outputs)]
    check_program(program, Flat(module, *names), tensors)
    save_program(program, destination / MAIN_FILE)
    return {"torch": torch.__version__}
