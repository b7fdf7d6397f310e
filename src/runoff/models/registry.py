"""A registry: a plain folder of model folders by name and version, with aliases; made by hand or by `add_version`.

    <registry>/<name>/<version>/runoff.json     a version of a model, with its files
    <registry>/registry.json                    aliases and digests; may be missing

A reference is a name, `name@version`, `name@latest` or an alias. Knows model folders; fetches nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from runoff.errors import DigestMismatch, InputError, ManifestInvalid, ModelError, ModelNotFound, unknown_name
from runoff.models.folder import ModelFolder, copy_folder, folder_lock, read_folder, resolve, write_atomically
from runoff.models.manifest import MANIFEST_NAME

REGISTRY_NAME = "registry.json"
LATEST = "latest"
SCHEMA = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_MAX_BYTES = 16 << 20
_MAX_ALIASES = 8
"""How many aliases may lead on to another one."""


class RegistryFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `registry.json`.

    Attributes:
        aliases: another name to `name`, `name@version`, or another alias.
        digests: `name@version` to the digest of the model, see `ModelFolder.digest`; held against it on opening.
    """

    schema: int = SCHEMA
    aliases: dict[str, str] = {}
    digests: dict[str, str] = {}


class RegistryEntry(msgspec.Struct, frozen=True):
    """A version of a model in a registry.

    Attributes:
        is_latest: whether the bare name leads to it.
        aliases: what else leads to it.
        problem: why it cannot be used, or None.
    """

    name: str
    version: str
    path: str
    is_latest: bool
    aliases: tuple[str, ...] = ()
    problem: str | None = None


def is_reference(text: str) -> bool:
    """Whether a text has the form of a name in a registry, with or without a version."""
    name, at, version = text.partition("@")
    return _NAME.fullmatch(name) is not None and (not at or _VERSION.fullmatch(version) is not None)


def find_version(root: Path, reference: str) -> Path:
    """The model folder that a reference leads to, held against the digest of the registry where it has one.

    Raises:
        ModelNotFound: no such registry; or no such version, and the message lists those that are there.
        UnknownName: no such name; the hint has the nearest one.
        ManifestInvalid: `registry.json` cannot be read, or its aliases lead in a circle or to nothing.
        PathEscapes: a symlink leads out of the registry.
        DigestMismatch: another model lies there than the registry says.
    """
    file = _read_file(root)
    name, version = _follow(root, file, reference)
    folder = resolve(root, f"{name}/{version}")
    found = read_folder(folder)
    expected = file.digests.get(f"{name}@{version}")
    if expected is not None and found.digest() != expected:
        raise DigestMismatch(
            f"{folder} is not the model that {root / REGISTRY_NAME} describes: its digest is {found.digest()[:16]}..., "
            f"expected {expected[:16]}...",
            hint="a version is never changed in place: restore it, or add the new model as a version of its own",
        )
    return folder


def list_registry(root: Path) -> list[RegistryEntry]:
    """Every version in a registry by name, the latest first; nothing where there is no such folder.

    Raises:
        ManifestInvalid: `registry.json` cannot be read.
    """
    if not root.is_dir():
        return []
    file = _read_file(root)
    leads: dict[str, list[str]] = {}
    for alias in file.aliases:
        try:
            leads.setdefault("@".join(_follow(root, file, alias)), []).append(alias)
        except ModelError:
            continue
    entries = []
    for name in _names(root):
        for place, version in enumerate(_versions(root, name)):
            aliases = tuple(sorted(leads.get(f"{name}@{version}", ())))
            problem = _problem(root, f"{name}@{version}")
            entries.append(RegistryEntry(name, version, str(root / name / version), place == 0, aliases, problem))
    return entries


def add_version(root: Path, folder: ModelFolder, name: str, version: str, aliases: Sequence[str] = ()) -> RegistryEntry:
    """Copy a model into a registry as a new version; aliases that exist lead to it from then on. All or nothing.

    Raises:
        InputError: a name, version or alias of the wrong form, or an alias that is a model's name.
        ModelError: the version is there already, or the registry cannot be written.
        ModelNotFound, DigestMismatch: a file of the model is missing or damaged.
    """
    _check(name, version, aliases)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"cannot make the registry {root}: {error.strerror}") from error
    with folder_lock(root):
        file = _read_file(root)
        taken = [alias for alias in aliases if alias in _names(root) or alias == name]
        if taken or name in file.aliases:
            raise InputError(f"{(taken or [name])[0]!r} is both a model and an alias", hint="choose another name")
        place = resolve(root, f"{name}/{version}")
        if place.exists():
            raise ModelError(f"{root} has {name}@{version} already", hint="a version is never changed: name a new one")
        made = copy_folder(folder, place)
        changed = msgspec.structs.replace(
            file,
            aliases={**file.aliases, **{alias: f"{name}@{version}" for alias in aliases}},
            digests={**file.digests, f"{name}@{version}": made.digest()},
        )
        write_atomically(root / REGISTRY_NAME, msgspec.json.format(msgspec.json.encode(changed), indent=2) + b"\n")
        latest = _versions(root, name)[0] == version
    return RegistryEntry(name, version, str(place), latest, tuple(sorted(aliases)))


def _check(name: str, version: str, aliases: Sequence[str]) -> None:
    for what, text in (("name", name), *(("alias", alias) for alias in aliases)):
        if not _NAME.fullmatch(text):
            raise InputError(f"the {what} {text!r} is not lower-case letters, digits, '.', '_', '-', at most 96")
    if not _VERSION.fullmatch(version) or version == LATEST:
        raise InputError(
            f"the version {version!r} cannot be used", hint="letters, digits, '.', '_', '+', '-'; 'latest' is taken"
        )


def _read_file(root: Path) -> RegistryFile:
    path = root / REGISTRY_NAME
    if not root.is_dir():
        raise ModelNotFound(f"there is no registry {root}", hint="RUNOFF_REGISTRY names an existing folder")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ManifestInvalid(f"{path} has more than {_MAX_BYTES >> 20} MiB")
        file = msgspec.json.decode(path.read_bytes(), type=RegistryFile)
    except FileNotFoundError:
        return RegistryFile()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestInvalid(f"{path}: {error}", hint="docs/sources.md describes every field") from error
    if file.schema != SCHEMA:
        raise ManifestInvalid(
            f"{path} has schema {file.schema}, this version of runoff reads schema {SCHEMA}", hint="upgrade runoff"
        )
    wrong = [text for pair in file.aliases.items() for text in pair if not is_reference(text)]
    if wrong:
        raise ManifestInvalid(f"{path}: the alias {wrong[0]!r} is neither a name nor name@version")
    return file


def _follow(root: Path, file: RegistryFile, reference: str) -> tuple[str, str]:
    """The name and version that a reference leads to."""
    text, seen = reference, [reference]
    while text in file.aliases:
        text = file.aliases[text]
        if text in seen or len(seen) > _MAX_ALIASES:
            trail = " -> ".join([*seen, text])
            raise ManifestInvalid(f"the aliases of {root / REGISTRY_NAME} lead in a circle or too far: {trail}")
        seen.append(text)
    name, _, version = text.partition("@")
    if not is_reference(text) or not (versions := _versions(root, name)):
        if len(seen) > 1:
            raise ManifestInvalid(f"{' -> '.join(seen)}: {root} has no model {name!r}")
        raise unknown_name(f"model of the registry {root}", reference, [*_names(root), *sorted(file.aliases)])
    if version in ("", LATEST):
        return name, versions[0]
    if version not in versions:
        raise ModelNotFound(f"{root} has no {name}@{version}; it has {', '.join(versions)}")
    return name, version


def _names(root: Path) -> list[str]:
    return [name for name in _folders(root) if _NAME.fullmatch(name) and _versions(root, name)]


def _versions(root: Path, name: str) -> list[str]:
    """The versions of a model, the latest first: by their numbers, and a final one after its pre-releases."""
    found = [
        version
        for version in _folders(root / name)
        if _VERSION.fullmatch(version) and version != LATEST and (root / name / version / MANIFEST_NAME).is_file()
    ]
    return sorted(found, key=_order, reverse=True)


def _order(version: str) -> tuple[tuple[tuple[int, int | str], ...], str]:
    """Numbers count as numbers, and before the end of a version come its words: 1.0-rc1 < 1.0 < 1.0.1 < 1.10."""
    parts = re.findall(r"\d+|[A-Za-z]+", version)
    ranked: list[tuple[int, int | str]] = [(2, int(part)) if part.isdigit() else (0, part.lower()) for part in parts]
    return (*ranked, (1, 0)), version


def _folders(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    except OSError:
        return []


def _problem(root: Path, reference: str) -> str | None:
    try:
        find_version(root, reference)
    except ModelError as error:
        return error.message
    return None
