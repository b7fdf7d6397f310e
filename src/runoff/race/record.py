"""What a race found, on disk: one JSON file for each fingerprint, valid only under its own.

`records/<fingerprint>.json` in the model folder holds the finished race; `.part.json` beside it holds a race in
progress, written after every step, so that a race that was killed resumes. Knows no runtime and no arrays.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from runoff.errors import ModelError
from runoff.models.folder import write_atomically
from runoff.models.manifest import Fidelity, PackageEntry
from runoff.race.candidates import Candidate
from runoff.types import Precision

SCHEMA = 1
_KEPT_SAMPLES = 200


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of one candidate.

    Attributes:
        median_ms: the median latency of a run; with several sessions, over the runs of all.
        samples_ms: up to 200 of the latencies, evenly thinned after sorting.
        runs_per_s: runs that several sessions finished in a second together; None for one, whose runs follow each
            other.
    """

    round: int
    num_runs: int
    median_ms: float
    samples_ms: tuple[float, ...]
    runs_per_s: float | None = None

    @property
    def pace_ms(self) -> float:
        """Milliseconds from one finished run to the next: of a single session its latency."""
        return self.median_ms if self.runs_per_s is None else 1000 / self.runs_per_s


class BatchTiming(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every turn of one candidate at one batch size."""

    batch: int
    turns: tuple[Turn, ...]

    @property
    def p50_ms(self) -> float:
        """The median of the medians of the turns: a slow round cannot move it far."""
        return statistics.median(turn.median_ms for turn in self.turns)

    @property
    def pace_ms(self) -> float:
        """Milliseconds from one finished run to the next, the median over the turns; of one session `p50_ms`."""
        return statistics.median(turn.pace_ms for turn in self.turns)

    @property
    def spread(self) -> float:
        """Half the width of the 95 % interval of `pace_ms`, relative to it; from the MAD over the rounds."""
        return relative_spread([turn.pace_ms for turn in self.turns])

    def percentile_ms(self, percent: float) -> float:
        """A percentile over the samples of all turns."""
        samples = sorted(sample for turn in self.turns for sample in turn.samples_ms)
        position = (len(samples) - 1) * percent / 100
        low = int(position)
        high = min(low + 1, len(samples) - 1)
        return samples[low] + (samples[high] - samples[low]) * (position - low)

    @property
    def items_per_s(self) -> float:
        """Rows per second, of all sessions together: at the median latency of one, or at the median pace of several."""
        return self.batch / self.pace_ms * 1000


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a candidate's process was stopped at: resident memory, and seconds without an answer."""

    memory_bytes: int
    silence_s: float


class Entrant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known about one candidate; a step of the race replaces it by a fuller one.

    Attributes:
        package_sha256: the digests of the package's files, joined: the figures are for these files only.
        failure: why it cannot compete at all, such as a crash; None while it can.
        hint: what to do about the failure.
        failed_within: the bounds under which its process failed; a race with wider ones tries it again.
        runs_at: the precision that its session reports.
        facts: what its session reports of itself.
        fidelity: against the reference, on the race's inputs.
        cold_start_s: process start to first output.
        load_s: opening the package, imports included.
        retired: why it was timed for fewer rounds than the others.
        checked_batch: the rows of a run that its fidelity was checked at; larger batches are checked anew.
    """

    candidate: Candidate
    package_sha256: str
    size_bytes: int
    failure: str | None = None
    hint: str | None = None
    failed_within: Bounds | None = None
    runs_at: Precision | None = None
    facts: dict[str, Any] = {}
    fidelity: Fidelity | None = None
    cold_start_s: float | None = None
    load_s: float | None = None
    peak_memory_bytes: int | None = None
    timings: tuple[BatchTiming, ...] = ()
    retired: str | None = None
    checked_batch: int | None = None

    def timing(self, batch: int) -> BatchTiming | None:
        """The timing at a batch size, or None when it was not timed there."""
        return next((timing for timing in self.timings if timing.batch == batch and timing.turns), None)


class RaceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a race measured: figures of races with other settings are not comparable.

    Attributes:
        batches: batch sizes that were timed.
        inputs: where the inputs came from: a file's digest, or the name and seed of a generator.
        samples: input rows compared for fidelity.
    """

    batches: tuple[int, ...]
    inputs: str
    samples: int


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A race, finished or in progress.

    Attributes:
        facts: the environment facts behind the fingerprint, to say later what changed.
        raced_at: UTC time of the last step, ISO 8601.
        reference_metric: the task metric of the reference on the labelled data, by name.
        unmade: packages that could not be made here, by id, with the reason.
    """

    schema: int
    fingerprint: str
    facts: dict[str, str]
    model_sha256: str
    settings: RaceSettings
    raced_at: str
    entrants: tuple[Entrant, ...] = ()
    reference_metric: dict[str, float] = {}
    unmade: dict[str, str] = {}
    notes: tuple[str, ...] = ()

    def entrant(self, candidate_id: str) -> Entrant | None:
        """The entrant with that candidate id, or None."""
        return next((found for found in self.entrants if found.candidate.id == candidate_id), None)

    def with_entrant(self, entrant: Entrant) -> Record:
        """A record in which this entrant replaces the one with the same candidate id, or is added."""
        others = [old for old in self.entrants if old.candidate.id != entrant.candidate.id]
        places = {old.candidate.id: place for place, old in enumerate(self.entrants)}
        others.insert(places.get(entrant.candidate.id, len(others)), entrant)
        return msgspec.structs.replace(self, entrants=tuple(others))


def package_sha256(entry: PackageEntry) -> str:
    """What ties a measurement to the files of a package."""
    return "+".join(file.sha256 for file in entry.files)


def relative_spread(medians_ms: Sequence[float]) -> float:
    """Half the width of the 95 % interval of a median of values, relative to it.

    The standard error of a median is about 1.253 times that of a mean; 1.4826 MAD estimates the deviation without
    letting one disturbed round decide it.
    """
    centre = statistics.median(medians_ms)
    if len(medians_ms) < 2:
        return 1.0
    deviation = 1.4826 * statistics.median(abs(value - centre) for value in medians_ms)
    return float(1.96 * 1.253 * deviation / len(medians_ms) ** 0.5 / centre)


def thin(samples_ms: Sequence[float]) -> tuple[float, ...]:
    """At most 200 of the samples, sorted and evenly spaced, the extremes kept."""
    ordered = sorted(samples_ms)
    if len(ordered) <= _KEPT_SAMPLES:
        return tuple(ordered)
    step = (len(ordered) - 1) / (_KEPT_SAMPLES - 1)
    return tuple(ordered[round(index * step)] for index in range(_KEPT_SAMPLES))


def records_folder(root: Path) -> Path:
    """The folder of all records in a model folder."""
    return root / "records"


def record_path(root: Path, fingerprint: str) -> Path:
    """Where the record of a fingerprint lies in a model folder."""
    return records_folder(root) / f"{fingerprint[:16]}.json"


def part_path(root: Path, fingerprint: str) -> Path:
    """Where a race in progress keeps what it has found so far."""
    return records_folder(root) / f"{fingerprint[:16]}.part.json"


def read_record(path: Path) -> Record | None:
    """The record at a path; None when there is none or it was written by another version of the format.

    A damaged record is no loss that should stop anyone: the race runs again.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return record if record.schema == SCHEMA else None


def write_record(path: Path, record: Record) -> None:
    """Write a record atomically.

    Raises:
        ModelError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror}") from error
    write_atomically(path, msgspec.json.encode(record) + b"\n")


def other_records(root: Path, fingerprint: str) -> Iterator[Record]:
    """Finished records of other fingerprints, newest first."""
    paths = [path for path in records_folder(root).glob("*.json") if not path.name.endswith(".part.json")]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        record = read_record(path)
        if record is not None and record.fingerprint != fingerprint:
            yield record
