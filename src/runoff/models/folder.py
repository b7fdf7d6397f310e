"""A model folder on disk: read, verify, and change without ever leaving it broken.

Knows the manifest and the file system; knows no runtime. Every change follows one order under the folder's
lock: new files are staged aside, flushed and renamed into a place that no manifest names yet, then the
manifest is replaced by rename, then what nothing names any more is deleted. A process killed at any
moment leaves a manifest whose files are all there, and at most litter that the next writer removes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from runoff.errors import DigestMismatch, ModelError, ModelNotFound, PathEscapes
from runoff.models.dimensions import signature_of
from runoff.models.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    PackageEntry,
    dump_manifest,
    parse_manifest,
)
from runoff.models.staging import folder_lock as folder_lock
from runoff.models.staging import is_writable as is_writable
from runoff.models.staging import remove, remove_stale, sync_folder, sync_tree
from runoff.models.staging import staging as staging
from runoff.models.staging import write_atomically as write_atomically
from runoff.types import Signature


@dataclass(frozen=True, slots=True)
class Package:
    """A package where it lies: what a backend needs to open it.

    Attributes:
        root: the model folder.
        entry: the manifest's entry of the package.
        signature: what it takes and answers: the model's, with the dimensions fixed that its files fix.
    """

    root: Path
    entry: PackageEntry
    signature: Signature

    @property
    def id(self) -> str:
        """The package id, such as `onnx-fp32`."""
        return self.entry.id

    @property
    def main_file(self) -> Path:
        """The first file of the package: the one that a runtime is given."""
        return resolve(self.root, self.entry.files[0].path)

    @property
    def folder(self) -> Path:
        """The folder of the first file, for formats that are a folder."""
        return self.main_file.parent

    def is_here(self) -> bool:
        """Whether every file is there: those of a model that lies elsewhere come when they are needed."""
        return all(is_here(self.root, file) for file in self.entry.files)

    def verify(self) -> None:
        """Hold every file against its digest.

        Raises:
            ModelNotFound: a file is missing.
            DigestMismatch: a file is truncated or changed.
            PathEscapes: a symlink leads out of the folder.
        """
        for file in self.entry.files:
            verify_file(self.root, file)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder and the manifest that was read from it."""

    root: Path
    manifest: Manifest

    @property
    def packages(self) -> tuple[Package, ...]:
        """Every package of the manifest, in order."""
        return tuple(self._package(entry) for entry in self.manifest.packages)

    @property
    def reference(self) -> Package:
        """The package that defines what is right."""
        return self.package(self.manifest.reference)

    def package(self, package_id: str) -> Package:
        """The package with that id.

        Raises:
            ModelNotFound: there is none; the message lists those that are there.
        """
        entry = self.manifest.package(package_id)
        if entry is None:
            known = ", ".join(entry.id for entry in self.manifest.packages)
            raise ModelNotFound(f"{self.root} has no package {package_id!r}; it has {known}")
        return self._package(entry)

    def _package(self, entry: PackageEntry) -> Package:
        return Package(self.root, entry, signature_of(entry, self.manifest.signature))

    def file(self, entry: FileEntry) -> Path:
        """The verified path of a file that the manifest names."""
        verify_file(self.root, entry)
        return resolve(self.root, entry.path)

    def digest(self) -> str:
        """What the model is, whatever was derived from it: SHA-256 over its signature and reference files."""
        reference = self.reference.entry
        parts = [self.manifest.signature, reference.id, [file.sha256 for file in reference.files]]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def read_folder(root: Path) -> ModelFolder:
    """Read the manifest of a folder.

    Raises:
        ModelNotFound: no such folder, or no manifest in it.
        ManifestInvalid, PathEscapes: see `parse_manifest`.
    """
    path = root / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        why = f"{root} has no {MANIFEST_NAME}" if root.is_dir() else f"there is no folder {root}"
        raise ModelNotFound(why, hint="runoff.package(module, inputs, folder) makes a model folder") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    return ModelFolder(root, parse_manifest(data, str(path)))


def resolve(root: Path, relative: str) -> Path:
    """The path of a file in the folder.

    Raises:
        PathEscapes: a symlink on the way leads out of the folder.
    """
    path = root / relative
    # realpath, because Path.resolve raises RuntimeError for a loop of symlinks before Python 3.13.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise PathEscapes(
            f"{relative!r} leads out of the model folder {root}", hint="replace the symlink by the file it points to"
        )
    return path


def describe_file(root: Path, relative: str) -> FileEntry:
    """Digest and size of a file in the folder, as the manifest holds them."""
    path = resolve(root, relative)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(relative, digest, path.stat().st_size)


def describe_tree(root: Path, below: Path, first: str | None = None) -> tuple[FileEntry, ...]:
    """Every file below a folder of the model, sorted by path, the one named `first` at the front."""
    paths = sorted(path.relative_to(root).as_posix() for path in below.rglob("*") if path.is_file())
    if first is not None:
        main = (below / first).relative_to(root).as_posix()
        paths.sort(key=lambda path: path != main)
    return tuple(describe_file(root, path) for path in paths)


FileStatus = Literal["ok", "missing", "truncated", "changed", "escapes", "unreadable"]


def check_file(root: Path, entry: FileEntry) -> FileStatus:
    """The state of one file, without raising."""
    try:
        path = resolve(root, entry.path)
        if not path.is_file():
            return "missing"
        size = path.stat().st_size
        if size != entry.bytes:
            return "truncated" if size < entry.bytes else "changed"
        return "ok" if describe_file(root, entry.path).sha256 == entry.sha256 else "changed"
    except PathEscapes:
        return "escapes"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "unreadable"


def is_here(root: Path, entry: FileEntry) -> bool:
    """Whether a file is there with its size; whether it is the right one is `check_file`'s question."""
    try:
        return (root / entry.path).stat().st_size == entry.bytes
    except OSError:
        return False


def verify_file(root: Path, entry: FileEntry) -> None:
    """Hold one file against its digest; see `Package.verify` for what it raises."""
    status = check_file(root, entry)
    if status == "ok":
        return
    hint = "restore the file, or package the model again"
    if status == "escapes":
        resolve(root, entry.path)
    if status == "missing":
        raise ModelNotFound(f"{root} lacks the file {entry.path!r} that its manifest names", hint=hint)
    if status == "unreadable":
        raise ModelError(f"cannot read {root / entry.path}", hint="check its permissions and the disk")
    raise DigestMismatch(
        f"{root / entry.path} is {status}: it is not the file that the manifest describes "
        f"({entry.bytes} bytes, sha256 {entry.sha256[:12]}...)",
        hint=hint,
    )


def create_folder(root: Path, fill: Callable[[Path], Manifest]) -> ModelFolder:
    """Make a model folder in one step: `fill` writes files into an empty folder and answers the manifest.

    Raises:
        ModelError: `root` exists and is not empty, or cannot be written.
    """
    try:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ModelError(f"{root} exists already and is not empty", hint="name a new folder")
        root.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"cannot write {root}: {error.strerror}") from error
    remove_stale(root.parent)
    with staging(root.parent) as aside:
        manifest = fill(aside)
        write_atomically(aside / MANIFEST_NAME, _checked_bytes(manifest))
        sync_tree(aside)
        aside.replace(root)
        sync_folder(root.parent)
    return ModelFolder(root, manifest)


def copy_folder(folder: ModelFolder, root: Path) -> ModelFolder:
    """Copy a model - its manifest and the files that it names, nothing else - to a new folder.

    Raises:
        ModelNotFound, DigestMismatch: a file of the model is missing or damaged.
        ModelError: `root` exists and is not empty, or cannot be written.
    """

    def fill(aside: Path) -> Manifest:
        for entry in folder.manifest.files():
            target = aside / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder.file(entry), target)
        return folder.manifest

    return create_folder(root, fill)


def add_package(root: Path, entry: PackageEntry, staged: Path) -> ModelFolder:
    """Move staged files in and name them in the manifest; a package with the same id is replaced.

    Args:
        root: the model folder.
        entry: the package with `files` as paths relative to `staged`.
        staged: a folder made by `staging(root)`; it is moved away.

    Raises:
        ModelError: the folder cannot be written; it is left as it was.
    """
    with folder_lock(root):
        folder = read_folder(root)
        _remove_litter(root, folder.manifest)
        place = _free_place(root / "packages", entry.id)
        try:
            place.parent.mkdir(exist_ok=True)
            sync_tree(staged)
            staged.replace(place)
            sync_folder(place.parent)
            sync_folder(root)
        except OSError as error:
            raise ModelError(f"cannot write {place}: {error.strerror}", hint="nothing was changed") from error
        prefix = place.relative_to(root).as_posix()
        files = tuple(FileEntry(f"{prefix}/{file.path}", file.sha256, file.bytes) for file in entry.files)
        added = msgspec.structs.replace(entry, files=files)
        kept = tuple(old for old in folder.manifest.packages if old.id != entry.id)
        try:
            return _write_manifest(root, msgspec.structs.replace(folder.manifest, packages=(*kept, added)))
        except ModelError:
            shutil.rmtree(place, ignore_errors=True)
            raise


def change_manifest(root: Path, change: Callable[[Manifest], Manifest]) -> ModelFolder:
    """Replace the manifest by `change(manifest)` under the lock, atomically."""
    with folder_lock(root):
        return _write_manifest(root, change(read_folder(root).manifest))


def update_package(root: Path, entry: PackageEntry) -> ModelFolder:
    """Replace the manifest's entry of a package that is there, such as with new fidelity figures."""

    def replace(manifest: Manifest) -> Manifest:
        packages = tuple(entry if old.id == entry.id else old for old in manifest.packages)
        return msgspec.structs.replace(manifest, packages=packages)

    return change_manifest(root, replace)


def _write_manifest(root: Path, manifest: Manifest) -> ModelFolder:
    write_atomically(root / MANIFEST_NAME, _checked_bytes(manifest))
    _remove_litter(root, manifest)
    return ModelFolder(root, manifest)


def _checked_bytes(manifest: Manifest) -> bytes:
    """The manifest as JSON that is known to be readable: NaN, for one, would be written as null."""
    data = dump_manifest(manifest)
    parse_manifest(data)
    return data


def _free_place(packages: Path, package_id: str) -> Path:
    """A folder name that nothing has yet: the files of a package that is replaced stay until the manifest changed."""
    place = packages / package_id
    number = 2
    while os.path.lexists(place):
        place = packages / f"{package_id}-{number}"
        number += 1
    return place


def _remove_litter(root: Path, manifest: Manifest) -> None:
    """Delete what killed writers left, and packages that nothing names."""
    named = {file.path.split("/")[1] for file in manifest.files() if file.path.startswith("packages/")}
    for path in (root / "packages").glob("*"):
        if path.name not in named:
            remove(path)
    remove_stale(root)
