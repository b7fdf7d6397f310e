"""What can be made here before a race: for every installed backend the package that the model still lacks.

Knows the table of backends, the environment and the exporter; a package that cannot be made gets a reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from runoff.backends import table
from runoff.backends.table import BackendRow
from runoff.environment.describe import Environment
from runoff.errors import ExportError, ModelError
from runoff.export.plan import STEPS
from runoff.export.run import ExportOptions, export_package
from runoff.models.dimensions import batch_dimension
from runoff.models.folder import ModelFolder
from runoff.race.options import Event, Listener, RaceOptions
from runoff.types import Precision


def make_packages(
    folder: ModelFolder, environment: Environment, options: RaceOptions, listener: Listener
) -> tuple[ModelFolder, dict[str, str]]:
    """Export an fp32 package for each backend that has none; one for each batch size where they are made for one.

    Args:
        folder: the model; packages are added to it.
        environment: tells which libraries are installed.
        options: its `backends` and `batches` say what to make.
        listener: told of each export.

    Returns:
        The folder with its new packages, and the ids of those that could not be made with the reason.
    """
    unmade: dict[str, str] = {}
    makeable = {step.target_format for step in STEPS}
    wanted = [
        (row, batch)
        for row in table.rows().values()
        if row.formats[0] in makeable and (not options.backends or row.id in options.backends)
        for batch in _missing_batches(folder, row, options.batches)
    ]
    for row, batch in wanted:
        package_id = f"{row.id}-fp32" if batch is None else f"{row.id}-fp32-b{batch}"
        library = environment.libraries.get(row.library) if row.library else None
        if row.library is not None and (library is None or library.version is None):
            install = f": {library.install}" if library and library.install else ""
            unmade[package_id] = f"{row.title} is not installed{install}"
            continue
        listener(Event("make", f"exporting {package_id}"))
        try:
            folder = export_package(folder, row.formats[0], Precision.FP32, ExportOptions(batch=batch))
        except (ExportError, ModelError) as error:
            unmade[package_id] = f"cannot be made: {error.message.splitlines()[0]}"
    return folder, unmade


def _missing_batches(folder: ModelFolder, row: BackendRow, batches: Sequence[int]) -> list[int | None]:
    """The batch sizes to make packages of a backend for; None stands for the batch of the reference."""
    present = {entry.batch for entry in folder.manifest.packages if entry.backend == row.id}
    one_for_all = (
        not row.static_batch
        or folder.reference.entry.batch != "dynamic"
        or batch_dimension(folder.manifest.signature) is None
    )
    if one_for_all or "dynamic" in present:
        return [] if present else [None]
    return [batch for batch in batches if batch not in present]
