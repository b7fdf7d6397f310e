"""To `torch-export`: archives of `torch.export`, from a Hugging Face folder or a module with safetensors weights.

Runs in the export worker. Knows no plan and no manifest; the archive's inputs and outputs follow the order of
the signature, and its named dimensions stay dynamic unless a batch size was asked for.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runoff.backends import table
from runoff.errors import RuntimeLoadError
from runoff.export.module import Flat, capture, check_program, first_line, save_program, to_tensor
from runoff.export.step import Made, StepOptions, with_batch
from runoff.models.folder import Package
from runoff.models.samples import generate_inputs
from runoff.types import Signature

MAIN_FILE = "model.pt2"
TOOL = "torch.export"
_EXAMPLE_ROWS = 3
_EXAMPLE_SIZES = {"sequence": 24, "decoder_sequence": 20}


def from_hf(source: Package, destination: Path, options: StepOptions) -> Made:
    """Capture the model of a Hugging Face folder, widened to fp32.

    Raises:
        FormatMismatch: Transformers cannot open the folder.
        ExportError: torch.export cannot capture the model.
    """
    flat, limits = load_hf(source)
    _capture(flat, source.signature, destination, options, limits)
    return Made(MAIN_FILE, TOOL, {"torch": str(torch.__version__), "transformers": version("transformers")})


def load_hf(source: Package, attn_implementation: str | None = None) -> tuple[Flat, dict[str, int]]:
    """The model of a Hugging Face folder at fp32, and the limits below which its integer inputs stay.

    Raises:
        FormatMismatch: Transformers cannot open the folder.
    """
    module = _HfModule(table.load("runoff.backends.hf:load_model")(source.folder, attn_implementation).float())
    size = getattr(module.model.config, "vocab_size", None)
    limits = {spec.name: size for spec in source.signature.inputs} if isinstance(size, int) else {}
    return _flat(module, source.signature, by_position=False), limits


def from_safetensors(source: Package, destination: Path, options: StepOptions) -> Made:
    """Capture the module that the package names, with the weights of its safetensors file.

    Raises:
        RuntimeLoadError: the module cannot be imported, built, or does not take the weights.
        ExportError: torch.export cannot capture the module.
    """
    flat = _flat(load_code(source).eval(), source.signature, by_position=True)
    _capture(flat, source.signature, destination, options, {})
    return Made(MAIN_FILE, TOOL, {"torch": str(torch.__version__)})


def load_code(source: Package) -> nn.Module:
    """The module of a safetensors package: its class by dotted name, its weights from the file.

    Raises:
        RuntimeLoadError: it cannot be imported, built, or does not take the weights.
    """
    from safetensors.torch import load_file

    target = source.entry.requires.get("module")
    if not isinstance(target, str):
        raise RuntimeLoadError(
            f"package {source.id!r} names no module for its weights", hint='requires needs "module": "package:Class"'
        )
    try:
        module = table.load(target)(**source.entry.requires.get("kwargs", {}))
        module.load_state_dict(load_file(source.main_file))
    except Exception as error:
        raise RuntimeLoadError(f"cannot build {target} with its weights: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise RuntimeLoadError(f"{target} makes a {type(module).__name__}, expected a torch.nn.Module")
    return module


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Read an archive as the torch backend does, which refuses one that would run its author's code.

    Raises:
        FormatMismatch: no archive, damaged, or one that holds more than tensors and a graph.
    """
    program: torch.export.ExportedProgram = table.load("runoff.backends.torch:load_program")(path)
    return program


def recapture(module: nn.Module, signature: Signature, options: StepOptions) -> torch.export.ExportedProgram:
    """The module of a program captured again: for one batch size, or after it was changed."""
    wanted = with_batch(signature, options.batch)
    return capture(_flat(module, wanted, by_position=True), example(wanted, options, {}), wanted)


def example(signature: Signature, options: StepOptions, limits: dict[str, int]) -> list[torch.Tensor]:
    """Example inputs in the signature's order; sizes that differ from each other keep dimensions apart."""
    sizes = {**_EXAMPLE_SIZES, **options.sizes}
    rows = _EXAMPLE_ROWS if options.batch == "dynamic" else options.batch
    arrays = generate_inputs(signature, rows=rows, seed=0, sizes=sizes, limits=limits)
    return [to_tensor(array) for array in arrays.values()]


class _HfModule(nn.Module):
    """A Transformers model that takes its inputs by name and answers the tensors of its output by name."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._answer = table.load("runoff.backends.hf_signature:output_tensors")(model)

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors of the model's output."""
        answer: dict[str, torch.Tensor] = self._answer(inputs)
        return answer


def _flat(module: nn.Module, signature: Signature, *, by_position: bool) -> Flat:
    inputs, outputs = ([spec.name for spec in specs] for specs in (signature.inputs, signature.outputs))
    return Flat(module, inputs, outputs, by_position=by_position)


def _capture(flat: Flat, signature: Signature, destination: Path, options: StepOptions, limits: dict[str, int]) -> None:
    """Capture for the batch asked for, hold the program against the module, and save it."""
    wanted = with_batch(signature, options.batch)
    tensors = example(wanted, options, limits)
    program = capture(flat, tensors, wanted)
    check_program(program, flat, tensors)
    save_program(program, destination / MAIN_FILE)
