"""Sources that third parties register under the entry-point group `runoff.sources`.

An entry point's name is a scheme: `zoo:resnet50` and `zoo://resnet50` go to the one named `zoo`. It names a
`SourceProvider`, or a class without arguments that makes one. Knows nothing of what a provider does inside.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from pathlib import Path
from typing import Protocol, runtime_checkable

from runoff.errors import RunoffError, SourceError, unknown_name
from runoff.models import cache
from runoff.models.staging import folder_lock, staging

ENTRY_POINTS = "runoff.sources"
# Two letters at least, so that a drive of Windows is no scheme.
_REFERENCE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?://)?(.+)", re.DOTALL)
_RESULT = ".runoff-result"


@runtime_checkable
class SourceProvider(Protocol):
    """A place where models come from."""

    def fetch(self, reference: str, into: Path) -> Path:
        """Bring a model here and answer its file or folder.

        Args:
            reference: what follows the scheme.
            into: an empty folder for what is fetched; a provider with copies of its own may answer another path.
        """
        ...


def parse_reference(text: str) -> tuple[str, str] | None:
    """`scheme:rest` or `scheme://rest` as its two parts; None when the text has another form."""
    found = _REFERENCE.fullmatch(text)
    return (found[1].lower(), found[2]) if found else None


def fetch_from_provider(scheme: str, reference: str, *, offline: bool, refresh: bool) -> Path:
    """Fetch a model through the provider of a scheme; one that was fetched before is taken from the cache.

    Raises:
        UnknownName: no provider has that scheme; the message lists the known ones.
        SourceError: the provider is broken, failed, or answered nothing; or offline without a copy in the cache.
    """
    key = hashlib.sha256(f"{scheme}:{reference}".encode()).hexdigest()[:16]
    root = cache.subfolder("provided") / key
    kept = None if refresh else _kept(root)
    if kept is not None:
        return kept
    if offline:
        raise SourceError(f"offline: {scheme}:{reference} is not in the cache", hint="unset RUNOFF_OFFLINE")
    provider = _provider(scheme)
    lock = cache.subfolder("downloads") / key
    lock.mkdir(exist_ok=True)
    with folder_lock(lock):
        # Another process may have fetched it while this one waited.
        kept = None if refresh else _kept(root)
        return kept or _fetch(provider, scheme, reference, root)


def _fetch(provider: SourceProvider, scheme: str, reference: str, root: Path) -> Path:
    with staging(root.parent) as aside:
        try:
            answer = provider.fetch(reference, aside)
        except RunoffError:
            raise
        except Exception as error:
            raise SourceError(f"source {scheme!r} failed for {reference!r}: {type(error).__name__}: {error}") from error
        if not isinstance(answer, Path) or not answer.exists():
            raise SourceError(f"source {scheme!r} answered {answer!r} for {reference!r}, which is no file or folder")
        inside = answer.resolve()
        if not inside.is_relative_to(aside.resolve()):
            return answer
        relative = inside.relative_to(aside.resolve()).as_posix()
        (aside / _RESULT).write_text(relative, encoding="utf-8")
        cache.replace_folder(aside, root)
    return root / relative


def _kept(root: Path) -> Path | None:
    """What an earlier fetch left, or None."""
    try:
        path = root / (root / _RESULT).read_text(encoding="utf-8")
    except OSError:
        return None
    if not path.exists():
        return None
    cache.touch(root)
    return path


def _provider(scheme: str) -> SourceProvider:
    points = {point.name.lower(): point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if scheme not in points:
        raise unknown_name("source", scheme, sorted({"http", "https", *points}))
    try:
        loaded = points[scheme].load()
        provider = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:
        raise SourceError(f"the plug-in of source {scheme!r} is broken: {type(error).__name__}: {error}") from error
    if not isinstance(provider, SourceProvider):
        raise SourceError(f"the plug-in of source {scheme!r} has no method fetch(reference, into)")
    return provider
