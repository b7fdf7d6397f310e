"""The models that are here: model folders below RUNOFF_MODELS and in the user cache.

Reads manifests only. A folder whose manifest cannot be read is listed with the reason, not left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from runoff import settings
from runoff.errors import ModelError
from runoff.models.folder import read_folder
from runoff.models.manifest import MANIFEST_NAME

_MAX_DEPTH = 4


class ListedModel(msgspec.Struct, frozen=True):
    """A model folder.

    Attributes:
        place: `models` for RUNOFF_MODELS, `cache` for the user cache.
        packages: the ids of its packages.
        problem: why its manifest cannot be read, or None.
    """

    name: str
    path: str
    place: Literal["models", "cache"]
    task: str | None = None
    packages: tuple[str, ...] = ()
    problem: str | None = None


def list_models() -> list[ListedModel]:
    """Every model folder that is here, by place and path."""
    found = []
    models = settings.models_folder()
    if models is not None:
        found += [_listed(root, "models") for root in _model_folders(models)]
    cached = settings.cache_folder()
    for part in ("models", "provided"):
        found += [_listed(root, "cache") for root in _model_folders(cached / part)]
    return found


def _model_folders(top: Path) -> Iterator[Path]:
    """Folders with a manifest, not below another one; hidden folders and links to folders are passed over."""
    for folder, names, files in os.walk(top):
        root = Path(folder)
        if MANIFEST_NAME in files:
            names.clear()
            yield root
        elif len(root.relative_to(top).parts) >= _MAX_DEPTH:
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))


def _listed(root: Path, place: Literal["models", "cache"]) -> ListedModel:
    try:
        manifest = read_folder(root).manifest
    except ModelError as error:
        return ListedModel(root.name, str(root), place, problem=error.message)
    packages = tuple(entry.id for entry in manifest.packages)
    return ListedModel(manifest.name, str(root), place, manifest.task, packages)
