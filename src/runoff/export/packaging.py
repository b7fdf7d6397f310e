"""`runoff.package`: an `nn.Module` in memory becomes a model folder with a reference package and a golden pair.

Knows no runtime: what touches the module is loaded by name from `pack.py`, in the caller's process, since that
is where the module lives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from runoff.backends import table
from runoff.errors import BackendNotInstalled, InputError
from runoff.models.arrays import Array, Arrays, dtype_name, write_npz
from runoff.models.folder import ModelFolder, create_folder, describe_file, describe_tree
from runoff.models.manifest import SCHEMA, Batch, Evaluation, FileEntry, Golden, MadeBy, Manifest, PackageEntry
from runoff.types import Signature

_PACK = "runoff.export.pack:pack"
_PLACE = "packages/reference"


@dataclass(frozen=True, slots=True)
class PackagingOptions:
    """What else goes into a packaged model, and how the module is captured.

    Attributes:
        batch: `dynamic`, or the one batch size that the module is made for.
        dynamic: further dynamic dimensions by input, such as {"input_ids": {1: "sequence"}}.
        outputs: names of the outputs in order, or the keys to keep of a module that answers a mapping.
        keep: `graph` stores a torch.export archive; `code` stores the weights as safetensors beside the dotted name
            of the class, which must then be importable wherever the model is opened.
        arguments: what the class is called with, for `keep="code"`.
        labels: names of the classes in order.
        preprocess: what turns an input of the task into arrays; see docs/manifest.md.
        evaluation: labelled data: inputs by name, and one integer label a row.
        seed: seed of the rows that are added where the example has only one.
    """

    batch: Batch = "dynamic"
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    outputs: Sequence[str] | None = None
    keep: Literal["graph", "code"] = "graph"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    labels: Sequence[str] | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    evaluation: tuple[Mapping[str, Array], Array] | None = None
    seed: int = 0


def package(
    module: Any,
    inputs: Any,
    folder: str | Path,
    *,
    name: str | None = None,
    task: str | None = None,
    options: PackagingOptions | None = None,
) -> ModelFolder:
    """Package an `nn.Module` as a model folder.

    The module is captured in eval mode and left as it was. Its inputs are named after the parameters of `forward`,
    its outputs after the keys of a mapping, or `output_0`, `output_1`, ...

    Args:
        module: a `torch.nn.Module`.
        inputs: example inputs: a mapping of name to array or tensor, a tuple in the order of `forward`, or one array.
        folder: where the model goes; it must not exist, or be empty.
        name: the model's name; the folder's name unless given.
        task: such as `image-classification`.
        options: see `PackagingOptions`.

    Raises:
        BackendNotInstalled: torch is not installed.
        InputError: not a module, or inputs, names, labels or data that do not fit each other.
        ExportError: torch.export cannot capture the module; the hint says what usually helps.
        ModelError: the folder is not empty, or cannot be written.

    Example:
        >>> runoff.package(net, {"image": torch.zeros(2, 1, 8, 8)}, "digits", task="image-classification")
    """
    options = options or PackagingOptions()
    root = Path(folder)
    for what, value in (("arguments", options.arguments), ("preprocess", options.preprocess)):
        _check_plain(what, value)
    try:
        pack = table.load(_PACK)
    except BackendNotInstalled as error:
        raise BackendNotInstalled(
            f"packaging a module needs PyTorch: {error.message}", hint="pip install 'runoff[torch]'"
        ) from error

    def fill(aside: Path) -> Manifest:
        (aside / _PLACE).mkdir(parents=True)
        manifest = _describe(aside, pack(module, inputs, aside / _PLACE, options), options)
        return msgspec.structs.replace(manifest, name=name or root.resolve().name, task=task)

    return create_folder(root, fill)


def _describe(aside: Path, packed: Any, options: PackagingOptions) -> Manifest:
    """Write what goes beside the package, and the manifest of it all without the model's name and task."""
    (aside / "golden").mkdir()
    entry = PackageEntry(
        id=f"torch-{packed.precision.value}",
        backend="torch",
        format=packed.format,
        precision=packed.precision,
        files=describe_tree(aside, aside / _PLACE, packed.made.main_file),
        batch=options.batch,
        requires=packed.made.requires,
        made_by=MadeBy(packed.made.tool, versions=packed.made.versions),
    )
    return Manifest(
        schema=SCHEMA,
        name="",
        reference=entry.id,
        signature=packed.signature,
        packages=(entry,),
        preprocess=dict(options.preprocess),
        labels=_write_labels(aside, options.labels),
        golden=Golden(
            _write_arrays(aside, "golden/inputs.npz", packed.inputs),
            _write_arrays(aside, "golden/outputs.npz", packed.outputs),
        ),
        evaluation=_write_evaluation(aside, options.evaluation, packed.signature),
    )


def _check_plain(what: str, value: Mapping[str, Any]) -> None:
    try:
        msgspec.json.encode(dict(value))
    except TypeError as error:
        raise InputError(f"{what} must be data that JSON can hold: {error}") from error


def _write_arrays(root: Path, relative: str, arrays: Arrays) -> FileEntry:
    write_npz(root / relative, arrays)
    return describe_file(root, relative)


def _write_labels(root: Path, labels: Sequence[str] | None) -> FileEntry | None:
    if labels is None:
        return None
    broken = next((label for label in labels if not label.strip() or "\n" in label), None)
    if broken is not None:
        raise InputError(f"the label {broken!r} is empty or has a line break; labels.txt holds one a line")
    (root / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    return describe_file(root, "labels.txt")


def _write_evaluation(
    root: Path, data: tuple[Mapping[str, Array], Array] | None, signature: Signature
) -> Evaluation | None:
    if data is None:
        return None
    inputs, labels = data
    names = [spec.name for spec in signature.inputs]
    rows = {name: len(array) for name, array in inputs.items()}
    if sorted(rows) != sorted(names):
        raise InputError(f"the evaluation inputs are {', '.join(rows) or 'none'}, the model takes {', '.join(names)}")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or any(count != len(labels) for count in rows.values()):
        raise InputError(
            f"evaluation labels are {labels.dtype}{list(labels.shape)} for {rows} rows, expected one integer a row"
        )
    for spec in signature.inputs:
        array = inputs[spec.name]
        # Rows are fed in pieces, so the first axis is free even where the model's batch is fixed.
        fits = array.ndim == len(spec.shape) and all(
            isinstance(dim, str) or dim == size for dim, size in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits or dtype_name(array.dtype) is not spec.dtype:
            raise InputError(f"evaluation input {spec.name!r} is {array.dtype}{list(array.shape)}, expected {spec}")
    (root / "evaluation").mkdir()
    entry = _write_arrays(root, "evaluation/inputs.npz", dict(inputs))
    with (root / "evaluation/labels.npy").open("wb") as file:
        np.save(file, labels, allow_pickle=False)
    return Evaluation(entry, describe_file(root, "evaluation/labels.npy"))
