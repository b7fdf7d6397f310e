"""What can be made here before a race: for every installed backend the packages that the model still lacks.

Knows the table of backends, the environment and the exporter; a package that cannot be made gets a reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runoff.backends import table
from runoff.backends.table import BackendRow
from runoff.environment.describe import Environment
from runoff.errors import ExportError, ModelError, RunoffError
from runoff.export.calibration import read_data
from runoff.export.forms import forms_of
from runoff.export.plan import STEPS
from runoff.export.quantize import QuantizeOptions, form_id
from runoff.export.run import ExportOptions, export_package
from runoff.models.dimensions import batch_dimension
from runoff.models.folder import ModelFolder
from runoff.race.options import Event, Listener, RaceOptions
from runoff.race.quantize import needs_reduced_range, quantize_forms
from runoff.race.yardstick import make_yardstick
from runoff.types import Precision


def make_packages(
    folder: ModelFolder, environment: Environment, options: RaceOptions, listener: Listener
) -> tuple[ModelFolder, dict[str, str]]:
    """Make a package for each backend at each precision of the race, fp32 unless others are named.

    Backends whose files are made for one batch get one for each batch size.

    Args:
        folder: the model; packages are added to it.
        environment: tells which libraries are installed.
        options: which backends, precisions and batch sizes compete, and on what data.
        listener: told of each export.

    Returns:
        The folder with its new packages, and the ids of those that could not be made with the reason.

    Raises:
        InputError: the data cannot be used to calibrate.
    """
    folder, unmade = _make_fp32(folder, environment, options, listener)
    precisions = options.precisions or ()
    installed = [row.id for row in table.rows().values() if _missing(row, environment) is None]
    if Precision.FP16 in precisions and "onnx" in _competing(installed, options):
        folder = _make_fp16(folder, unmade, listener)
    forms = [form for form in forms_of(precisions) if form.backend in _competing(installed, options)]
    lacking = [form for form in forms if folder.manifest.package(form_id(folder, form)) is None]
    if not lacking:
        return folder, unmade
    listener(Event("make", "computing what the reference answers"))
    try:
        data = None if options.data is None else read_data(options.data, options.labels)
        yardstick = make_yardstick(folder, data)
    except ExportError as error:
        return folder, unmade | {form_id(folder, form): _why(error) for form in lacking}
    settings = QuantizeOptions(
        max_metric_drop=options.contract.max_metric_drop,
        reduce_range=needs_reduced_range(environment),
        search_s=options.search_s,
        on_step=lambda line: listener(Event("make", line)),
    )
    folder, failed = quantize_forms(folder, lacking, yardstick, options.contract, settings)
    return folder, unmade | {package_id: _why(error) for package_id, error in failed.items()}


def _make_fp32(
    folder: ModelFolder, environment: Environment, options: RaceOptions, listener: Listener
) -> tuple[ModelFolder, dict[str, str]]:
    """Export an fp32 package for each backend that has none; one for each batch where they are made for one."""
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
        if not _is_named(package_id, options.candidates):
            continue
        missing = _missing(row, environment)
        if missing is not None:
            unmade[package_id] = missing
            continue
        listener(Event("make", f"exporting {package_id}"))
        try:
            folder = export_package(folder, row.formats[0], Precision.FP32, ExportOptions(batch=batch))
        except (ExportError, ModelError) as error:
            unmade[package_id] = _why(error)
    return folder, unmade


def _is_named(package_id: str, candidates: Sequence[str] | None) -> bool:
    """Whether a candidate of this package competes; making the others would only cost time."""
    return candidates is None or any(re.split("[+#@]", name)[0] == package_id for name in candidates)


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


def _make_fp16(folder: ModelFolder, unmade: dict[str, str], listener: Listener) -> ModelFolder:
    listener(Event("make", "exporting onnx-fp16"))
    try:
        return export_package(folder, "onnx", Precision.FP16, ExportOptions())
    except (ExportError, ModelError) as error:
        unmade["onnx-fp16"] = _why(error)
        return folder


def _missing(row: BackendRow, environment: Environment) -> str | None:
    """Why a backend cannot be used here, or None."""
    library = environment.libraries.get(row.library) if row.library else None
    if row.library is None or (library is not None and library.version is not None):
        return None
    install = f": {library.install}" if library and library.install else ""
    return f"{row.title} is not installed{install}"


def _competing(installed: Sequence[str], options: RaceOptions) -> list[str]:
    return [name for name in installed if not options.backends or name in options.backends]


def _why(error: RunoffError) -> str:
    hint = f" ({error.hint})" if error.hint and error.hint.startswith("pip install") else ""
    return f"cannot be made: {error.message.splitlines()[0]}{hint}"
