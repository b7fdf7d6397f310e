"""Which packages a race exports beforehand: what the table of backends asks for, and what candidates name.

Pure: makes nothing, and knows neither the machine nor what is installed. Quantised forms are not among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from runoff.backends import table
from runoff.backends.row import BackendRow
from runoff.export.conversions import STEPS
from runoff.models.dimensions import batch_dimension
from runoff.models.folder import ModelFolder
from runoff.race.options import RaceOptions
from runoff.types import Precision

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


def package_of(candidate: str) -> str:
    """The package that a candidate's name begins with: `litert-fp32-b8` of `litert-fp32-b8@4`."""
    return candidate.partition("@")[0].partition("#")[0].partition("+")[0]


def _for_backends(folder: ModelFolder, options: RaceOptions) -> Iterator[Wanted]:
    makeable = {step.target_format for step in STEPS}
    for row in table.rows().values():
        unasked = row.variants[0].opt_in and not options.backends
        if row.formats[0] in makeable and _competes(row, options) and not unasked:
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
    there = {(entry.format, entry.precision, entry.batch) for entry in entries}
    makeable = {table.package_id(*step.result): step for step in STEPS}
    own = folder.reference.entry.batch
    for name in dict.fromkeys(map(package_of, options.candidates or ())):
        if any(entry.id == name for entry in entries):
            continue
        parts = _ONE_BATCH.fullmatch(name)
        usual, batch = (parts[1], int(parts[2])) if parts else (name, None)
        step = makeable.get(usual)
        if step is not None and (*step.result, batch or own) not in there:
            row = table.backends_for(step.target_format)[0]
            yield Wanted(row, step.target_format, step.target_precision, batch)


def _competes(row: BackendRow, options: RaceOptions) -> bool:
    return not options.backends or row.id in options.backends


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
