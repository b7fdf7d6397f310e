"""The models that are here: in the registry, below RUNOFF_MODELS and in the user cache.

Reads manifests only. A folder whose manifest cannot be read is listed with the reason, not left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from runoff import settings
from runoff.errors import ModelError
from runoff.models.folder import is_here, read_folder
from runoff.models.manifest import MANIFEST_NAME
from runoff.models.registry import RegistryEntry, list_registry

_MAX_DEPTH = 4
Place: TypeAlias = Literal["registry", "models", "cache"]


class ListedModel(msgspec.Struct, frozen=True):
    """A model folder.

    Attributes:
        name: what it is called: in a registry the name that opens it, else that of its manifest.
        place: `registry`, `models` for RUNOFF_MODELS, `cache` for the user cache.
        packages: the ids of its packages.
        bytes: the size of its files that are here.
        version: the version, in a registry.
        is_latest: whether the bare name leads to this version of a registry.
        aliases: what else leads to it, in a registry.
        problem: why it cannot be used, or None.
    """

    name: str
    path: str
    place: Place
    task: str | None = None
    packages: tuple[str, ...] = ()
    bytes: int = 0
    version: str | None = None
    is_latest: bool = False
    aliases: tuple[str, ...] = ()
    problem: str | None = None


def list_models(registry: Path | None = None) -> list[ListedModel]:
    """Every model folder that is here, by place and path.

    Args:
        registry: the registry to list; the one of RUNOFF_REGISTRY unless given.

    Raises:
        ManifestInvalid: the `registry.json` cannot be read.
    """
    registry = registry or settings.registry_folder()
    found = [_registered(entry) for entry in list_registry(registry)] if registry is not None else []
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


def _registered(entry: RegistryEntry) -> ListedModel:
    listed = _listed(Path(entry.path), "registry")
    return msgspec.structs.replace(
        listed,
        name=entry.name,
        version=entry.version,
        is_latest=entry.is_latest,
        aliases=entry.aliases,
        problem=entry.problem or listed.problem,
    )


def _listed(root: Path, place: Place) -> ListedModel:
    try:
        manifest = read_folder(root).manifest
    except ModelError as error:
        return ListedModel(root.name, str(root), place, problem=error.message)
    packages = tuple(entry.id for entry in manifest.packages)
    size = sum(file.bytes for file in dict.fromkeys(manifest.files()) if is_here(root, file))
    return ListedModel(manifest.name, str(root), place, manifest.task, packages, size)
