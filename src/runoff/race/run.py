"""The race from end to end: make candidates, check fidelity, time, decide, record.

Sequences the steps and holds the folder's lock meanwhile; each step is a module of its own. Runs no runtime in this
process.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runoff import settings as runoff_settings
from runoff.environment.describe import Environment, describe_environment
from runoff.errors import RaceError
from runoff.models.folder import ModelFolder, folder_lock, read_folder, update_package
from runoff.models.staging import remove_stale, staging
from runoff.race.candidates import Candidate
from runoff.race.check import Checker
from runoff.race.contestant import Contestant
from runoff.race.decide import Decision, decide, outside_contract
from runoff.race.fidelity import Contract
from runoff.race.field import checked_options, find_candidates, reference_candidate, without
from runoff.race.inputs import RaceInputs, find_inputs, golden_inputs
from runoff.race.ledger import Ledger, open_ledger, without_turns
from runoff.race.make import make_packages
from runoff.race.options import Event, Listener, RaceOptions, silent
from runoff.race.quantize import quantization_notes
from runoff.race.rank import cost
from runoff.race.record import Bounds, Entrant, RaceSettings, Record, records_folder
from runoff.race.rounds import RETIRE_AFTER_ROUNDS, Stable, Timer, batches_of, rounds_done
from runoff.race.shapes import leading_ways, shapes_of
from runoff.race.wanted import name_batches
from runoff.race.wish import Wish

_CONTENDER_FACTOR = 1.5
"""Beside a newcomer, those this close to the incumbent are timed again: absolute figures age."""
_MEMORY_LIMIT_SHARE = 0.9
"""The share of the memory that one candidate may use; it is stopped there before the machine is in trouble."""
_HEAT_MEMORY_SHARE = 0.7
"""The share of the available memory that the processes of one heat may hold together."""


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
    options = checked_options(options or RaceOptions())
    with folder_lock(folder.root, lambda: listener(Event("wait", "another race holds the folder; waiting for it"))):
        environment = describe_environment()
        folder = read_folder(folder.root)
        inputs = find_inputs(folder, options)
        settings = RaceSettings(options.batches, inputs.name, inputs.samples)
        remove_stale(folder.root)
        remove_stale(records_folder(folder.root))
        options = name_batches(folder, options)
        ledger, notes = open_ledger(folder, environment, settings, fresh=options.force)
        folder, unmade = make_packages(folder, environment, options, listener)
        # What was not tried this time keeps its reason.
        known = {} if options.backends is None else ledger.record.unmade
        ledger.change(lambda record: msgspec.structs.replace(record, unmade={**known, **unmade}))
        candidates = find_candidates(folder, environment, without(options, unmade))
        bounds = Bounds(_memory_limit(environment, options), runoff_settings.worker_timeout_s())
        stable = Stable(int(environment.memory.available_bytes * _HEAT_MEMORY_SHARE))
        with staging(folder.root) as work, ExitStack() as stack:
            stack.callback(stable.close)
            reference = reference_candidate(folder, environment, options)
            race = _Race(folder, options, listener, ledger, work, bounds, stable, inputs, reference)
            race.run(candidates, environment.cpu.usable_cores)
        record = ledger.finish()
        folder = _write_fidelity(folder, record)
        notes += quantization_notes(folder)
    listener(Event("done", "recorded"))
    decision = decide(folder.manifest, environment, options.wish(), record)
    return RaceResult(folder, record, decision, environment, tuple(notes))


@dataclass(slots=True)
class _Race:
    """The steps that need processes.

    Attributes:
        inputs: what is computed.
        reference: what the others are compared with; it need not compete. None where it cannot run.
    """

    folder: ModelFolder
    options: RaceOptions
    listener: Listener
    ledger: Ledger
    work: Path
    bounds: Bounds
    stable: Stable
    inputs: RaceInputs
    reference: Candidate | None

    def run(self, candidates: Sequence[Candidate], cores: int) -> None:
        """Check and time what the ledger lacks; for throughput the leaders with several sessions as well.

        Args:
            candidates: those that compete.
            cores: what one process may use.
        """
        batches = self.options.batches
        checker = Checker(self.folder, self.inputs, self.work, max(batches), batches[0], self.bounds)
        shapes = self._known_shapes(candidates)
        is_new = self._measure([*candidates, *shapes], checker)
        if self.options.objective != "throughput" or (shapes and not is_new):
            return
        leaders = leading_ways(self._eligible(candidates), cores)
        shapes = [
            shape
            for leader in leaders
            for shape in shapes_of(leader.candidate, cores, self.options.sessions, self.options.num_threads)
        ]
        self._measure([*candidates, *shapes], checker, beside=[one.candidate.id for one in leaders])

    def _measure(self, candidates: Sequence[Candidate], checker: Checker, beside: Sequence[str] = ()) -> bool:
        """Check and time those that the ledger lacks; whether there were any to time.

        Args:
            candidates: those that compete.
            checker: what compares them.
            beside: of them, those that newcomers are timed beside in any case.
        """
        unchecked = [candidate for candidate in candidates if self._is_unchecked(candidate)]
        if unchecked:
            self._check(unchecked, checker)
        timed = [candidate.id for candidate in candidates if self._is_untimed(candidate)]
        if not timed:
            return False
        timed += self._timed_beside(timed, {candidate.id for candidate in candidates}, beside)
        timer = Timer(
            self.folder,
            self.options,
            self.inputs,
            self.work,
            self.ledger,
            self.listener,
            self.bounds,
            self._open,
        )
        timer.run(timed, self.stable)
        return True

    def _known_shapes(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with several sessions that an earlier race for throughput entered."""
        if self.options.objective != "throughput":
            return []
        ways = {candidate.way for candidate in candidates}
        entered = [entrant.candidate for entrant in self.ledger.record.entrants]
        return [candidate for candidate in entered if candidate.sessions > 1 and candidate.way in ways]

    def _eligible(self, candidates: Sequence[Candidate]) -> list[Entrant]:
        """What is known of those that run and are right."""
        found = [self.ledger.record.entrant(candidate.id) for candidate in candidates]
        return [entrant for entrant in found if entrant and entrant.failure is None and self._is_right(entrant)]

    def _check(self, unchecked: Sequence[Candidate], checker: Checker) -> None:
        if checker.reference is None:
            self._find_reference(checker, is_newcomer=self.reference in unchecked)
        for place, candidate in enumerate(unchecked):
            if candidate == self.reference:
                continue
            self.listener(Event("check", candidate.id, place, len(unchecked)))
            self._settle(*checker.check(candidate))
        self.listener(Event("check", "all checked", len(unchecked), len(unchecked)))

    def _settle(self, entrant: Entrant, contestant: Contestant | None) -> None:
        if contestant is not None:
            self.stable.keep(contestant, entrant)
        old = self.ledger.record.entrant(entrant.candidate.id)
        if old is not None and old.failure is None and entrant.failure is None:
            # It was checked again at a larger batch: what was timed at others still holds.
            entrant = msgspec.structs.replace(entrant, timings=old.timings, retired=old.retired)
        self.ledger.put(entrant)

    def _find_reference(self, checker: Checker, *, is_newcomer: bool) -> None:
        """Set the outputs that the others are compared with: the reference's, else the golden ones."""
        why, candidate = "its backend is not installed", self.reference
        if candidate is not None:
            self.listener(Event("check", f"{candidate.id}, the reference"))
            entrant, contestant = checker.check(candidate)
            if is_newcomer:
                self._settle(entrant, contestant)
            elif contestant is not None:
                # It was only opened to compare newcomers with: what is known of it holds.
                contestant.close()
            if entrant.failure is None:
                self._set_reference_metric(entrant)
                return
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

    def _set_reference_metric(self, reference: Entrant) -> None:
        metric = reference.fidelity.metric if reference.fidelity else {}
        self.ledger.change(lambda record: msgspec.structs.replace(record, reference_metric=metric))

    def _open(self, entrant: Entrant) -> Contestant:
        """Open a candidate that was checked before."""
        package = self.folder.package(entrant.candidate.package_id)
        contestant = Contestant(package, entrant.candidate, self.bounds)
        try:
            contestant.open()
        except BaseException:
            contestant.close()
            raise
        return contestant

    def _is_unchecked(self, candidate: Candidate) -> bool:
        """Whether the record has no check of the candidate, or one that failed within narrower bounds than today's."""
        entrant = self.ledger.record.entrant(candidate.id)
        if entrant is None or entrant.failure is None:
            return entrant is None or entrant.fidelity is None or self._is_checked_smaller(entrant)
        within = entrant.failed_within
        return within is not None and (
            self.bounds.memory_bytes > within.memory_bytes or self.bounds.silence_s > within.silence_s
        )

    def _is_checked_smaller(self, entrant: Entrant) -> bool:
        """Whether its outputs were only compared at smaller batches than those that are timed now."""
        takes_any = self.folder.package(entrant.candidate.package_id).entry.batch == "dynamic"
        checked = entrant.checked_batch
        return takes_any and checked is not None and checked < max(self.options.batches)

    def _is_untimed(self, candidate: Candidate) -> bool:
        """Whether a candidate that is right lacks some of its rounds."""
        entrant = self.ledger.record.entrant(candidate.id)
        if entrant is None or entrant.failure is not None:
            return False
        # One that retired has as many rounds as it gets, at the batch sizes that it retired at.
        rounds = self.options.rounds if entrant.retired is None else min(RETIRE_AFTER_ROUNDS, self.options.rounds)
        return rounds_done(entrant, self._batches(entrant)) < rounds and self._is_right(entrant)

    def _batches(self, entrant: Entrant) -> tuple[int, ...]:
        return batches_of(self.folder.package(entrant.candidate.package_id).entry, self.options)

    def _is_right(self, entrant: Entrant) -> bool:
        """Whether an entrant is within the contract of this race, or the one that a caller has without naming any."""
        record, reference = self.ledger.record, self.folder.manifest.reference
        contracts = (self.options.contract, Contract())
        return any(outside_contract(entrant, record, reference, contract) is None for contract in contracts)

    def _timed_beside(self, untimed: Sequence[str], competing: Collection[str], named: Sequence[str]) -> list[str]:
        """Those that run beside candidates without all their rounds: from the start where one has none at all yet.

        Otherwise the race was interrupted, and they repeat the round that was cut short.
        """
        wanted = {*named, *(entrant.candidate.id for entrant in self._contenders())}
        timed = [entrant for entrant in self.ledger.record.entrants if entrant.candidate.id in wanted & {*competing}]
        beside = [entrant for entrant in timed if entrant.candidate.id not in untimed]
        known = [entrant for name in untimed if (entrant := self.ledger.record.entrant(name))]
        if not all(rounds_done(entrant, self._batches(entrant)) for entrant in known):
            for entrant in beside:
                self.ledger.put(without_turns(entrant, self._batches(entrant)))
        return [entrant.candidate.id for entrant in beside]

    def _contenders(self) -> list[Entrant]:
        """Timed entrants that are close to the best of those that run at the same precision."""
        # Of the other objectives none is measured in rounds.
        wish = Wish(objective="throughput" if self.options.objective == "throughput" else "latency")
        costs = {
            entrant.candidate.id: found
            for entrant in self.ledger.record.entrants
            if entrant.failure is None and (found := cost(entrant, wish, self.options.batches[0])) is not None
        }
        timed = [entrant for entrant in self.ledger.record.entrants if entrant.candidate.id in costs]
        best = {
            runs_at: min(costs[entrant.candidate.id] for entrant in timed if entrant.runs_at == runs_at)
            for runs_at in {entrant.runs_at for entrant in timed}
        }
        return [e for e in timed if costs[e.candidate.id] <= best[e.runs_at] * _CONTENDER_FACTOR]


def _memory_limit(environment: Environment, options: RaceOptions) -> int:
    usable = int(environment.memory.usable_bytes * _MEMORY_LIMIT_SHARE)
    return min(usable, options.max_memory_bytes or usable)


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
