"""The user cache: files by their digest, and model folders that were adopted, downloaded or copied to be changed.

Knows files and model folders; knows no network. Safe for several processes at once: whatever is made is made
aside and renamed into place, and what is deleted is renamed away first, both under the lock of the cache.

    blobs/<sha256>          a file by its content
    files/<sha256>/<name>   the same file under the name it came with, since a format is told by its name
    models/<digest16>/      a model folder; of one that came from elsewhere, the files that were needed so far
    provided/<key>/         what a registered source or an archive put there
    downloads/              transfers that can be resumed
    urls/                   which blob a URL answered with, and its validator
    stamps/                 size, time and digest of the bare files that were adopted

The last use of an entry is the modification time of its file or folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from runoff import settings
from runoff.errors import DigestMismatch, FolderBusy, ModelError
from runoff.models.folder import ModelFolder, create_folder, read_folder
from runoff.models.manifest import MANIFEST_NAME, Manifest, dump_manifest
from runoff.models.staging import LOCK_NAME, folder_lock, name_aside, remove, sync_folder, sync_tree

_CHUNK_BYTES = 1 << 20
_DIGEST16 = 16

FillFolder: TypeAlias = Callable[[Path], Manifest]
"""Writes the files of a model into an empty folder and answers its manifest."""


def cache_root() -> Path:
    """The folder of the cache, made where it is missing.

    Raises:
        ModelError: it cannot be made.
    """
    return _made(settings.cache_folder())


def subfolder(name: str) -> Path:
    """A folder of the cache such as `blobs`, made where it is missing."""
    return _made(cache_root() / name)


def put_stream(chunks: Iterable[bytes], expected_sha256: str | None = None) -> str:
    """Store bytes and answer their SHA-256. All or nothing.

    Raises:
        DigestMismatch: they are not the expected ones; nothing is kept.
        ModelError: the disk is full, ...; nothing is kept.
    """
    aside = name_aside(cache_root())
    digest = hashlib.sha256()
    try:
        with aside.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return _place_blob(aside, digest.hexdigest(), expected_sha256)
    except OSError as error:
        raise unwritable(error) from error
    finally:
        with suppress(OSError):
            aside.unlink()


def put_file(path: Path, expected_sha256: str | None = None, *, move: bool = False) -> str:
    """Store a copy of a file, or the file itself if `move`, and answer its SHA-256; see `put_stream`.

    A file that is moved must lie in the cache already, and is kept where it is when it is not the expected one.
    """
    if not move:
        return put_stream(_chunks(path), expected_sha256)
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return _place_blob(path, digest_of(path), expected_sha256)
    except OSError as error:
        raise unwritable(error) from error


def digest_of(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def get(sha256: str) -> Path | None:
    """The file with that digest, or None; held against the digest, and deleted when it is damaged.

    Being asked for counts as use.
    """
    path = subfolder("blobs") / sha256
    if not touch(path):
        return None
    try:
        if digest_of(path) == sha256:
            return path
        with folder_lock(cache_root()):
            path.unlink()
    except FileNotFoundError:
        pass
    return None


def get_named(sha256: str, name: str) -> Path | None:
    """The file with that digest under a name of one's own, or None."""
    blob = get(sha256)
    if blob is None:
        return None
    path = subfolder("files") / sha256 / name
    with folder_lock(cache_root()):
        try:
            _made(path.parent)
            link_or_copy(blob, path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unwritable(error) from error
    return path


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, by a hard link where the file system can, else by a copy.

    Raises:
        OSError: neither worked; no part of `target` is left.
    """
    real = os.path.realpath(source)
    aside = name_aside(target.parent)
    try:
        try:
            os.link(real, aside)
        except OSError:
            shutil.copyfile(real, aside)
        aside.replace(target)
    finally:
        # rename(2) does nothing when both names are links of one file already.
        with suppress(OSError):
            aside.unlink()


def adopted_folder(digest: str) -> Path:
    """Where the model folder made from bare files with that digest belongs; it may not exist yet."""
    path = subfolder("models") / digest[:_DIGEST16]
    touch(path)
    return path


def working_copy(folder: ModelFolder) -> Path:
    """A model folder in the cache with the same manifest and files, for a folder that cannot be written.

    The same manifest leads to the same copy, so that what was derived in it is found again.

    Raises:
        ModelNotFound, DigestMismatch: a file of the folder is missing or damaged.
        ModelError: the cache cannot be written.
    """

    def fill(aside: Path) -> Manifest:
        for entry in folder.manifest.files():
            target = aside / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(folder.file(entry), target)
        return folder.manifest

    return make_once(_working_copy_place(folder), fill).root


def find_working_copy(folder: ModelFolder) -> Path | None:
    """The working copy of a folder where one was made, else None. Writes nothing."""
    place = _working_copy_place(folder)
    return place if (place / MANIFEST_NAME).is_file() else None


def _working_copy_place(folder: ModelFolder) -> Path:
    key = hashlib.sha256(b"working copy\0" + dump_manifest(folder.manifest)).hexdigest()
    return settings.cache_folder() / "models" / key[:_DIGEST16]


def make_once(root: Path, fill: FillFolder) -> ModelFolder:
    """The model folder at `root` of the cache; made by `fill` unless it is there and readable.

    Several processes may ask at once: each makes its own aside, the first one stays.

    Raises:
        ModelError: it cannot be made.
    """
    if touch(root):
        with folder_lock(cache_root()):
            try:
                return read_folder(root)
            except ModelError:
                discard(root)
    try:
        return create_folder(root, fill)
    except ModelError:
        # Another process may have been first: then its folder is as good.
        if not root.exists():
            raise
        return read_folder(root)


def replace_folder(aside: Path, root: Path) -> None:
    """Put a folder in the place of the one at `root` of the cache, whole.

    Raises:
        OSError: the cache cannot be written.
    """
    sync_tree(aside)
    with folder_lock(cache_root()):
        if root.exists():
            discard(root)
        aside.replace(root)


def touch(path: Path) -> bool:
    """Note a use of something in the cache; False when it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:
        return path.exists()
    return True


def _place_blob(aside: Path, digest: str, expected_sha256: str | None) -> str:
    if expected_sha256 is not None and digest != expected_sha256:
        raise DigestMismatch(
            f"the bytes are not the expected ones: sha256 is {digest}, expected {expected_sha256}",
            hint="the source has changed or the transfer was tampered with; check the digest",
        )
    target = subfolder("blobs") / digest
    with folder_lock(cache_root()):
        # Replaced even when it is there: a damaged blob is mended by whoever brings the right bytes.
        aside.replace(target)
        touch(target)
        sync_folder(target.parent)
    return digest


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _made(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"cannot make the cache folder {path}: {error.strerror}", hint="RUNOFF_CACHE names another place"
        ) from error
    return path


def unwritable(error: OSError) -> ModelError:
    """The error for a cache that cannot be written."""
    return ModelError(
        f"cannot write in the cache {settings.cache_folder()}: {error.strerror or error}",
        hint="free some space with 'runoff cache prune', or name another place with RUNOFF_CACHE",
    )


def discard(folder: Path) -> bool:
    """Rename a folder away, then delete it, so that a kill leaves no half of it. False when it is locked."""
    aside = name_aside(cache_root())
    try:
        if (folder / MANIFEST_NAME).exists() or (folder / LOCK_NAME).exists():
            with folder_lock(folder, timeout_s=0):
                folder.replace(aside)
        else:
            folder.replace(aside)
    except FolderBusy:
        return False
    except FileNotFoundError:
        return True
    remove(aside)
    return True
