"""What can be made here before a race: for every installed backend the package that the model still lacks.

Knows the table of backends, the environment and the exporter; a package that cannot be made gets a reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from runoff.backends import table
from runoff.environment.describe import Environment
from runoff.errors import ExportError, ModelError
from runoff.export.plan import STEPS
from runoff.export.run import ExportOptions, export_package
from runoff.models.folder import ModelFolder
from runoff.race.options import Event, Listener
from runoff.types import Precision


def make_packages(
    folder: ModelFolder, environment: Environment, backends: Sequence[str] | None, listener: Listener
) -> tuple[ModelFolder, dict[str, str]]:
    """Export an fp32 package for each backend that has none.

    Args:
        folder: the model; packages are added to it.
        environment: tells which libraries are installed.
        backends: ids to make packages for; None means all.
        listener: told of each export.

    Returns:
        The folder with its new packages, and the ids of those that could not be made with the reason.
    """
    unmade: dict[str, str] = {}
    present = {entry.backend for entry in folder.manifest.packages}
    makeable = {step.target_format for step in STEPS}
    wanted = [
        row
        for row in table.rows().values()
        if row.id not in present and row.formats[0] in makeable and (not backends or row.id in backends)
    ]
    for row in wanted:
        package_id = f"{row.id}-fp32"
        library = environment.libraries.get(row.library) if row.library else None
        if row.library is not None and (library is None or library.version is None):
            install = f": {library.install}" if library and library.install else ""
            unmade[package_id] = f"{row.title} is not installed{install}"
            continue
        listener(Event("make", f"exporting {package_id}"))
        try:
            folder = export_package(folder, row.formats[0], Precision.FP32, ExportOptions())
        except (ExportError, ModelError) as error:
            unmade[package_id] = f"cannot be made: {error.message.splitlines()[0]}"
    return folder, unmade
