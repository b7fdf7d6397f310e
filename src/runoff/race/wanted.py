"""Which packages a race makes beforehand: what the table of backends asks for, and what precisions or candidates name.

Pure: makes nothing, and does not know the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from runoff.backends import table
from runoff.backends.row import BackendRow
from runoff.export.conversions import STEPS
from runoff.export.forms import FORMS, Form
from runoff.export.quantize import form_id
from runoff.models.dimensions import batch_dimension
from runoff.models.folder import ModelFolder
from runoff.race.options import RaceOptions
from runoff.types import Precision

_QUANTISED = (Precision.INT8, Precision.INT4)
_ONE_BATCH = re.compile(r"(.+)-b([1-9]\d*)")


class Wanted(msgspec.Struct, frozen=True):
    """A package to make.

    Attributes:
        row: the backend that it is for.
        batch: the one batch size that it is made for; None means the batch of the reference.
    """

    row: BackendRow
    format: str
    precision: Precision
    batch: int | None = None

    @property
    def package_id(self) -> str:
        """The id that the exporter gives it, such as `onnx-fp32` or `litert-fp32-b8`."""
        usual = table.package_id(self.format, self.precision)
        return usual if self.batch is None else f"{usual}-b{self.batch}"


def list_wanted(folder: ModelFolder, options: RaceOptions) -> list[Wanted]:
    """The packages to export, each once: those of the named candidates, where some are named.

    Otherwise one at fp32 for each backend that has none, in the order of the table, and what the exporter's steps offer
    a race unasked. Backends whose files are made for one batch get one for each batch size of the race.
    """
    usual = (*_for_backends(folder, options), *_offered(folder, options))
    found = usual if options.candidates is None else tuple(_named(folder, options))
    return list({wanted.package_id: wanted for wanted in found}.values())


def name_batches(folder: ModelFolder, options: RaceOptions) -> RaceOptions:
    """The options with each named candidate that is made for one batch size named with those of the race.

    `litert-int8@2` becomes `litert-int8-b1@2` where the model has a dynamic batch and batch 1 is raced.
    """
    if options.candidates is None or not _takes_any_batch(folder):
        return options
    static = {
        *(table.package_id(*step.result) for step in STEPS if _is_static(step.target_format)),
        *(form.id for form in FORMS if _is_static(form.format)),
    }
    names: list[str] = []
    for name in options.candidates:
        package_id = package_of(name)
        if package_id in static and folder.manifest.package(package_id) is None:
            names += [f"{package_id}-b{batch}{name[len(package_id) :]}" for batch in options.batches]
        else:
            names.append(name)
    return msgspec.structs.replace(options, candidates=tuple(names))


def list_forms(folder: ModelFolder, options: RaceOptions) -> list[tuple[Form, int | None]]:
    """The quantised forms that the model lacks, each with its batch size as `quantize_package` takes it.

    Those of the named candidates, where some are named, else those at the named precisions, of backends that compete;
    in formats made for one batch size, one for each of the race.
    """
    usual = _named_forms if options.candidates is not None else _forms_at
    return [job for job in usual(folder, options) if folder.manifest.package(form_id(folder, *job)) is None]


def _forms_at(folder: ModelFolder, options: RaceOptions) -> Iterator[tuple[Form, int | None]]:
    for form in FORMS:
        if form.precision in (options.precisions or ()) and _competes(table.row(form.backend), options):
            one_each = _is_static(form.format) and _takes_any_batch(folder)
            yield from ((form, batch) for batch in (options.batches if one_each else (None,)))


def _named_forms(folder: ModelFolder, options: RaceOptions) -> Iterator[tuple[Form, int | None]]:
    forms = {form.id: form for form in FORMS}
    for name in dict.fromkeys(map(package_of, options.candidates or ())):
        parts = _ONE_BATCH.fullmatch(name)
        form = forms.get(parts[1] if parts else name)
        if form is not None and _competes(table.row(form.backend), options):
            yield form, int(parts[2]) if parts else None


def package_of(candidate: str) -> str:
    """The package that a candidate's name begins with: `litert-fp32-b8` of `litert-fp32-b8@4`."""
    return candidate.partition("@")[0].partition("#")[0].partition("+")[0]


def _for_backends(folder: ModelFolder, options: RaceOptions) -> Iterator[Wanted]:
    makeable = {step.target_format for step in STEPS}
    for row in table.rows().values():
        if row.formats[0] in makeable and _competes(row, options):
            for batch in _missing_batches(folder, row, options.batches):
                yield Wanted(row, row.formats[0], Precision.FP32, batch)


def _offered(folder: ModelFolder, options: RaceOptions) -> Iterator[Wanted]:
    there = {(entry.format, entry.precision) for entry in folder.manifest.packages}
    for step in STEPS:
        row = table.backends_for(step.target_format)[0]
        asked = _competes(row, options) and step.target_precision in (options.precisions or (Precision.FP32,))
        if step.raced and asked and step.source in there and step.result not in there:
            yield Wanted(row, step.target_format, step.target_precision)


def _named(folder: ModelFolder, options: RaceOptions) -> Iterator[Wanted]:
    entries = folder.manifest.packages
    # Several quantised packages may share a format and a precision: only their ids tell them apart.
    there = {(entry.format, entry.precision, entry.batch) for entry in entries if entry.precision not in _QUANTISED}
    makeable = {table.package_id(*step.result): step for step in STEPS}
    forms = {form.id for form in FORMS}
    own = folder.reference.entry.batch
    for name in dict.fromkeys(map(package_of, options.candidates or ())):
        if any(entry.id == name for entry in entries):
            continue
        parts = _ONE_BATCH.fullmatch(name)
        usual, batch = (parts[1], int(parts[2])) if parts else (name, None)
        step = None if usual in forms else makeable.get(usual)
        if step is not None and (*step.result, batch or own) not in there:
            row = table.backends_for(step.target_format)[0]
            yield Wanted(row, step.target_format, step.target_precision, batch)


def _competes(row: BackendRow, options: RaceOptions) -> bool:
    return row.id in options.backends if options.backends else not row.opt_in


def _missing_batches(folder: ModelFolder, row: BackendRow, batches: Sequence[int]) -> list[int | None]:
    """The batch sizes to make packages of a backend for; None stands for the batch of the reference."""
    present = {entry.batch for entry in folder.manifest.packages if entry.backend == row.id}
    if not (row.static_batch and _takes_any_batch(folder)) or "dynamic" in present:
        return [] if present else [None]
    return [batch for batch in batches if batch not in present]


def _is_static(format_id: str) -> bool:
    """Whether packages in a format are made for one batch size each."""
    return any(row.static_batch for row in table.backends_for(format_id))


def _takes_any_batch(folder: ModelFolder) -> bool:
    return folder.reference.entry.batch == "dynamic" and batch_dimension(folder.manifest.signature) is not None
