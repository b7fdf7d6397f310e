"""From whatever the user names - folder, file, hub id, URL, provider - to a model folder.

Knows sources and how bare files become folders; knows no runtime (bare files are read in a process of their own).
"""

from __future__ import annotations

from pathlib import Path

from runoff.export.adopt import adopt
from runoff.models.cache import working_copy
from runoff.models.folder import ModelFolder, is_writable, read_folder
from runoff.models.manifest import MANIFEST_NAME
from runoff.models.sources import SourceOptions, find_source


def find_folder(model: str | Path, options: SourceOptions | None = None) -> ModelFolder:
    """The model folder of what the user named; a bare file or a Hugging Face folder is adopted into the cache.

    A folder that cannot be written is answered by its working copy in the cache once there is one, so that what a
    race found there counts.

    Raises:
        ModelNotFound, SourceError: see `find_source`.
        ManifestInvalid, FormatMismatch: what was found is not a model.
    """
    found = find_source(model, options or SourceOptions())
    if not (found.path / MANIFEST_NAME).is_file():
        return adopt(found.path)
    return read_folder(found.path)


def writable_folder(folder: ModelFolder) -> ModelFolder:
    """The folder itself if files can be made in it, else its working copy in the user cache."""
    return folder if is_writable(folder.root) else read_folder(working_copy(folder))
