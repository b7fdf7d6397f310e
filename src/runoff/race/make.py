"""What can be made here before a race: for every installed backend the packages that the model still lacks.

Forms that take long to make, such as AOTInductor's, are made when a candidate of theirs is named: see wanted.py.

Knows the table of backends, the environment and the exporter; a package that cannot be made gets a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runoff.backends import table
from runoff.backends.row import BackendRow
from runoff.environment.describe import Environment
from runoff.errors import ExportError, ModelError, RunoffError
from runoff.export.calibration import read_data
from runoff.export.quantize import form_id
from runoff.export.run import ExportOptions, export_package
from runoff.models.folder import ModelFolder
from runoff.race.options import Event, Listener, RaceOptions
from runoff.race.quantize import quantize_forms, quantize_options
from runoff.race.usable import not_installed
from runoff.race.wanted import list_forms, list_wanted
from runoff.race.yardstick import make_yardstick
from runoff.types import Precision


def make_packages(
    folder: ModelFolder, environment: Environment, options: RaceOptions, listener: Listener
) -> tuple[ModelFolder, dict[str, str]]:
    """Make a package for each backend at each precision of the race, fp32 unless others are named.

    Backends whose files are made for one batch get one for each batch size. The packages of candidates that are named
    are made too.

    Args:
        folder: the model; packages are added to it.
        environment: tells which libraries are installed.
        options: which backends, candidates, precisions and batch sizes compete, and on what data.
        listener: told of each export.

    Returns:
        The folder with its new packages, and the ids of those that could not be made with the reason.

    Raises:
        InputError: the data cannot be used to calibrate.
    """
    folder, unmade = _export_wanted(folder, environment, options, listener)
    precisions = options.precisions or ()
    installed = [row.id for row in table.rows().values() if _missing(row, environment) is None]
    if Precision.FP16 in precisions and "onnx" in _competing(installed, options):
        folder = _make_fp16(folder, unmade, listener)
    jobs = []
    for form, batch in list_forms(folder, options):
        missing = _missing(table.row(form.backend), environment)
        if missing is None:
            jobs.append((form, batch))
        elif options.candidates is not None:
            unmade[form_id(folder, form, batch)] = missing
    if not jobs:
        return folder, unmade
    listener(Event("make", "computing what the reference answers"))
    try:
        data = None if options.data is None else read_data(options.data, options.labels)
        yardstick = make_yardstick(folder, data)
    except ExportError as error:
        return folder, unmade | {form_id(folder, *job): _why(error) for job in jobs}
    settings = replace(
        quantize_options(environment, options.search_s, options.contract.max_metric_drop),
        on_step=lambda line: listener(Event("make", line)),
    )
    folder, failed = quantize_forms(folder, jobs, yardstick, options.contract, settings)
    return folder, unmade | {package_id: _why(error) for package_id, error in failed.items()}


def _export_wanted(
    folder: ModelFolder, environment: Environment, options: RaceOptions, listener: Listener
) -> tuple[ModelFolder, dict[str, str]]:
    """Export the packages that no quantiser makes; see `list_wanted`."""
    unmade: dict[str, str] = {}
    for wanted in list_wanted(folder, options):
        missing = _missing(wanted.row, environment) or _elsewhere(wanted.row, options)
        if missing is not None:
            unmade[wanted.package_id] = missing
            continue
        listener(Event("make", f"exporting {wanted.package_id}"))
        try:
            folder = export_package(folder, wanted.format, wanted.precision, ExportOptions(batch=wanted.batch))
        except (ExportError, ModelError) as error:
            unmade[wanted.package_id] = _why(error)
    return folder, unmade


def _make_fp16(folder: ModelFolder, unmade: dict[str, str], listener: Listener) -> ModelFolder:
    listener(Event("make", "exporting onnx-fp16"))
    try:
        return export_package(folder, "onnx", Precision.FP16, ExportOptions())
    except (ExportError, ModelError) as error:
        unmade["onnx-fp16"] = _why(error)
        return folder


def _missing(row: BackendRow, environment: Environment) -> str | None:
    """Why a backend cannot be used here, or None."""
    why = not_installed(row, environment)
    if why is None:
        return None
    return f"{why[0]}: {why[1]}" if why[1] else why[0]


def _elsewhere(row: BackendRow, options: RaceOptions) -> str | None:
    """Why a backend cannot compete on the device of the race, where it drives no CPU that could at least convert."""
    if "cpu" in row.devices or options.device.kind in row.devices:
        return None
    return f"{row.title} does not run on {options.device.kind}; it runs on {', '.join(row.devices)}"


def _competing(installed: Sequence[str], options: RaceOptions) -> list[str]:
    return [name for name in installed if not options.backends or name in options.backends]


def _why(error: RunoffError) -> str:
    hint = f" ({error.hint})" if error.hint and error.hint.startswith("pip install") else ""
    return f"cannot be made: {error.message.splitlines()[0]}{hint}"
