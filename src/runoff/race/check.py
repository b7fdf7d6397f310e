"""The check before the timing: open each candidate in its own process and hold its outputs against the reference's.

Knows contestants and figures; times nothing but the cold start. A candidate that fails keeps its reason.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runoff.child import RemoteError
from runoff.errors import ChildFailed, ModelError, RaceError, RunoffError
from runoff.models.arrays import Array, read_npz
from runoff.models.folder import ModelFolder, Package
from runoff.models.manifest import Fidelity
from runoff.race.candidates import Candidate
from runoff.race.contestant import Contestant
from runoff.race.fidelity import compare
from runoff.race.inputs import RaceInputs, write_batch, write_padded
from runoff.race.record import Bounds, Entrant, package_sha256
from runoff.types import Precision

FAILURES = (ChildFailed, RemoteError, RaceError, ModelError)


@dataclass(slots=True)
class Checker:
    """Checks candidates against one reference.

    Attributes:
        folder: the model.
        inputs: what is compared.
        work: a folder for .npz files.
        rows: rows of one run, the largest batch that is raced: what is checked is the shape that is timed.
        first_batch: rows of the first run, which ends the cold start.
        bounds: where a process is stopped.
        reference: the reference's outputs, set by the first check or given from the golden pair.
    """

    folder: ModelFolder
    inputs: RaceInputs
    work: Path
    rows: int
    first_batch: int
    bounds: Bounds
    reference: dict[str, Array] | None = None

    def check(self, candidate: Candidate) -> tuple[Entrant, Contestant | None]:
        """Open and compare; answers what was found, and the process while it still lives."""
        package = self.folder.package(candidate.package_id)
        entrant = Entrant(
            candidate, package_sha256(package.entry), size_bytes=sum(file.bytes for file in package.entry.files)
        )
        try:
            package.verify()
        except ModelError as error:
            return disqualified(entrant, error, self.bounds), None
        contestant = Contestant(package, candidate, self.bounds)
        try:
            return self._measure(package, entrant, contestant), contestant
        except FAILURES as error:
            contestant.close()
            return disqualified(entrant, error, self.bounds), None
        except BaseException:
            contestant.close()
            raise

    def _measure(self, package: Package, entrant: Entrant, contestant: Contestant) -> Entrant:
        load_s, facts = contestant.open()
        first_batch = _rows_for(package, self.first_batch)
        contestant.first_run(write_batch(self.inputs, first_batch, self.work / f"batch-{first_batch}.npz"))
        cold_start_s = time.perf_counter() - contestant.started_s
        outputs = self.outputs(package, contestant)
        if self.reference is None:
            self.reference = outputs
        return msgspec.structs.replace(
            entrant,
            load_s=load_s,
            cold_start_s=cold_start_s,
            facts=facts,
            runs_at=runs_at(facts, package),
            fidelity=self.fidelity(outputs),
            peak_memory_bytes=contestant.peak_memory_bytes(),
            checked_batch=_rows_for(package, self.rows),
        )

    def outputs(self, package: Package, contestant: Contestant) -> dict[str, Array]:
        """The outputs for every input row."""
        rows = _rows_for(package, self.rows)
        inputs = write_padded(self.inputs, rows, self.work / f"padded-{rows}.npz")
        answer = self.work / "outputs.npz"
        contestant.compute(inputs, answer, rows, self.inputs.batched)
        outputs = read_npz(answer)
        if not self.inputs.batched:
            return outputs
        return {name: array[: self.inputs.samples] for name, array in outputs.items()}

    def fidelity(self, outputs: dict[str, Array]) -> Fidelity:
        """Figures against the reference, and the task metric where there are labels."""
        if self.reference is None:
            raise RaceError("there is no reference to compare with")
        found = compare(
            self.reference,
            outputs,
            against=self.folder.manifest.reference,
            inputs=self.inputs.name,
            classifier=(self.folder.manifest.task or "").endswith("classification"),
        )
        if self.inputs.metric is None or self.inputs.labels is None:
            return found
        name, metric = self.inputs.metric
        return msgspec.structs.replace(found, metric={name: metric(outputs, self.inputs.labels)})


def disqualified(entrant: Entrant, error: Exception, bounds: Bounds) -> Entrant:
    """The entrant with the reason for which it cannot compete, and the bounds where they may be that reason."""
    within = bounds if isinstance(error, ChildFailed) else None
    hint = error.hint if isinstance(error, RunoffError) else None
    return msgspec.structs.replace(entrant, failure=_reason(error), hint=hint, failed_within=within)


def _reason(error: Exception) -> str:
    message = error.message if isinstance(error, RunoffError) else str(error)
    return " ".join(message.split())[:500]


def _rows_for(package: Package, rows: int) -> int:
    return package.entry.batch if isinstance(package.entry.batch, int) else rows


def runs_at(facts: Mapping[str, object], package: Package) -> Precision:
    """The precision that the session says it runs at, else the package's."""
    try:
        return Precision(str(facts.get("precision")))
    except ValueError:
        return package.entry.precision
