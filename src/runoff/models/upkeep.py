"""What is in the user cache, how big and how long unused; deleting by a policy, and finding what is damaged.

Knows the layout that `cache.py` describes. Deletes under the lock of the cache, and never a folder that is locked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from runoff import settings
from runoff.errors import InputError, ModelError
from runoff.models import cache
from runoff.models.folder import ModelFolder, check_file, read_folder
from runoff.models.manifest import FileEntry
from runoff.models.staging import folder_lock, remove, remove_stale

_NOTES = ("stamps", "urls")
_PLACES = ("blobs", "models", "provided", "downloads", *_NOTES)

EntryKind = Literal["file", "model", "provided", "download"]


class CacheEntry(msgspec.Struct, frozen=True):
    """Something in the cache: its size, and when it was last asked for in seconds since the epoch."""

    kind: EntryKind
    name: str
    path: str
    bytes: int
    last_used_s: float


class BrokenEntry(msgspec.Struct, frozen=True):
    """An entry whose content is not what it should be, and why."""

    entry: CacheEntry
    problem: str


@dataclass(frozen=True, slots=True)
class PrunePolicy:
    """What to delete: everything, what was not used for a time, and the least recently used above a size."""

    everything: bool = False
    older_than_s: float | None = None
    max_bytes: int | None = None


def entries() -> list[CacheEntry]:
    """Everything in the cache that can be deleted by itself, the most recently used first."""
    root = settings.cache_folder()
    found = [_entry("file", path) for path in _listed(root / "blobs")]
    found += [_entry("model", path) for path in _listed(root / "models")]
    found += [_entry("provided", path) for path in _listed(root / "provided")]
    found += [_entry("download", path) for path in _listed(root / "downloads") if path.suffix == ".part"]
    present = [entry for entry in found if entry is not None]
    return sorted(present, key=lambda entry: (-entry.last_used_s, entry.path))


def prune(policy: PrunePolicy) -> list[CacheEntry]:
    """Delete entries by a policy, and answer those that are gone; a model folder that someone locks is left.

    Raises:
        InputError: the policy names nothing.
    """
    if not policy.everything and policy.older_than_s is None and policy.max_bytes is None:
        raise InputError(
            "nothing says what to delete from the cache", hint="name a size, an age, or everything: see --help"
        )
    root = cache.cache_root()
    for place in (root, *(root / name for name in _PLACES)):
        remove_stale(place)
    with folder_lock(cache.cache_root()):
        chosen = _chosen(entries(), policy)
        deleted = [entry for entry in chosen if _delete(entry)]
        _drop_notes(policy)
        return deleted


def verify(*, delete: bool = False) -> list[BrokenEntry]:
    """Hold every file and model folder of the cache against its digests.

    Args:
        delete: delete what is broken, so that it is made or fetched again when it is next needed.
    """
    broken = []
    for entry in entries():
        problem = _problem(entry)
        if problem is not None:
            broken.append(BrokenEntry(entry, problem))
    if delete and broken:
        with folder_lock(cache.cache_root()):
            for finding in broken:
                _delete(finding.entry)
    return broken


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _entry(kind: EntryKind, path: Path) -> CacheEntry | None:
    """The entry at a path, or None when another process deleted it meanwhile."""
    try:
        used_s = path.stat().st_mtime
        size = path.stat().st_size if path.is_file() else _tree_bytes(path)
    except FileNotFoundError:
        return None
    return CacheEntry(kind, path.name, str(path), size, used_s)


def _tree_bytes(root: Path) -> int:
    total = 0
    for path in root.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _chosen(found: list[CacheEntry], policy: PrunePolicy) -> list[CacheEntry]:
    """Which entries a policy deletes; `found` is in order of use, the latest first."""
    if policy.everything:
        return found
    oldest_s = _oldest_s(policy)
    chosen, kept_bytes = [], 0
    for entry in found:
        too_much = policy.max_bytes is not None and kept_bytes + entry.bytes > policy.max_bytes
        if entry.last_used_s < oldest_s or too_much:
            chosen.append(entry)
        else:
            kept_bytes += entry.bytes
    return chosen


def _oldest_s(policy: PrunePolicy) -> float:
    """What was used before this time is too old."""
    return float("-inf") if policy.older_than_s is None else time.time() - policy.older_than_s


def _delete(entry: CacheEntry) -> bool:
    """Delete an entry whole; the caller holds the cache's lock. False when it is in use."""
    path = Path(entry.path)
    try:
        if entry.kind == "file":
            # Its other names first: without the file itself nobody would find them any more.
            remove(settings.cache_folder() / "files" / entry.name)
        if entry.kind in ("file", "download"):
            path.unlink(missing_ok=True)
            return True
        return cache.discard(path)
    except OSError as error:
        raise cache.unwritable(error) from error


def _drop_notes(policy: PrunePolicy) -> None:
    """Delete what is only remembered: digests of adopted files, answers of URLs. Each costs one more look, no data."""
    oldest_s = _oldest_s(policy)
    for path in (path for name in _NOTES for path in _listed(settings.cache_folder() / name)):
        with suppress(OSError):
            if policy.everything or path.stat().st_mtime < oldest_s:
                path.unlink()


def _problem(entry: CacheEntry) -> str | None:
    path = Path(entry.path)
    if entry.kind == "file":
        try:
            digest = cache.digest_of(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return None if digest == entry.name else "its content is not that of its digest"
    if entry.kind != "model":
        return None
    try:
        folder = read_folder(path)
    except ModelError as error:
        return error.message if path.exists() else None
    for file in _fetched(folder):
        status = check_file(path, file)
        if status != "ok":
            return f"{file.path} is {status}"
    return None


def _fetched(folder: ModelFolder) -> Iterator[FileEntry]:
    """The files that must be there: a package or evaluation data of which nothing is there was not fetched yet."""
    manifest = folder.manifest
    started = [
        entry.id for entry in manifest.packages if any((folder.root / file.path).exists() for file in entry.files)
    ]
    yield from manifest.files_of(started)
    pair = manifest.evaluation
    files = (pair.inputs, pair.labels) if pair else ()
    if any((folder.root / file.path).exists() for file in files):
        yield from files
