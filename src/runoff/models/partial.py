"""A model folder in the cache whose files come from elsewhere as they are needed, each held against its digest.

Knows manifests and the cache; how a file is fetched is the caller's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from runoff.errors import ModelError
from runoff.models import cache
from runoff.models.folder import is_here, resolve, verify_file
from runoff.models.manifest import FileEntry, Manifest

ChooseFiles: TypeAlias = Callable[[Manifest], Iterable[FileEntry]]
"""Which files of a model are needed."""
FetchFiles: TypeAlias = Callable[[Sequence[FileEntry]], Iterable[tuple[FileEntry, Path]]]
"""Fetches files and answers where each lies; they are linked or copied from there."""


def partial_folder(origin: str, manifest: Manifest, data: bytes, choose: ChooseFiles | None, fetch: FetchFiles) -> Path:
    """The folder in the cache of a model that lies elsewhere, with the chosen files in it.

    A file that is there already is not fetched again. Nothing is left of a folder whose first files cannot be had,
    nor of a file that is not the one of the manifest.

    Args:
        origin: where the model lies; the same place and manifest lead to the same folder.
        manifest: what lies there.
        data: the manifest as it was read.
        choose: which files are needed; None means all.
        fetch: brings them here.

    Raises:
        DigestMismatch: a file is not the one that the manifest describes.
        SourceError: a file cannot be fetched.
        ModelError: the cache cannot be written.
    """
    choose = choose or Manifest.files
    root = cache.adopted_folder(hashlib.sha256(origin.encode() + b"\0" + data).hexdigest())

    def fill(aside: Path) -> Manifest:
        _place(aside, tuple(dict.fromkeys(choose(manifest))), fetch)
        return manifest

    folder = cache.make_once(root, fill)
    published = set(manifest.files())
    # Races add packages of their own to the folder; those are not to be had elsewhere.
    wanted = dict.fromkeys(entry for entry in choose(folder.manifest) if entry in published)
    missing = tuple(entry for entry in wanted if not is_here(root, entry))
    if missing:
        _place(root, missing, fetch)
    return root


def _place(root: Path, entries: Sequence[FileEntry], fetch: FetchFiles) -> None:
    for entry, path in fetch(entries):
        target = resolve(root, entry.path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            cache.link_or_copy(path, target)
        except OSError as error:
            raise cache.unwritable(error) from error
        try:
            verify_file(root, entry)
        except ModelError:
            with suppress(OSError):
                target.unlink()
            raise
