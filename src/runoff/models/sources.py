"""Where a model comes from: a path, a URL, a registered source, a registry or the hub, told apart in that order.

Answers a path on this machine. Knows what a model looks like from outside; opens none and converts none.
"""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runoff import settings
from runoff.errors import DigestMismatch, InputError, ModelNotFound
from runoff.models.archive import is_archive, unpacked
from runoff.models.folder import read_folder
from runoff.models.formats import detect_format
from runoff.models.hub import fetch_from_hub, parse_hub_id
from runoff.models.manifest import MANIFEST_NAME, FileEntry, parse_manifest
from runoff.models.partial import ChooseFiles, partial_folder
from runoff.models.providers import fetch_from_provider, parse_reference
from runoff.models.registry import find_version, is_reference

if TYPE_CHECKING:
    from runoff.models.download import DownloadOptions, Progress

_URL = re.compile(r"https?://", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to look for a model.

    Attributes:
        revision: branch, tag or commit, for hub ids.
        sha256: digest that the one file must have, for files and URLs.
        offline: whether nothing may be fetched; None leaves it to `RUNOFF_OFFLINE`.
        refresh: ask a registered source again for what it gave before.
        attempts: connections in a row that may fail without a byte gained.
        on_progress: called while a URL is fetched, see `DownloadOptions`.
        files: which files of a model folder elsewhere are fetched; None means all.
        registry: the folder that plain names are looked up in; None leaves it to `RUNOFF_REGISTRY`.
    """

    revision: str | None = None
    sha256: str | None = None
    offline: bool | None = None
    refresh: bool = False
    attempts: int = 4
    on_progress: Progress | None = None
    files: ChooseFiles | None = None
    registry: Path | None = None

    def is_offline(self) -> bool:
        """Whether nothing may be fetched."""
        return settings.offline() if self.offline is None else self.offline


@dataclass(frozen=True, slots=True)
class Found:
    """A model on this machine.

    Attributes:
        path: a model folder, a Hugging Face folder or a bare file.
        kind: `folder`, `file`, `registry`, `hub`, `url`, or the scheme of a registered source.
        origin: where it came from, without credentials.
    """

    path: Path
    kind: str
    origin: str


def find_source(model: str | Path, options: SourceOptions | None = None) -> Found:
    """Find a model, fetch it where it is not here, and check that it is what its name says.

    Digests of the files of a model folder are checked when they are opened, not here.

    Raises:
        ModelNotFound: nothing is there under that name.
        FormatMismatch, ManifestInvalid, PathEscapes: what is there is no model.
        DigestMismatch: a file has another digest than was asked for.
        SourceError: it could not be fetched.
        UnknownName: the registry has no such name, or no plug-in such a scheme.
        InputError: an option that does not apply to this kind of source, or something that is no name at all.
    """
    if not isinstance(model, str | Path):
        raise InputError(
            f"a model is named by a path, a URL or a hub id, not by a {type(model).__name__}",
            hint="runoff.package(module, inputs, folder) makes a model folder of a torch module",
        )
    wanted = options or SourceOptions()
    text = str(model)
    found = _find(text, wanted, offline=wanted.is_offline())
    if is_archive(found.path):
        found = replace(found, path=unpacked(found.path))
    if not is_model_folder(found.path):
        detect_format(found.path)
    else:
        read_folder(found.path)
    return found


def is_model_folder(path: Path) -> bool:
    """Whether a path is a folder with a manifest."""
    return (path / MANIFEST_NAME).is_file()


def _find(text: str, options: SourceOptions, *, offline: bool) -> Found:
    local = Path(text).expanduser() if text else None
    if local is not None and _exists(local):
        return _local(local, options)
    if _URL.match(text):
        _refuse(options.revision is not None, "a revision", text)
        return _from_url(text, options, offline=offline)
    if reference := parse_reference(text):
        _refuse(options.revision is not None, "a revision", text)
        _refuse(options.sha256 is not None, "a digest", text)
        path = fetch_from_provider(*reference, offline=offline, refresh=options.refresh)
        return Found(path, reference[0], f"{reference[0]}:{reference[1]}")
    registry = options.registry or settings.registry_folder()
    if registry is not None and is_reference(text):
        _refuse(options.revision is not None, "a revision", text)
        _refuse(options.sha256 is not None, "a digest", text)
        return Found(find_version(registry, text), "registry", f"{registry}/{text}")
    if hub_id := parse_hub_id(text):
        _refuse(options.sha256 is not None, "a digest", text)
        repo_id, revision = hub_id
        revision = options.revision or revision
        path = fetch_from_hub(repo_id, revision, offline=offline, choose=options.files)
        return Found(path, "hub", f"{repo_id}@{revision}" if revision else repo_id)
    raise ModelNotFound(
        f"there is no model {text!r}: no such file or folder, and it is no URL and no hub id",
        hint="RUNOFF_REGISTRY names the registry in which plain names are looked up"
        if is_reference(text)
        else "a hub id has the form org/name",
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        # A text too long for a path, or with a NUL in it.
        return False


def _local(path: Path, options: SourceOptions) -> Found:
    _refuse(options.revision is not None, "a revision", str(path))
    if path.name == MANIFEST_NAME and path.is_file():
        path = path.parent
    if path.is_dir():
        _refuse(options.sha256 is not None, "a digest", str(path))
        return Found(path, "folder", str(path))
    if options.sha256 is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != _checked_digest(options.sha256):
            raise DigestMismatch(f"{path} has the sha256 {digest}, expected {options.sha256}")
    return Found(path, "file", str(path))


def _from_url(url: str, options: SourceOptions, *, offline: bool) -> Found:
    # The HTTP client takes longer to import than everything else that is needed for a local model.
    from runoff.models.download import DownloadOptions, download, shown_url

    url, _, fragment = url.partition("#")
    sha256 = options.sha256
    if fragment:
        name, _, value = fragment.partition("=")
        _refuse(name != "sha256", f"the fragment {fragment!r}", shown_url(url))
        if sha256 is not None and sha256 != value:
            raise InputError(f"two digests for {shown_url(url)}: {sha256} and {value}")
        sha256 = value
    wanted = DownloadOptions(
        sha256=_checked_digest(sha256) if sha256 else None,
        offline=offline,
        attempts=options.attempts,
        on_progress=options.on_progress,
    )
    path = download(url, wanted)
    if path.name == MANIFEST_NAME:
        path = _folder_from_url(url, path.read_bytes(), wanted, options.files)
    return Found(path, "url", shown_url(url))


def _folder_from_url(url: str, data: bytes, options: DownloadOptions, choose: ChooseFiles | None) -> Path:
    """The model folder whose manifest lies at a URL; its files lie beside it, as in any other model folder."""
    from runoff.models.download import download, shown_url

    def fetch(entries: Sequence[FileEntry]) -> Iterator[tuple[FileEntry, Path]]:
        for entry in entries:
            address = urllib.parse.urljoin(url, urllib.parse.quote(entry.path))
            yield entry, download(address, replace(options, sha256=entry.sha256))

    return partial_folder(f"url {url}", parse_manifest(data, shown_url(url)), data, choose, fetch)


def _checked_digest(text: str) -> str:
    if not _SHA256.fullmatch(text.lower()):
        raise InputError(f"{text!r} is no sha256: expected 64 hexadecimal digits")
    return text.lower()


def _refuse(given: bool, what: str, model: str) -> None:
    if given:
        raise InputError(
            f"{what} does not apply to {model}", hint="revisions are for hub ids, digests for single files"
        )
