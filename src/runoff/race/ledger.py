"""The record in the making: kept in memory, written to disk after every step, so that a killed race resumes.

Knows where records lie and when an old one still holds; measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def __init__(self, root: Path, record: Record, *, is_finished: bool = False) -> None:
        self._root = root
        self._is_finished = is_finished
        self.record = record

    def put(self, entrant: Entrant) -> None:
        """Add or replace an entrant and save."""
        self.change(lambda record: record.with_entrant(entrant))

    def change(self, change: Callable[[Record], Record]) -> None:
        """Change the record and save it as a race in progress; a change that changes nothing is none."""
        changed = change(self.record)
        if changed != self.record:
            self.record = msgspec.structs.replace(changed, raced_at=_now())
            self._is_finished = False
            write_record(part_path(self._root, self.record.fingerprint), self.record)

    def finish(self) -> Record:
        """Make the record in progress the finished one."""
        if not self._is_finished:
            write_record(record_path(self._root, self.record.fingerprint), self.record)
        part_path(self._root, self.record.fingerprint).unlink(missing_ok=True)
        return self.record


def open_ledger(
    folder: ModelFolder, environment: Environment, settings: RaceSettings, *, fresh: bool
) -> tuple[Ledger, list[str]]:
    """The ledger to go on with: of a race in progress, of a finished one, or a new one; and what to tell the user.

    A record holds for the same fingerprint, model and inputs; entrants whose package files changed are dropped. One of
    other batch sizes goes on with those of `settings`, first in the order; what was timed at the others is kept.
    """
    root, fingerprint = folder.root, environment.fingerprint
    part, finished = part_path(root, fingerprint), record_path(root, fingerprint)
    notes: list[str] = []
    if fresh:
        part.unlink(missing_ok=True)
    else:
        words = {part: "resumed an interrupted race", finished: "reused the record of an earlier race"}
        found = {path: record for path in words if (record := _read_own(path, folder, environment))}
        for path, old in found.items():
            if _asked_first(old.settings, settings):
                kept = tuple(entrant for entrant in old.entrants if _holds(entrant, folder))
                is_finished = path == finished and kept == old.entrants
                kept_record = msgspec.structs.replace(old, entrants=kept)
                return Ledger(root, kept_record, is_finished=is_finished), [words[path]]
        for old in found.values():
            if _same_inputs(old.settings, settings):
                return Ledger(root, _with_batches(old, settings.batches, folder)), [_kept_note(old, settings.batches)]
        differs = ["raced again: the inputs differ from those of the record"]
        notes = differs if found else _why_invalid(folder, environment)
    record = Record(
        schema=SCHEMA,
        fingerprint=fingerprint,
        facts=dict(environment.fingerprint_facts()),
        model_sha256=folder.digest(),
        settings=settings,
        raced_at=_now(),
    )
    return Ledger(root, record), notes


def find_record(folder: ModelFolder, environment: Environment) -> tuple[Record | None, list[str]]:
    """The finished record of a model for this environment, or None and what changed since the last one."""
    record = _read_own(record_path(folder.root, environment.fingerprint), folder, environment)
    return (record, []) if record else (None, _why_invalid(folder, environment))


def whole_rounds(entrant: Entrant, rounds: int, batches: Sequence[int]) -> Entrant:
    """The entrant without turns of rounds from `rounds` on: a round that was cut short is not comparable.

    Its timings at other batch sizes than `batches` stay as they are.
    """
    timings = tuple(
        BatchTiming(timing.batch, tuple(turn for turn in timing.turns if turn.round < rounds))
        if timing.batch in batches
        else timing
        for timing in entrant.timings
    )
    return msgspec.structs.replace(entrant, timings=timings)


def without_turns(entrant: Entrant, batches: Sequence[int]) -> Entrant:
    """The entrant as one that was not yet timed at these batch sizes."""
    kept = tuple(timing for timing in entrant.timings if timing.batch not in batches)
    return msgspec.structs.replace(entrant, timings=kept, retired=None)


def _same_inputs(old: RaceSettings, new: RaceSettings) -> bool:
    return (old.inputs, old.samples) == (new.inputs, new.samples)


def _asked_first(old: RaceSettings, new: RaceSettings) -> bool:
    """Whether a record is of the batch sizes that are asked for, perhaps followed by others."""
    return _same_inputs(old, new) and old.batches[: len(new.batches)] == new.batches


def _with_batches(old: Record, batches: tuple[int, ...], folder: ModelFolder) -> Record:
    """A record that goes on at other batch sizes; what failed may do better at a new one and is tried again."""
    merged = (*batches, *(batch for batch in old.settings.batches if batch not in batches))
    is_known = set(batches) <= set(old.settings.batches)
    kept = tuple(
        entrant for entrant in old.entrants if _holds(entrant, folder) and (is_known or entrant.failure is None)
    )
    return msgspec.structs.replace(old, settings=msgspec.structs.replace(old.settings, batches=merged), entrants=kept)


def _kept_note(old: Record, batches: tuple[int, ...]) -> str:
    others = [str(batch) for batch in old.settings.batches if batch not in batches]
    if not others:
        return "went on with the record of an earlier race"
    return f"timings at batch {', '.join(others)} are those of the race of {old.raced_at}"


def _holds(entrant: Entrant, folder: ModelFolder) -> bool:
    entry = folder.manifest.package(entrant.candidate.package_id)
    return entry is not None and package_sha256(entry) == entrant.package_sha256


def _read_own(path: Path, folder: ModelFolder, environment: Environment) -> Record | None:
    """The record at a path if it is of this model under this fingerprint."""
    record = read_record(path)
    if record is None or record.fingerprint != environment.fingerprint or record.model_sha256 != folder.digest():
        return None
    return record


def _why_invalid(folder: ModelFolder, environment: Environment) -> list[str]:
    """What to say of the records that are there and do not hold."""
    if read_record(record_path(folder.root, environment.fingerprint)) is not None:
        return ["the record of an earlier race is of another model"]
    newest = next(other_records(folder.root, environment.fingerprint), None)
    if newest is None:
        return []
    changes = changed_facts(newest.facts, environment.fingerprint_facts())
    return [f"the record of {newest.raced_at} does not hold here: {'; '.join(changes)}"]


def _now() -> str:
    return datetime.now(UTC).replace(microsecond=0).isoformat()
