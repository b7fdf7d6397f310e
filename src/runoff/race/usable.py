"""Why a package cannot be opened on this machine whatever is wished for: platform, library, what it was built for.

Pure: knows the table of backends and the environment; opens nothing and knows no record.
"""

from __future__ import annotations

from typing import TypeAlias

from runoff.backends import table
from runoff.backends.row import BackendRow
from runoff.environment.describe import Environment
from runoff.models.manifest import Manifest, PackageEntry
from runoff.race.candidates import wrong_platform

Why: TypeAlias = tuple[str, str | None]
"""The reason, and what would change it."""


def not_installed(row: BackendRow, environment: Environment) -> Why | None:
    """Why no package of a backend can be opened here, or None."""
    if row.library is None:
        return None
    elsewhere = wrong_platform(row)
    if elsewhere is not None:
        return elsewhere, None
    library = environment.libraries.get(row.library)
    if library is None or library.version is None:
        if library is not None and library.problem:
            return f"{row.title} {library.problem}", None
        return f"{row.title} is not installed", library.install if library else None
    if library.problem:
        return f"{row.title} {library.version} cannot be used: {library.problem}", library.install
    return None


def unfit(entry: PackageEntry, row: BackendRow, environment: Environment, manifest: Manifest) -> Why | None:
    """Why a package that is bound to an environment cannot run in this one, or None."""
    if row.fits is None:
        return None
    found: Why | None = table.load(row.fits)(entry, environment, manifest)
    return found


def unusable(manifest: Manifest, environment: Environment) -> dict[str, Why]:
    """The packages that are bound to an environment and cannot run in this one, by id, with the reasons."""
    found = {}
    for entry in manifest.packages:
        row = table.rows().get(entry.backend)
        if row is None or row.fits is None:
            continue
        reasons = [why for why in (not_installed(row, environment), unfit(entry, row, environment, manifest)) if why]
        if reasons:
            hints = [hint for _, hint in reasons if hint]
            found[entry.id] = ("; ".join(reason for reason, _ in reasons), hints[-1] if hints else None)
    return found


def is_bound(manifest: Manifest) -> bool:
    """Whether a package is bound to an environment, so that it is worth describing this one."""
    rows = table.rows()
    return any(entry.backend in rows and rows[entry.backend].fits is not None for entry in manifest.packages)
