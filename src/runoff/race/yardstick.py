"""The yardstick of quantised forms: what the reference answers for the judged rows, and the contract as a verdict.

Knows the exporter's isolated process and the figures of fidelity; quantises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from runoff.errors import ExportError, RaceError
from runoff.export.calibration import Calibration, Rows, find_calibration
from runoff.export.quantize import Judging, compute_outputs
from runoff.export.sensitivity import BROKEN, Verdict
from runoff.models.arrays import Arrays
from runoff.models.evaluation import metric_for
from runoff.models.folder import ModelFolder
from runoff.models.manifest import Fidelity
from runoff.models.staging import staging
from runoff.race.fidelity import Contract, compare, violation
from runoff.types import Precision


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What quantised forms of one model are judged by.

    Attributes:
        reference: its answers for the judged rows.
        against: the package that gave them.
    """

    calibration: Calibration
    reference: Arrays
    against: str
    task: str | None

    def judging(self, precision: Precision, contract: Contract) -> Judging:
        """The judge of forms at a precision under a contract."""
        known = self.calibration.judged.labels is not None and metric_for(self.task) is not None
        return Judging(lambda outputs: self._verdict(outputs, precision, contract), self.task if known else None)

    def metric(self, outputs: Arrays) -> dict[str, float]:
        """The task metric by name; empty without labels or a metric.

        Raises:
            InputError: outputs and labels do not fit each other.
        """
        labels, found = self.calibration.judged.labels, metric_for(self.task)
        return {} if labels is None or found is None else {found[0]: found[1](outputs, labels)}

    def fidelity(self, outputs: Arrays) -> Fidelity:
        """Figures against the reference.

        Raises:
            RaceError: see `compare`.
        """
        found = compare(
            self.reference,
            outputs,
            against=self.against,
            inputs=self.calibration.judged.name,
            classifier=(self.task or "").endswith("classification"),
        )
        return msgspec.structs.replace(found, metric=self.metric(outputs))

    def _verdict(self, outputs: Arrays, precision: Precision, contract: Contract) -> Verdict:
        try:
            found = self.fidelity(outputs)
        except RaceError as error:
            return Verdict(BROKEN, error.message)
        outside = violation(found, precision, contract, self.metric(self.reference))
        figures = {"max_rel": found.max_rel, "centred_cosine": found.centred_cosine, **found.metric}
        return Verdict(1 - found.centred_cosine, outside, figures)


def make_yardstick(folder: ModelFolder, data: Rows | None = None) -> Yardstick:
    """Let the reference answer the rows that forms are judged on; another fp32 package where it cannot run here.

    Raises:
        InputError: the data cannot be used; see `find_calibration`.
        ExportError: no fp32 package can run here.
    """
    calibration = find_calibration(folder, data)
    packages = [folder.reference, *(p for p in folder.packages if p.entry.precision is Precision.FP32)]
    failures = []
    for package in packages:
        try:
            with staging(folder.root) as work:
                outputs = compute_outputs(package, calibration, work)
        except ExportError as error:
            failures.append(error.message)
            continue
        return Yardstick(calibration, outputs, package.id, folder.manifest.task)
    raise ExportError(f"nothing at fp32 to compare with: {'; '.join(dict.fromkeys(failures))}")
