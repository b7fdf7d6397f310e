"""The record in the making: kept in memory, written to disk after every step, so that a killed race resumes.

Knows where records lie and when an old one still holds; measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from runoff.environment.describe import Environment, changed_facts
from runoff.models.folder import ModelFolder
from runoff.race.record import (
    SCHEMA,
    BatchTiming,
    Entrant,
    RaceSettings,
    Record,
    other_records,
    package_sha256,
    part_path,
    read_record,
    record_path,
    write_record,
)


class Ledger:
    """The record of the race that runs now."""

    def __init__(self, root: Path, record: Record) -> None:
        self._root = root
        self.record = record

    def put(self, entrant: Entrant) -> None:
        """Add or replace an entrant and save."""
        self.change(lambda record: record.with_entrant(entrant))

    def change(self, change: Callable[[Record], Record]) -> None:
        """Change the record and save it as a race in progress."""
        self.record = msgspec.structs.replace(change(self.record), raced_at=_now())
        write_record(part_path(self._root, self.record.fingerprint), self.record)

    def finish(self) -> Record:
        """Make the record in progress the finished one."""
        write_record(record_path(self._root, self.record.fingerprint), self.record)
        part_path(self._root, self.record.fingerprint).unlink(missing_ok=True)
        return self.record


def open_ledger(
    folder: ModelFolder, environment: Environment, settings: RaceSettings, *, fresh: bool
) -> tuple[Ledger, list[str]]:
    """The ledger to go on with: of a race in progress, of a finished one, or a new one; and what to tell the user.

    A record holds for the same fingerprint, model and settings; entrants whose package files changed are dropped.
    """
    root, fingerprint, model = folder.root, environment.fingerprint, folder.digest()
    notes: list[str] = []
    if not fresh:
        part, finished = part_path(root, fingerprint), record_path(root, fingerprint)
        for path, word in ((part, "resumed an interrupted race"), (finished, "reused the record of an earlier race")):
            found = read_record(path)
            if found is None or found.model_sha256 != model or found.fingerprint != fingerprint:
                continue
            if found.settings != settings:
                notes.append("raced again: batch sizes or inputs differ from those of the record")
                continue
            kept = tuple(entrant for entrant in found.entrants if _holds(entrant, folder))
            return Ledger(root, msgspec.structs.replace(found, entrants=kept, unmade={})), [word]
        notes += _why_invalid(folder, environment)
    else:
        part_path(root, fingerprint).unlink(missing_ok=True)
    record = Record(
        schema=SCHEMA,
        fingerprint=fingerprint,
        facts=dict(environment.fingerprint_facts()),
        model_sha256=model,
        settings=settings,
        raced_at=_now(),
    )
    return Ledger(root, record), notes


def find_record(folder: ModelFolder, environment: Environment) -> tuple[Record | None, list[str]]:
    """The finished record of a model for this environment, or None and what changed since the last one."""
    record = read_record(record_path(folder.root, environment.fingerprint))
    if record is not None and record.fingerprint == environment.fingerprint:
        if record.model_sha256 == folder.digest():
            return record, []
        return None, ["the record of an earlier race is of another model: race again"]
    return None, _why_invalid(folder, environment)


def whole_rounds(entrant: Entrant, rounds: int) -> Entrant:
    """The entrant without turns of rounds from `rounds` on: a round that was cut short is not comparable."""
    timings = tuple(
        BatchTiming(timing.batch, tuple(turn for turn in timing.turns if turn.round < rounds))
        for timing in entrant.timings
    )
    return msgspec.structs.replace(entrant, timings=timings)


def _holds(entrant: Entrant, folder: ModelFolder) -> bool:
    entry = folder.manifest.package(entrant.candidate.package_id)
    return entry is not None and package_sha256(entry) == entrant.package_sha256


def _why_invalid(folder: ModelFolder, environment: Environment) -> list[str]:
    newest = next(other_records(folder.root, environment.fingerprint), None)
    if newest is None:
        return []
    changes = changed_facts(newest.facts, environment.fingerprint_facts())
    return [f"the record of {newest.raced_at} does not hold here: {'; '.join(changes)}"]


def _now() -> str:
    return datetime.now(UTC).replace(microsecond=0).isoformat()
