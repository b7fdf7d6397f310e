"""`runoff.json`: what a model folder says about itself, read strictly and written canonically.

Knows nothing of the files' content and of no runtime; `models/folder.py` holds the manifest against the disk.
Unknown fields are refused, so that a misspelt one is never ignored; `schema` is the version of this format.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import Any, Literal, TypeAlias

import msgspec

from runoff.errors import ManifestInvalid, PathEscapes
from runoff.types import Precision, Signature, TensorSpec

MANIFEST_NAME = "runoff.json"
SCHEMA = 1
_ID = re.compile(r"[a-z0-9][a-z0-9._+-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Batch: TypeAlias = int | Literal["dynamic"]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model: path relative to the folder, SHA-256 digest and size."""

    path: str
    sha256: str
    bytes: int


class Fidelity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a package's outputs are from the reference's on the same inputs.

    Attributes:
        against: the package id of the reference.
        samples: how many input rows were compared.
        inputs: where the inputs came from: `data`, or the name and seed of a generator.
        max_abs: largest absolute difference over all outputs.
        max_rel: largest absolute difference of an output over the largest magnitude in that output.
        cosine: smallest cosine similarity over the outputs.
        centred_cosine: the same after the reference's mean over the samples is subtracted from both.
        top1: share of samples with the same best class, for classifiers.
        metric: task metric on labelled data, by name, such as {"accuracy": 0.98}.
    """

    against: str
    samples: int
    inputs: str
    max_abs: float
    max_rel: float
    cosine: float
    centred_cosine: float
    top1: float | None = None
    metric: dict[str, float] = {}


class MadeBy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What made a package: the tool, the package it was made from, the versions used, and what else decided the result.

    Attributes:
        details: facts of the tool, such as the method and the calibration data of a quantiser.
    """

    tool: str
    source: str | None = None
    versions: dict[str, str] = {}
    details: dict[str, Any] = {}


class PackageEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The files of the model in one format at one precision, for one backend.

    Attributes:
        id: unique in the folder, such as `onnx-fp32`.
        batch: `dynamic`, or the one batch size that the files were made for.
        requires: what the environment must have, such as {"opset": 20} or {"module": "pkg.net:Net"}.
        fidelity: figures of the last check against the reference; None for the reference itself.
    """

    id: str
    backend: str
    format: str
    precision: Precision
    files: tuple[FileEntry, ...]
    batch: Batch = "dynamic"
    requires: dict[str, Any] = {}
    made_by: MadeBy | None = None
    fidelity: Fidelity | None = None


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input/output pair of the reference, replayed wherever the model is opened."""

    inputs: FileEntry
    outputs: FileEntry


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labelled data: an .npz of inputs by name, and an .npy of one integer label a row."""

    inputs: FileEntry
    labels: FileEntry


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `runoff.json`."""

    schema: int
    name: str
    reference: str
    signature: Signature
    packages: tuple[PackageEntry, ...]
    task: str | None = None
    preprocess: dict[str, Any] = {}
    labels: FileEntry | None = None
    golden: Golden | None = None
    evaluation: Evaluation | None = None

    def package(self, package_id: str) -> PackageEntry | None:
        """The package with that id, or None."""
        return next((entry for entry in self.packages if entry.id == package_id), None)

    def files(self) -> Iterator[FileEntry]:
        """Every file that the manifest names, packages first."""
        yield from self.files_of([entry.id for entry in self.packages])
        if self.evaluation:
            yield self.evaluation.inputs
            yield self.evaluation.labels

    def files_of(self, packages: Collection[str]) -> Iterator[FileEntry]:
        """The files that opening these packages by id needs: their own, the labels and the golden pair."""
        for entry in self.packages:
            if entry.id in packages:
                yield from entry.files
        if self.labels:
            yield self.labels
        if self.golden:
            yield self.golden.inputs
            yield self.golden.outputs


def parse_manifest(data: bytes, where: str = MANIFEST_NAME) -> Manifest:
    """Read a manifest from JSON.

    Args:
        data: the JSON text.
        where: what errors call it, normally the path.

    Raises:
        ManifestInvalid: not JSON, a field is unknown, missing, of the wrong type or impossible.
        PathEscapes: a path is absolute or leaves the folder.
    """
    try:
        version = msgspec.json.decode(data, type=_SchemaOnly).schema
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(where, str(error)) from error
    if version != SCHEMA:
        raise ManifestInvalid(
            f"{where} has schema {version}, this version of runoff reads schema {SCHEMA}",
            hint="upgrade runoff, or package the model again",
        )
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _invalid(where, str(error)) from error
    check_manifest(manifest, where)
    return manifest


class _SchemaOnly(msgspec.Struct):
    schema: int


def dump_manifest(manifest: Manifest) -> bytes:
    """The canonical JSON of a manifest: two-space indent, one newline at the end."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def check_manifest(manifest: Manifest, where: str = MANIFEST_NAME) -> None:
    """Check what types alone cannot say.

    Raises:
        ManifestInvalid: ids that clash or are malformed, a reference that is missing, digests that are none.
        PathEscapes: a path is absolute or leaves the folder.
    """
    ids = [entry.id for entry in manifest.packages]
    for package_id in ids:
        if not _ID.fullmatch(package_id):
            raise _invalid(where, f"package id {package_id!r} is not lower-case letters, digits, '.', '_', '+', '-'")
    if len(set(ids)) != len(ids):
        raise _invalid(where, "two packages have the same id")
    if manifest.reference not in ids:
        raise _invalid(
            where, f"the reference {manifest.reference!r} is none of the packages {', '.join(ids) or '(none)'}"
        )
    for entry in manifest.packages:
        if not entry.files:
            raise _invalid(where, f"package {entry.id!r} has no files")
        if isinstance(entry.batch, int) and entry.batch < 1:
            raise _invalid(where, f"package {entry.id!r} has batch {entry.batch}")
    _check_specs(manifest.signature.inputs, "input", where)
    _check_specs(manifest.signature.outputs, "output", where)
    for file in manifest.files():
        check_path(file.path, where)
        if not _SHA256.fullmatch(file.sha256):
            raise _invalid(where, f"the digest of {file.path!r} is not 64 hexadecimal digits")
        if file.bytes < 0:
            raise _invalid(where, f"the size of {file.path!r} is negative")


def check_path(path: str, where: str = MANIFEST_NAME) -> None:
    """Refuse a path that is not plainly inside the folder, before anything touches the disk.

    Raises:
        PathEscapes: absolute, with a drive, a backslash, a NUL, an empty part, `.` or `..`.
    """
    pure = PurePosixPath(path)
    parts = path.split("/")
    if pure.is_absolute() or "\\" in path or ":" in path or "\0" in path or any(p in ("", ".", "..") for p in parts):
        raise PathEscapes(
            f"{where} names the path {path!r}, which is not a plain path inside the folder",
            hint="paths are relative to the folder, with '/' and without '..'",
        )


def _check_specs(specs: tuple[TensorSpec, ...], kind: str, where: str) -> None:
    names = [spec.name for spec in specs]
    if not names:
        raise _invalid(where, f"the signature has no {kind}")
    if len(set(names)) != len(names):
        raise _invalid(where, f"two {kind}s have the same name")
    for spec in specs:
        for dim in spec.shape:
            if isinstance(dim, int) and dim < 0:
                raise _invalid(where, f"{kind} {spec.name!r} has the dimension {dim}; a dynamic one is a name")


def _invalid(where: str, why: str) -> ManifestInvalid:
    return ManifestInvalid(f"{where}: {why}", hint="docs/manifest.md describes every field")
