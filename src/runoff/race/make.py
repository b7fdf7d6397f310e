"""What can be made here before a race: for every installed backend the package that the model still lacks.

Forms that take long to make, such as AOTInductor's, are made when a candidate of theirs is named.

Knows the table of backends, the environment and the exporter; a package that cannot be made gets a reason.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from runoff.backends import table
from runoff.backends.table import BackendRow
from runoff.environment.describe import Environment
from runoff.errors import ExportError, ModelError
from runoff.export.plan import STEPS
from runoff.export.run import ExportOptions, export_package
from runoff.models.folder import ModelFolder
from runoff.race.options import Event, Listener
from runoff.types import Precision

_SYSTEMS = {"darwin": "macOS", "win32": "Windows", "linux": "Linux"}


def make_packages(
    folder: ModelFolder,
    environment: Environment,
    backends: Sequence[str] | None,
    listener: Listener,
    candidates: Sequence[str] | None = None,
) -> tuple[ModelFolder, dict[str, str]]:
    """Export an fp32 package for each backend that has none, and the packages of candidates that are named.

    Args:
        folder: the model; packages are added to it.
        environment: tells which libraries are installed.
        backends: ids to make packages for; None means all.
        listener: told of each export.
        candidates: names of candidates, such as `torch-aoti-fp32`.

    Returns:
        The folder with its new packages, and the ids of those that could not be made with the reason.
    """
    unmade: dict[str, str] = {}
    for row, format_id, precision in _wanted(folder, backends, candidates or ()):
        package_id = table.package_id(format_id, precision)
        if not row.runs_on(sys.platform):
            unmade[package_id] = (
                f"{row.title} runs on {' and '.join(_SYSTEMS.get(name, name) for name in row.platforms)} only"
            )
            continue
        library = environment.libraries.get(row.library) if row.library else None
        if row.library is not None and (library is None or library.version is None):
            install = f": {library.install}" if library and library.install else ""
            unmade[package_id] = f"{row.title} is not installed{install}"
            continue
        listener(Event("make", f"exporting {package_id}"))
        try:
            folder = export_package(folder, format_id, precision, ExportOptions())
        except (ExportError, ModelError) as error:
            unmade[package_id] = f"cannot be made: {error.message.splitlines()[0]}"
    return folder, unmade


def _wanted(
    folder: ModelFolder, backends: Sequence[str] | None, candidates: Sequence[str]
) -> list[tuple[BackendRow, str, Precision]]:
    """The packages to make: backend, format and precision."""
    present = {entry.backend for entry in folder.manifest.packages}
    makeable = {step.target_format for step in STEPS}
    wanted = [
        (row, row.formats[0], Precision.FP32)
        for row in table.rows().values()
        if row.id not in present and row.formats[0] in makeable and (not backends or row.id in backends)
    ]
    entries = folder.manifest.packages
    named = {package_of(name) for name in candidates} - {entry.id for entry in entries}
    there = {(entry.format, entry.precision) for entry in entries}
    for step in STEPS:
        row = table.backends_for(step.target_format)[0]
        made = (row, step.target_format, step.target_precision)
        unasked = step.raced and step.source in there and (not backends or row.id in backends)
        asked = table.package_id(step.target_format, step.target_precision) in named
        if (asked or unasked) and step.result not in there and made not in wanted:
            wanted.append(made)
    return wanted


def package_of(candidate: str) -> str:
    """The package that a candidate's name begins with."""
    return candidate.partition("@")[0].partition("#")[0].partition("+")[0]
