"""The race from end to end: make candidates, check fidelity, time, decide, record.

Sequences the steps and holds the folder's lock meanwhile; each step is a module of its own. Runs no runtime in this
process.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from runoff.backends import table
from runoff.environment.describe import Environment, describe_environment
from runoff.errors import RaceError
from runoff.models.folder import ModelFolder, folder_lock, read_folder, update_package
from runoff.models.staging import staging
from runoff.race.candidates import Candidate, list_candidates
from runoff.race.check import Checker
from runoff.race.contestant import Contestant
from runoff.race.decide import Decision, decide
from runoff.race.inputs import RaceInputs, find_inputs, golden_inputs
from runoff.race.ledger import Ledger, open_ledger
from runoff.race.make import make_packages
from runoff.race.options import Event, Listener, RaceOptions, silent
from runoff.race.record import Entrant, RaceSettings, Record
from runoff.race.rounds import Stable, Timer, batches_of, rounds_done

_CONTENDER_FACTOR = 1.5
"""Beside a newcomer, those this close to the incumbent are timed again: absolute figures age."""
_MEMORY_LIMIT_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class RaceResult:
    """A finished race: the folder with its packages, what was found, and the decision under the race's objective."""

    folder: ModelFolder
    record: Record
    decision: Decision
    environment: Environment
    notes: tuple[str, ...]


def race_folder(folder: ModelFolder, options: RaceOptions | None = None, listener: Listener = silent) -> RaceResult:
    """Race every candidate of a model folder on this machine and record the outcome in the folder.

    Args:
        folder: a writable model folder.
        options: see `RaceOptions`.
        listener: told of every step.

    Raises:
        RaceError: there is no reference to compare with, or a batch size is below 1.
        FolderBusy: another race held the folder for longer than the lock timeout.
        UnknownName: a backend or candidate that does not exist.
    """
    options = options or RaceOptions()
    _check_options(options)
    with folder_lock(folder.root, lambda: listener(Event("wait", "another race holds the folder; waiting for it"))):
        environment = describe_environment()
        folder = read_folder(folder.root)
        inputs = find_inputs(folder, options)
        settings = RaceSettings(options.batches, inputs.name, inputs.samples)
        ledger, notes = open_ledger(folder, environment, settings, fresh=options.force)
        folder, unmade = make_packages(folder, environment, options.backends, listener)
        ledger.change(lambda record: msgspec.structs.replace(record, unmade=unmade))
        candidates = _candidates(folder, environment, options)
        with staging(folder.root) as work, ExitStack() as stack:
            _Race(folder, options, listener, ledger, work, stack).run(candidates, inputs)
        record = ledger.finish()
        folder = _write_fidelity(folder, record)
    listener(Event("done", "recorded"))
    decision = decide(folder.manifest, environment, options.wish(), record)
    return RaceResult(folder, record, decision, environment, tuple(notes))


@dataclass(slots=True)
class _Race:
    """The steps that need processes."""

    folder: ModelFolder
    options: RaceOptions
    listener: Listener
    ledger: Ledger
    work: Path
    stack: ExitStack

    def run(self, candidates: Sequence[Candidate], inputs: RaceInputs) -> None:
        newcomers = [candidate for candidate in candidates if self._is_unfinished(candidate)]
        if not newcomers:
            return
        stable = Stable.within_available_memory()
        self.stack.callback(stable.close)
        unchecked = [candidate for candidate in newcomers if not _is_checked(self.ledger, candidate)]
        if unchecked:
            self._check(unchecked, candidates, inputs, stable)
        again = self._contenders() if len(newcomers) < len(candidates) else []
        timed = [candidate.id for candidate in newcomers if self._can_run(candidate.id)]
        for name in again:
            entrant = self.ledger.record.entrant(name)
            if entrant is not None and name not in timed:
                self.ledger.put(msgspec.structs.replace(entrant, timings=(), retired=None))
                timed.append(name)
        timer = Timer(self.folder, self.options, inputs, self.work, self.ledger, self.listener, self._open)
        timer.run(timed, stable)

    def _check(
        self, unchecked: Sequence[Candidate], everyone: Sequence[Candidate], inputs: RaceInputs, stable: Stable
    ) -> None:
        checker = Checker(
            self.folder, inputs, self.work, max(self.options.batches), self.options.batches[0], self._memory_limit()
        )
        first = self._find_reference(checker, everyone, stable)
        for place, candidate in enumerate(unchecked):
            if candidate == first:
                continue
            self.listener(Event("check", candidate.id, place, len(unchecked)))
            self._settle(*checker.check(candidate), stable)
        self.listener(Event("check", "all checked", len(unchecked), len(unchecked)))

    def _settle(self, entrant: Entrant, contestant: Contestant | None, stable: Stable) -> None:
        self.ledger.put(entrant)
        if contestant is not None:
            stable.keep(contestant, entrant)

    def _find_reference(self, checker: Checker, everyone: Sequence[Candidate], stable: Stable) -> Candidate | None:
        """Set the outputs that the others are compared with; answers the reference candidate if they are its own."""
        plain = [c for c in everyone if c.package_id == self.folder.manifest.reference and not c.variant]
        why = "its backend is not installed"
        for candidate in plain[:1]:
            self.listener(Event("check", f"{candidate.id}, the reference"))
            entrant, contestant = checker.check(candidate)
            if entrant.failure is None:
                old = self.ledger.record.entrant(candidate.id)
                # Its earlier turns hold when it was only opened again to compare newcomers with.
                timings = old.timings if old else ()
                self._settle(msgspec.structs.replace(entrant, timings=timings), contestant, stable)
                self._set_reference_metric(entrant)
                return candidate
            why = entrant.failure
        golden = golden_inputs(self.folder)
        if golden is None:
            raise RaceError(
                f"the reference {self.folder.manifest.reference!r} cannot run here ({why}) and there is no golden pair",
                hint="install the reference's backend, or package the model again on a machine that has it",
            )
        checker.inputs, checker.reference = golden
        note = f"the reference cannot run here ({why}): checked against the golden pair"
        self.ledger.change(lambda record: msgspec.structs.replace(record, notes=(note,)))
        return None

    def _set_reference_metric(self, reference: Entrant) -> None:
        metric = reference.fidelity.metric if reference.fidelity else {}
        self.ledger.change(lambda record: msgspec.structs.replace(record, reference_metric=metric))

    def _open(self, entrant: Entrant) -> Contestant:
        """Open a candidate that was checked before."""
        package = self.folder.package(entrant.candidate.package_id)
        contestant = Contestant(package, entrant.candidate, self._memory_limit())
        try:
            contestant.open()
        except BaseException:
            contestant.close()
            raise
        return contestant

    def _is_unfinished(self, candidate: Candidate) -> bool:
        """Whether the record lacks the candidate's check or some of its rounds."""
        entrant = self.ledger.record.entrant(candidate.id)
        if entrant is None:
            return True
        if entrant.failure is not None or entrant.retired is not None:
            return False
        batches = batches_of(self.folder.package(candidate.package_id).entry, self.options)
        return rounds_done(entrant, batches) < self.options.rounds

    def _can_run(self, name: str) -> bool:
        entrant = self.ledger.record.entrant(name)
        return entrant is not None and entrant.failure is None

    def _contenders(self) -> list[str]:
        """Finished candidates that are close to the best of them."""
        batch = self.options.batches[0]
        p50 = {
            e.candidate.id: t.p50_ms for e in self.ledger.record.entrants if not e.failure and (t := e.timing(batch))
        }
        best = min(p50.values(), default=0.0)
        return [name for name, value in p50.items() if value <= best * _CONTENDER_FACTOR]

    def _memory_limit(self) -> int:
        total = int(psutil.virtual_memory().total * _MEMORY_LIMIT_SHARE)
        return min(total, self.options.max_memory_bytes or total)


def _check_options(options: RaceOptions) -> None:
    if not options.batches or min(options.batches) < 1:
        raise RaceError(f"batch sizes are {list(options.batches)}, expected numbers from 1")
    if options.num_threads is not None and (not options.num_threads or min(options.num_threads) < 1):
        raise RaceError(f"thread counts are {list(options.num_threads)}, expected numbers from 1")
    for name in options.backends or ():
        table.row(name)


def _candidates(folder: ModelFolder, environment: Environment, options: RaceOptions) -> list[Candidate]:
    """Candidates whose library is installed; the others are known to `decide` as rejected."""
    cores = environment.cpu.usable_cores
    threads = options.num_threads or tuple(dict.fromkeys((cores, 1)))
    backends = {table.row(name).id for name in options.backends} if options.backends else None
    rows = table.rows()
    usable = [
        entry
        for entry in folder.manifest.packages
        if entry.backend in rows
        and (backends is None or entry.backend in backends or entry.id == folder.manifest.reference)
        and _is_installed(rows[entry.backend].library, environment)
        and (entry.batch == "dynamic" or entry.batch in options.batches)
    ]
    return list_candidates(usable, threads, options.device, options.candidates)


def _is_installed(library: str | None, environment: Environment) -> bool:
    if library is None:
        return True
    facts = environment.libraries.get(library)
    return facts is not None and facts.version is not None and facts.problem is None


def _is_checked(ledger: Ledger, candidate: Candidate) -> bool:
    entrant = ledger.record.entrant(candidate.id)
    return entrant is not None and (entrant.failure is not None or entrant.fidelity is not None)


def _write_fidelity(folder: ModelFolder, record: Record) -> ModelFolder:
    """Put the figures of each package's plain candidate into the manifest."""
    for entry in folder.manifest.packages:
        plain = next(
            (e for e in record.entrants if e.candidate.package_id == entry.id and not e.candidate.variant), None
        )
        if plain is None or plain.fidelity is None or entry.id == folder.manifest.reference:
            continue
        if entry.fidelity != plain.fidelity:
            folder = update_package(folder.root, msgspec.structs.replace(entry, fidelity=plain.fidelity))
    return folder
