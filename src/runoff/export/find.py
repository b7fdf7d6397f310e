"""From whatever the user names - folder, file, hub id, URL, provider - to a model folder.

Knows sources and how bare files become folders; knows no runtime (bare files are read in a process of their own).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runoff.export.adopt import adopt
from runoff.models.cache import find_working_copy, working_copy
from runoff.models.folder import ModelFolder, is_writable, read_folder
from runoff.models.manifest import MANIFEST_NAME
from runoff.models.sources import SourceOptions, find_source


def find_folder(model: str | Path, options: SourceOptions | None = None, backends: Sequence[str] = ()) -> ModelFolder:
    """The model folder of what the user named; a bare file or a Hugging Face folder is adopted into the cache.

    Args:
        model: see `find_source`.
        options: see `SourceOptions`.
        backends: see `adopt`.

    Raises:
        ModelNotFound, SourceError: see `find_source`.
        ManifestInvalid, FormatMismatch: what was found is not a model.
    """
    found = find_source(model, options or SourceOptions())
    if not (found.path / MANIFEST_NAME).is_file():
        return adopt(found.path, backends=backends)
    return read_folder(found.path)


def writable_folder(folder: ModelFolder) -> ModelFolder:
    """The folder itself if files can be made in it, else its working copy in the user cache."""
    return folder if is_writable(folder.root) else read_folder(working_copy(folder))


def known_folder(folder: ModelFolder) -> ModelFolder:
    """The folder itself, or where it cannot be written the working copy that an earlier race has left in the cache.

    Makes nothing: packages and records that were derived from a read-only folder are found again through it.
    """
    if is_writable(folder.root):
        return folder
    place = find_working_copy(folder)
    return folder if place is None else read_folder(place)
