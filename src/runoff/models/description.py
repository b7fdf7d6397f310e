"""What a model is, as data and as text: read from its manifest or from the bytes of a bare file.

Opens no runtime: the signature of a bare file is known only once it is packaged or opened. Which backends open a
format is for the caller to say, since backends lie above models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from runoff.models.cache import digest_of
from runoff.models.folder import ModelFolder, read_folder
from runoff.models.formats import detect_format
from runoff.models.manifest import MANIFEST_NAME, Batch, Fidelity, MadeBy, PackageEntry
from runoff.types import Precision, Signature

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text


class PackageDescription(msgspec.Struct, frozen=True):
    """A package as its manifest entry describes it; `bytes` is the sum over its files.

    Attributes:
        not_here: why it cannot run on this machine, where that is known without opening it.
        hint: what would change that.
    """

    id: str
    backend: str
    format: str
    precision: Precision
    batch: Batch
    bytes: int
    files: int
    requires: dict[str, Any]
    made_by: MadeBy | None
    fidelity: Fidelity | None
    not_here: str | None = None
    hint: str | None = None


class ModelDescription(msgspec.Struct, frozen=True):
    """What a model is.

    Attributes:
        kind: `model` for a model folder, `file` for a bare file, `hf` for a Hugging Face folder.
        bytes: size of everything that belongs to it.
        digest: what identifies it: of a model folder see `ModelFolder.digest`, of a bare file its SHA-256.
        format: the format of a bare file or Hugging Face folder.
        opened_by: the backends that open that format.
        signature: None where there is no manifest.
        golden: whether it carries an input/output pair to replay.
        evaluation: whether it carries labelled data.
        architecture: what a Hugging Face configuration names.
    """

    name: str
    path: str
    kind: Literal["model", "file", "hf"]
    bytes: int
    digest: str | None = None
    format: str | None = None
    opened_by: tuple[str, ...] = ()
    task: str | None = None
    architecture: str | None = None
    signature: Signature | None = None
    reference: str | None = None
    packages: tuple[PackageDescription, ...] = ()
    labels: bool = False
    golden: bool = False
    evaluation: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data

    def __rich__(self) -> Group:
        return _render(self)


def describe_model(path: Path, openers: Callable[[str], Iterable[str]] | None = None) -> ModelDescription:
    """Describe a model folder, a Hugging Face folder or a bare file.

    Args:
        path: what `find_source` found.
        openers: answers the ids of the backends that open a format.

    Raises:
        ModelNotFound, FormatMismatch, ManifestInvalid, PathEscapes: what is there is no model.
    """
    if (path / MANIFEST_NAME).is_file():
        return _describe_folder(read_folder(path))
    format_id = detect_format(path)
    opened_by = tuple(openers(format_id)) if openers else ()
    if path.is_dir():
        return _describe_hf(path, format_id, opened_by)
    beside = path.with_suffix(".bin")
    size = path.stat().st_size + (beside.stat().st_size if format_id == "openvino" else 0)
    return ModelDescription(
        path.stem, str(path), "file", size, digest=digest_of(path), format=format_id, opened_by=opened_by
    )


def human_bytes(count: int) -> str:
    """A size for people, in powers of 1024."""
    if count < 1024:
        return f"{count} B"
    size = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def _describe_folder(folder: ModelFolder) -> ModelDescription:
    manifest = folder.manifest
    files = {file.path: file.bytes for file in manifest.files()}
    return ModelDescription(
        manifest.name,
        str(folder.root),
        "model",
        sum(files.values()),
        digest=folder.digest(),
        task=manifest.task,
        signature=manifest.signature,
        reference=manifest.reference,
        packages=tuple(_describe_package(entry) for entry in manifest.packages),
        labels=manifest.labels is not None,
        golden=manifest.golden is not None,
        evaluation=manifest.evaluation is not None,
    )


def _describe_package(entry: PackageEntry) -> PackageDescription:
    return PackageDescription(
        entry.id,
        entry.backend,
        entry.format,
        entry.precision,
        entry.batch,
        sum(file.bytes for file in entry.files),
        len(entry.files),
        entry.requires,
        entry.made_by,
        entry.fidelity,
    )


def _describe_hf(path: Path, format_id: str, opened_by: tuple[str, ...]) -> ModelDescription:
    config: dict[str, Any] = msgspec.json.decode((path / "config.json").read_bytes())
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else None
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return ModelDescription(
        path.name,
        str(path),
        "hf",
        size,
        format=format_id,
        opened_by=opened_by,
        architecture=architecture or config.get("model_type"),
    )


def _render(model: ModelDescription) -> Group:
    from rich.console import Group
    from rich.table import Table

    facts = Table.grid(padding=(0, 2))
    rows = {
        "model": model.name,
        "path": model.path,
        "task": model.task,
        "architecture": model.architecture,
        "format": model.format,
        "opened by": ", ".join(model.opened_by) or None,
        "size": human_bytes(model.bytes),
        "digest": model.digest,
        "reference": model.reference,
    }
    if model.signature:
        rows["inputs"] = "\n".join(str(spec) for spec in model.signature.inputs)
        rows["outputs"] = "\n".join(str(spec) for spec in model.signature.outputs)
    if model.kind == "model":
        carried = {"labels": model.labels, "golden pair": model.golden, "evaluation data": model.evaluation}
        rows["carries"] = ", ".join(name for name, there in carried.items() if there) or "no data"
    else:
        rows["signature"] = "known once it is packaged or opened"
    for name, value in rows.items():
        if value is not None:
            facts.add_row(_plain(name), _plain(value))
    return Group(facts, _package_table(model)) if model.packages else Group(facts)


def _package_table(model: ModelDescription) -> Table:
    from rich.table import Table

    table = Table()
    for heading in ("package", "backend", "format", "precision", "batch"):
        table.add_column(heading)
    for heading in ("size", "max rel. error", "centred cosine"):
        table.add_column(heading, justify="right")
    for package in model.packages:
        figures = package.fidelity
        unknown = "reference" if package.id == model.reference else "unchecked"
        cells = (
            package.id,
            package.backend,
            package.format,
            str(package.precision),
            str(package.batch),
            human_bytes(package.bytes),
            f"{figures.max_rel:.2g}" if figures else unknown,
            f"{figures.centred_cosine:.6f}" if figures else "",
        )
        table.add_row(*(_plain(cell) for cell in cells))
    return table


def _plain(text: str) -> Text:
    """Text as it is: a name with brackets in it is no markup."""
    from rich.text import Text

    return Text(text)
