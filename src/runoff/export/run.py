"""Exporting: plan the path, run its steps in isolated processes, add what they made to the model folder.

Knows no runtime and no format. The folder changes only when a step is done and its result was opened; a
step that crashes, hangs, uses too much memory or is killed leaves the folder as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from runoff import settings
from runoff.backends import table
from runoff.child import RemoteError
from runoff.environment import javascript
from runoff.environment.libraries import is_importable
from runoff.errors import BackendNotInstalled, ChildFailed, ExportError
from runoff.export.conversions import STEPS, State, Step
from runoff.export.isolated import plain, worker
from runoff.export.plan import Available, plan
from runoff.export.step import DEFAULT_OPSET, Made, StepOptions
from runoff.models.configuration import known_bounds
from runoff.models.dimensions import batch_dimension
from runoff.models.folder import ModelFolder, Package, add_package, describe_tree
from runoff.models.manifest import Batch, MadeBy, PackageEntry
from runoff.models.staging import staging
from runoff.types import Precision

_QUANTISED = (Precision.INT8, Precision.INT4)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How to export.

    Attributes:
        batch: `dynamic`, or the one batch size to make the package for; None: as the reference, and 1 in a format that
            takes no dynamic one.
        opset: ONNX operator set.
        sizes: sizes of named dimensions other than the batch, such as {"sequence": 128}: of the example that a model is
            captured with, and the only ones that a format without dynamic dimensions takes.
        force: make it again although it is there.
        timeout_s: seconds for one step; `RUNOFF_WORKER_TIMEOUT_S` unless given.
        max_memory_bytes: resident memory at which a converter is stopped; no limit unless given.
        on_step: called with one line before each step.
        steps: the conversions to plan with; a program can add its own.
    """

    batch: Batch | None = None
    opset: int = DEFAULT_OPSET
    sizes: dict[str, int] | None = None
    force: bool = False
    timeout_s: float | None = None
    max_memory_bytes: int | None = None
    on_step: Callable[[str], None] | None = None
    steps: Sequence[Step] = STEPS


def export_package(
    folder: ModelFolder, format_id: str, precision: Precision, options: ExportOptions | None = None
) -> ModelFolder:
    """Make the model in another format, and add it and what was made on the way as packages.

    Args:
        folder: the model; it must be writable.
        format_id: `onnx`, `openvino`, `torch-export`, `litert`, `executorch`.
        precision: what the new package computes in.
        options: see `ExportOptions`.

    Returns:
        the folder as it is now; as it was when the package is there already.

    Raises:
        ExportError: no path leads there, a library is missing, or a converter failed, crashed, hung or used
            too much memory; the folder is as it was, but for earlier steps' packages.
        ModelError: the folder cannot be written.
    """
    options = options or ExportOptions()
    batch = batch_of(folder, format_id, options.batch)
    present = find_package(folder, format_id, precision, batch)
    if present is not None and (not options.force or present.id == folder.manifest.reference):
        return folder
    path = plan(
        _available(folder, (format_id, precision), batch),
        (format_id, precision),
        _installed(options.steps),
        options.steps,
    )
    source = folder.package(path.package_id)
    _fetch_javascript(path.steps, options)
    for step in path.steps:
        if options.on_step:
            options.on_step(str(step))
        folder, package_id = _run_step(folder, source, step, batch, options)
        source = folder.package(package_id)
    return folder


def _fetch_javascript(steps: Sequence[Step], options: ExportOptions) -> None:
    """Bring the JavaScript packages of the steps into the user cache, before any of them runs."""
    for package_set in dict.fromkeys(step.javascript for step in steps if step.javascript):
        try:
            if options.on_step and not javascript.packages_folder(package_set).is_dir():
                options.on_step(f"fetching the JavaScript packages of {package_set} with npm, once, into the cache")
            javascript.install_packages(package_set)
        except BackendNotInstalled as error:
            raise ExportError(error.message, hint=error.hint) from error


def batch_of(folder: ModelFolder, format_id: str, wanted: Batch | None) -> Batch:
    """The batch to make a package for; see `ExportOptions.batch`.

    Raises:
        ExportError: a dynamic one was asked for in a format that has none.
    """
    own = folder.reference.entry.batch
    static = any(row.static_batch for row in table.backends_for(format_id))
    if not static or batch_dimension(folder.manifest.signature) is None:
        return own if wanted is None else wanted
    if wanted == "dynamic":
        raise ExportError(
            f"packages in the format {format_id} are made for one batch size each", hint="ask for one with batch=N"
        )
    if wanted is not None:
        return wanted
    return own if own != "dynamic" else 1


def obstacle(folder: ModelFolder, format_id: str, precision: Precision) -> ExportError | None:
    """Why a package cannot be made from what is there with what is installed, or None."""
    batch = batch_of(folder, format_id, None)
    if find_package(folder, format_id, precision, batch) is not None:
        return None
    wanted = (format_id, precision)
    try:
        plan(_available(folder, wanted, batch), wanted, _installed(STEPS))
    except ExportError as error:
        return error
    return None


def find_package(folder: ModelFolder, format_id: str, precision: Precision, batch: Batch) -> Package | None:
    """The package with that format, precision and batch, or None.

    Of several quantised ones it is the one with the plain id, which a conversion makes, such as `litert-int8`.
    """
    wanted = (format_id, precision, batch)
    found = [p for p in folder.packages if (p.entry.format, p.entry.precision, p.entry.batch) == wanted]
    if precision in _QUANTISED:
        plain_id = table.package_id(format_id, precision)
        found = [package for package in found if package.id in (plain_id, f"{plain_id}-b{batch}")]
    return found[0] if found else None


def _available(folder: ModelFolder, wanted: State, batch: Batch) -> list[Available]:
    """Packages that a path may start from, the reference first: of that batch, or dynamic and so of any.

    A package in the wanted format is no start: it is of another batch, or is to be made again.
    """
    reference = folder.manifest.reference
    packages = sorted(folder.packages, key=lambda package: package.id != reference)
    fitting = [package for package in packages if package.entry.batch in (batch, "dynamic")]
    if not fitting:
        made_for = folder.reference.entry.batch
        raise ExportError(
            f"{folder.root} has only packages made for batch {made_for}, asked for batch {batch}",
            hint=f"ask for batch={made_for}, or package the model again with another batch",
        )
    found = [Available(package.id, package.entry.format, package.entry.precision) for package in fitting]
    starts = [package for package in found if (package.format, package.precision) != wanted]
    if not starts:
        raise ExportError(
            f"{folder.root} has nothing but {wanted[0]} at {wanted[1].value}, from which no other batch can be made",
            hint="leave the batch as it is, or start from the model's source form",
        )
    return starts


def _installed(steps: Sequence[Step]) -> set[str]:
    """Which of the steps' libraries can be imported; looked up, not imported."""
    names = {library for step in steps for library in step.libraries}
    return {name for name in names if is_importable(name)}


def _run_step(
    folder: ModelFolder, source: Package, step: Step, batch: Batch, options: ExportOptions
) -> tuple[ModelFolder, str]:
    """Run one step and add its result; answers the folder and the new package's id."""
    sizes = {**known_bounds(folder)[0], **(options.sizes or {})}
    step_options = StepOptions(step.target_precision, batch, options.opset, sizes)
    package_id = _package_id(folder, step, batch)
    with staging(folder.root) as staged:
        entry = _convert(folder, source, step, step_options, (package_id, staged, options))
        return add_package(folder.root, entry, staged), package_id


def _convert(
    folder: ModelFolder,
    source: Package,
    step: Step,
    step_options: StepOptions,
    place: tuple[str, Path, ExportOptions],
) -> PackageEntry:
    """The isolated part: convert into the staged folder, then open the result and hold it against the signature."""
    package_id, staged, options = place
    timeout_s = options.timeout_s if options.timeout_s is not None else settings.worker_timeout_s()
    try:
        with worker(options.max_memory_bytes) as child:
            answer = child.call(
                "export",
                timeout_s,
                package=plain(source),
                target=step.target,
                destination=str(staged),
                options=msgspec.to_builtins(step_options),
            )
            made = msgspec.convert(answer, Made)
            entry = PackageEntry(
                id=package_id,
                backend=_backend(step.target_format),
                format=step.target_format,
                precision=step.target_precision,
                files=describe_tree(staged, staged, made.main_file),
                batch=step_options.batch,
                requires=made.requires,
                made_by=MadeBy(made.tool, source.id, made.versions, made.details),
            )
            child.call(
                "check", timeout_s, package=plain(Package(staged, entry, source.signature)), **golden_files(folder)
            )
    except (ChildFailed, RemoteError) as error:
        why = f"the converter {error.message}" if isinstance(error, ChildFailed) else error.message
        raise ExportError(f"{source.id} to {package_id}: {why}", hint=error.hint) from error
    return entry


def golden_files(folder: ModelFolder) -> dict[str, Any]:
    """The paths of the golden pair, as the worker's `check` takes them."""
    golden = folder.manifest.golden
    if golden is None:
        return {"inputs": None, "outputs": None}
    return {"inputs": str(folder.file(golden.inputs)), "outputs": str(folder.file(golden.outputs))}


def _backend(format_id: str) -> str:
    return table.backends_for(format_id)[0].id


def _package_id(folder: ModelFolder, step: Step, batch: Batch) -> str:
    """`onnx-fp32`, or `onnx-fp32-b8` for one batch; never the id of a package that this one does not replace."""
    suffix = "" if batch == folder.reference.entry.batch else f"-b{batch}"
    tail = f"{step.target_precision.value}{suffix}"
    wanted = (step.target_format, step.target_precision, batch)
    for candidate in (f"{table.package_stem(step.target_format)}-{tail}", f"{step.target_format}-{tail}"):
        old = folder.manifest.package(candidate)
        if old is None or ((old.format, old.precision, old.batch) == wanted and candidate != folder.manifest.reference):
            return candidate
    number = 2
    while folder.manifest.package(f"{step.target_format}-{tail}-{number}"):
        number += 1
    return f"{step.target_format}-{tail}-{number}"
